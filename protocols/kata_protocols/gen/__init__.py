"""Generated from `proto/` by `kata_protocols.generate`; never edited."""
