"""Recordings and streams through a backend."""
