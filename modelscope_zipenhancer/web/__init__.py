"""Enhancing for others: a server, and the limits that a page and a server have in common."""
