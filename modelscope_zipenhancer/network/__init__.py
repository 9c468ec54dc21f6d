"""The network: what it is, its weights, its signal. See docs/design.md for the floors."""
