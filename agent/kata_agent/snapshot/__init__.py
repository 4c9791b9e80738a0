"""Before a machine is saved, and after a copy of it has come back."""
