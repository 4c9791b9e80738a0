"""`kata-agent-ctl`: one file per verb under `commands/`."""
