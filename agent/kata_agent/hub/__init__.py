"""Confidential guests: initdata, the guest components, and the confidential data hub's client side."""
