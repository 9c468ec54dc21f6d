"""The `zipenhancer` command. Only here does the package print."""

import argparse
import os
import sys
import time

from . import __version__
from .errors import ZipEnhancerError


def main(argv: list | None = None) -> int:
    """Run the command; returns the exit code: 0 done, 1 failed, 2 called wrongly, 130 interrupted."""
    parser = argparse.ArgumentParser(
        prog="zipenhancer", description="Remove noise from recordings of speech."
    )
    parser.add_argument("--version", action="version", version=__version__)
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")

    enhance = commands.add_parser("enhance", help="denoise a recording")
    enhance.add_argument("input", help="an audio file or a URL")
    enhance.add_argument("-o", "--output", help="default: INPUT's name with _enhanced.wav, here")
    enhance.add_argument(
        "--model",
        default="tiny",
        help="'tiny' (bundled, the default), a hub id such as "
        "damo/speech_zipenhancer_ans_multiloss_16k_base, or a model dir",
    )
    enhance.add_argument("--device", help="cpu, cuda, cuda:1, mps; default: cuda if there is one")
    enhance.set_defaults(run=run_enhance)

    for name, text in (
        ("activate", "let ModelScope's pipelines run this package in every program of this Python"),
        ("deactivate", "take that back"),
    ):
        command = commands.add_parser(name, help=text)
        command.set_defaults(run=run_activate)

    args = parser.parse_args(argv)
    try:
        return args.run(args)
    except ZipEnhancerError as error:
        print(f"zipenhancer: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("zipenhancer: interrupted, nothing was written", file=sys.stderr)
        return 130


def run_enhance(args) -> int:
    from . import audio
    from .enhancer import Enhancer

    stem = os.path.splitext(os.path.basename(args.input.rstrip("/")))[0]
    output = args.output or f"{stem}_enhanced.wav"
    audio.check_output(output)
    if os.path.exists(args.input) and os.path.exists(output) and os.path.samefile(args.input, output):
        raise_same(output)
    enhancer = Enhancer.from_pretrained(args.model, args.device)
    started = time.perf_counter()
    seconds = enhancer.enhance_file(args.input, output)
    spent = time.perf_counter() - started
    print(
        f"{output}: {seconds:.1f} s of audio enhanced in {spent:.1f} s "
        f"(RTF {spent / seconds:.2f}) with model {args.model}"
    )
    return 0


def raise_same(path: str):
    from .errors import OutputError

    raise OutputError(f"the output {path!r} is the input: name another with -o")


def run_activate(args) -> int:
    from .activate import install_pth, remove_pth

    if args.command == "activate":
        print(f"active in every program of this Python, by {install_pth()}")
    elif path := remove_pth():
        print(f"no longer active: {path} is removed")
    else:
        print("it was not active")
    return 0
