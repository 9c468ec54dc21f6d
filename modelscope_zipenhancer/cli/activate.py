"""`zipenhancer activate` and `deactivate`: this package in every program of this Python."""

from ..plugin.pth import install_pth, remove_pth
from .output import say


def add_arguments(parser) -> None:
    """Neither has options."""


def run(args) -> int:
    """Run the command that was named; returns the exit code, or raises."""
    if args.command == "activate":
        say(f"active in every program of this Python, by {install_pth()}")
    elif path := remove_pth():
        say(f"no longer active: {path} is removed")
    else:
        say("it was not active")
    return 0
