"""PID 1 of the guest: boot, listening socket, supervision of the agent, exits and descriptors."""
