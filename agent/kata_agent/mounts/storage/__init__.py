"""Storages of the wire: one file per driver, and who uses which mount point."""
