"""The network arranged for inference on CPUs."""
