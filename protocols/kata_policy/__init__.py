"""Policies in Rego: the engine in its worker process, the request as its input, and what its answer means.

The agent asks it about every call, `kata-agent-ctl policy` about calls that are only written down.
"""
