"""What runs the network: backends behind one protocol (backend.py)."""
