"""Live upgrade: another agent's code goes on with everything this one holds (decision 0042)."""
