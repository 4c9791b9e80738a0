"""Thin handlers, one file per group of methods: decode, one call into the domain, encode."""
