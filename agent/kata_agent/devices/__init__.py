"""Devices: their addresses, waiting for them, what containers get of them. `hotplug` says how to wait for one."""
