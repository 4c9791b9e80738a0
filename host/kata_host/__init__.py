"""The host side: client library, virtual machines, and the tool `kata-agent-ctl`."""
