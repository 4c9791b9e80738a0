"""`python -m kata_agent`."""

from kata_agent.main import main

main()
