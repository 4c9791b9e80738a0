"""The guest's network: interfaces, routes, neighbours, packet filter."""
