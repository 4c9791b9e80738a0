"""ttRPC over sockets with asyncio: server, client, addresses."""
