"""Container Device Interface: files that say what a container needs of a device, applied to its specification."""
