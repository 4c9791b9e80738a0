"""Folders of the host's share, copied into the guest's memory so that programs hear of changes by inotify."""
