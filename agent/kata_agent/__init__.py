"""The guest agent: the only package that sees both the wire and the kernel. See docs/architecture.md."""
