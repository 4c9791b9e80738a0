"""`python -m kata_init`."""

from kata_init.main import main

main()
