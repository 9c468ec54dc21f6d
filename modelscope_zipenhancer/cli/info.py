"""`zipenhancer info`: what a model is."""

import json

from .output import say


def add_arguments(parser) -> None:
    """The options of `zipenhancer info`."""
    parser.add_argument("model", nargs="?", default="tiny", help="as enhance's --model (tiny)")
    parser.add_argument("--json", action="store_true", help="as JSON")


def run(args) -> int:
    """Run the command; returns the exit code, or raises."""
    from ..network.summary import describe  # which imports torch: not for --help
    from ..runtime.cpu.native.library import status

    card = {**describe(args.model), "cpu": status()}
    if args.json:
        say(json.dumps(card, indent=1))
        return 0
    stacks = ", ".join(f"{s['time_factor']}x{s['freq_factor']}" for s in card["stacks"])
    shape = f"{len(card['stacks'])} stacks (downsampling {stacks}), {card['channels']} channels"
    say(
        f"""\
model       {card["model"]}, in {card["folder"]}
parameters  {card["parameters"]:,} in {shape}
cost        {card["flops_per_second"] / 1e9:.2f} GFLOPs for a second of audio at 16 kHz
weights     {card["checkpoint"]}, {card["bytes"] / 1e6:.2f} MB
sha256      {card["sha256"]}
on CPUs     {card["cpu"]}"""
    )
    return 0
