"""Containers: their life cycle from the OCI spec of a request to the last trace removed."""
