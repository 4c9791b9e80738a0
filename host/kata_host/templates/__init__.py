"""Templates: saved machines that new ones are copied from."""
