"""Spans of calls, exported to the host's trace forwarder. Imported where `agent.trace` asks for it. Decision 0112."""
