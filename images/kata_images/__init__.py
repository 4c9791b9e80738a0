"""The guest image: a builder that makes kernel, initrd and manifest from Debian packages and locked wheels."""
