"""The wire of Kata Containers' agent: messages, sans-IO ttRPC, asyncio server and client, gRPC adapter.

Knows no operating system interface beyond sockets, and nothing of what the agent does with a request.
"""
