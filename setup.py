"""For tools that want a setup.py; everything is in pyproject.toml."""

from setuptools import setup

if __name__ == "__main__":  # ModelScope may import every .py of a model dir
    setup()
