"""The verbs of `kata-agent-ctl`; each module has `add_parser(subparsers)` and runs its verb."""
