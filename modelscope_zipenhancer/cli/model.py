"""The options of which model computes, and on what: the same in every command that loads one."""

from typing import Any


def add_model(parser) -> None:
    """The options --model, --device, --precision and --backend."""
    add = parser.add_argument_group("the model").add_argument
    add("--model", default="tiny", help="tiny (bundled, the default), a model dir, or a hub id")
    add("--device", help="cpu, cuda, cuda:1, mps; default: cuda if there is one (onnx: cpu)")
    add(
        "--precision",
        choices=("fp32", "bf16", "fp16"),
        default="fp32",
        help="bf16: faster on CPUs that have it; fp16: on GPUs",
    )
    add("--backend", default="torch", help="torch (the default), or onnx: starts faster, without torch")


def chosen(args) -> dict[str, Any]:
    """What they say, as `Enhancer.from_pretrained` takes it."""
    return {name: getattr(args, name) for name in ("model", "device", "precision", "backend")}
