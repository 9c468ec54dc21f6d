"""`zipenhancer export`: a model as an ONNX file."""

import argparse
import os

from ..names import CARD_ONNX_FILE, ONNX_FILE
from .output import say

EXAMPLES = f"""examples:
  zipenhancer export tiny -o {ONNX_FILE}
  zipenhancer export my_model/ -o my_model/{ONNX_FILE}    # for --backend onnx
  zipenhancer export my_model/ -o {CARD_ONNX_FILE} --form card
"""


def add_arguments(parser) -> None:
    """The options of `zipenhancer export`."""
    parser.description = (
        "Write a model as an ONNX file (opset 17), checked against PyTorch before it is there. Its input "
        "waveform is float32 (N, samples) at 16 kHz, its output enhanced has the same shape and level."
    )
    parser.epilog = EXAMPLES
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    add = parser.add_argument
    add("model", nargs="?", default="tiny", help="as enhance's --model (tiny)")
    add("-o", "--output", metavar="FILE", default=ONNX_FILE, help=f"({ONNX_FILE})")
    add(
        "--form",
        choices=("waveform", "card"),
        default="waveform",
        help="waveform: everything inside; card: the network alone, spectra in and out, as on the model card",
    )
    add(
        "--precision",
        choices=("fp32", "fp16"),
        default="fp32",
        help="fp16: weights stored in half precision; a smaller file of the same speed",
    )


def run(args) -> int:
    """Run the command; returns the exit code, or raises."""
    from ..network.pretrained import find_model
    from ..runtime.onnx_export import export_onnx

    path = export_onnx(find_model(args.model), args.output, args.form, args.precision)
    say(f"{path}: {os.path.getsize(path) / 1e6:.2f} MB, {args.form} form of model {args.model}")
    return 0
