"""Training of ZipEnhancer networks of any size: data, losses, loop."""
