"""Virtual machines: one file per VMM and per helper process; `base` is the interface they share."""
