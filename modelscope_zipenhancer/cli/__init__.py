"""The `zipenhancer` command. Only the command's files print: cli*.py."""

import argparse
import importlib
import os
import sys

from .. import __version__
from ..errors import OptionError, ZipEnhancerError
from . import activate as cli_activate
from . import enhance as cli_enhance
from . import info as cli_info
from .output import complain

EXIT_CODES = """exit codes:
  0    everything is done
  1    something failed: each failure is a line on stderr
  2    called wrongly: nothing has been done
  130  interrupted (Ctrl-C): what is done stays, --resume goes on from there"""

EXAMPLES = """examples:
  zipenhancer enhance noisy.wav -o clean.wav
  zipenhancer enhance recordings/ -o clean/ --jobs 4 --resume
  zipenhancer enhance 'recordings/**/*.flac' -o clean/ --format wav
  zipenhancer enhance talk.wav -o clean.wav --strength 15 --plot talk.png
  zipenhancer enhance - < noisy.wav > clean.wav
  arecord -t raw -f S16_LE -r 48000 | zipenhancer enhance - --rate 48000 |
    aplay -t raw -f S16_LE -r 48000
"""


def main(argv: list | None = None) -> int:
    """Run the command; returns the exit code, see EXIT_CODES."""
    argv = sys.argv[1:] if argv is None else argv
    args = make_parser(argv).parse_args(argv)
    try:
        return args.run(args)
    except OptionError as error:
        return complain(error, 2)
    except ZipEnhancerError as error:
        return complain(error, 1)
    except BrokenPipeError:
        # Python would complain again when it flushes stdout at its end.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return complain("the reader of stdout has gone", 1)
    except KeyboardInterrupt:
        return complain("interrupted, nothing was written", 130)


def make_parser(argv: list) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="zipenhancer",
        description="Remove noise from recordings of speech.",
        epilog=EXIT_CODES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="version", version=__version__)
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    enhance = commands.add_parser(
        "enhance",
        help="denoise recordings",
        description="Denoise recordings: files, URLs, folders with all below them, globs, or stdin.",
        epilog=f"{EXAMPLES}\n{EXIT_CODES}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    cli_enhance.add_arguments(enhance)
    enhance.set_defaults(run=cli_enhance.run)

    info = commands.add_parser("info", help="what a model is: size, cost, hash of its weights")
    info.add_argument("model", nargs="?", default="tiny", help="as enhance's --model (tiny)")
    info.add_argument("--json", action="store_true", help="as JSON")
    info.set_defaults(run=cli_info.run_info)

    for name, module, text in (
        ("evaluate", "evaluate", "measure how good the enhanced recordings are"),
        ("train", "train", "train a network, or fine-tune one"),
    ):
        command = commands.add_parser(name, help=text)
        if name in argv:  # else its imports would slow every command down
            module = importlib.import_module(f".{module}", __package__)
            module.add_arguments(command)
            command.set_defaults(run=module.run)

    for name, text in (
        ("activate", "let ModelScope's pipelines run this package in every program of this Python"),
        ("deactivate", "take that back"),
    ):
        commands.add_parser(name, help=text).set_defaults(run=cli_activate.run_activate)
    return parser
