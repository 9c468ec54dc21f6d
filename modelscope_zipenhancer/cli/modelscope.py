"""`modelscope zipenhancer ...`: our command as one of ModelScope's (entry point modelscope_hub.cli_plugins).

ModelScope's command loads this module whatever it is asked for, `modelscope server` too; and importing this
package makes ModelScope use it. So keep it light.
"""

import argparse
from typing import Any


class ZipEnhancerCommand:
    """What modelscope_hub.cli wants of a command: a name, `register`, and `execute` of an instance."""

    name = "zipenhancer"

    def __init__(self, args: argparse.Namespace) -> None:
        self.args = args

    @staticmethod
    def register(subparsers: Any) -> None:
        # No argument begins with \0: all of them are left to our own parser.
        parser = subparsers.add_parser(
            ZipEnhancerCommand.name,
            help="Remove noise from recordings of speech.",
            add_help=False,
            prefix_chars="\0",
        )
        parser.add_argument("arguments", nargs=argparse.REMAINDER)
        parser.set_defaults(_command=ZipEnhancerCommand)

    def execute(self) -> None:
        from . import main

        raise SystemExit(main(self.args.arguments, "modelscope zipenhancer"))
