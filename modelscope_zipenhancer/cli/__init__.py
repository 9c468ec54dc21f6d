"""The `zipenhancer` command. Only this folder prints, and nobody imports it."""

import argparse
import importlib
import os
import sys

from .. import __version__
from ..errors import OptionError, ZipEnhancerError
from .output import EXIT_CODES, complain

# name: (its module here, with `add_arguments(parser)` and `run(args) -> exit code`; what it does)
COMMANDS = {
    "enhance": ("enhance", "denoise recordings"),
    "corpus": ("corpus", "denoise millions of recordings: manifests, tar shards, datasets"),
    "info": ("info", "what a model is: size, cost, hash of its weights"),
    "evaluate": ("evaluate", "measure how good the enhanced recordings are"),
    "train": ("train", "train a network, or fine-tune one"),
    "export": ("export", "write a model as an ONNX file, for programs without torch"),
    "demo": ("demo", "a page in the browser to try a model on"),
    "serve": ("serve", "serve the model over HTTP: recordings, and streams by WebSocket"),
    "activate": ("activate", "let ModelScope's pipelines run this package in every program of this Python"),
    "deactivate": ("activate", "take that back"),
}


def main(argv: list | None = None, prog: str = "zipenhancer") -> int:
    """Run the command, which help calls `prog`; returns the exit code, see EXIT_CODES."""
    argv = sys.argv[1:] if argv is None else argv
    try:
        args = make_parser(argv, prog).parse_args(argv)
        return args.run(args)
    except OptionError as error:
        return complain(error, 2)
    except ZipEnhancerError as error:
        return complain(error, 1)
    except BrokenPipeError:
        # Python would complain again when it flushes stdout at its end.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return complain("the reader of stdout has gone", 1)
    except OSError as error:  # stdout, say, on a full disk
        return complain(error, 1)
    except KeyboardInterrupt:
        return complain("interrupted, nothing was written", 130)


def make_parser(argv: list, prog: str = "zipenhancer") -> argparse.ArgumentParser:
    """The parser for these arguments: only the command that they name is imported."""
    parser = argparse.ArgumentParser(
        prog=prog,
        description="Remove noise from recordings of speech.",
        epilog=EXIT_CODES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="version", version=__version__)
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    for name, (module, text) in COMMANDS.items():
        command = commands.add_parser(name, help=text)
        if argv[:1] == [name]:
            module = importlib.import_module(f".{module}", __package__)
            module.add_arguments(command)
            command.set_defaults(run=module.run)
    return parser
