"""The kernel, one file per interface: synchronous, typed, no policy; errors tell operation and path."""
