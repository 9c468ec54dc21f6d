"""Any source to samples and their rate; files out."""
