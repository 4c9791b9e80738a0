"""Mounts: option words, plans as data, their application with undo, and the storage drivers."""
