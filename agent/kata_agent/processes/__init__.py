"""Processes: starting them, their exits, streams, terminals and signals."""
