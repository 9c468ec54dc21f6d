"""A network's weights in a ModelScope model dir: loaded from any layout in use, saved in the released one."""

import os

import torch
from torch import Tensor

from ..errors import CheckpointError, ModelNotFoundError
from ..files import replacing
from ..names import WEIGHTS_FILE
from .config import ModelConfig
from .zipenhancer import ZipEnhancer


def load_model(model_dir: str, device: str = "cpu") -> ZipEnhancer:
    """The network of a ModelScope model dir (configuration.json, pytorch_model.bin), for inference.

    Raises ModelNotFoundError, ConfigError or CheckpointError.
    """
    model = ZipEnhancer(ModelConfig.from_model_dir(model_dir))
    load_weights(model, os.path.join(model_dir, WEIGHTS_FILE))
    return model.eval().requires_grad_(False).to(device)


def load_weights(model: ZipEnhancer, path: str) -> None:
    """Load a checkpoint in any of the layouts in use, strictly.

    {'generator': entries} is the released file's and what `save_weights` writes; {'state_dict':
    entries} with 'model.' before each name is the built-in trainer's; bare entries, with or
    without 'model.', are what ModelScope's save_pretrained and its trainer write.
    """
    if not os.path.isfile(path):
        raise ModelNotFoundError(f"{path} is missing: the model dir has no weights")
    try:
        checkpoint = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch raises many kinds here, pickle's among them
        raise CheckpointError(f"{path} can't be read as weights: {error}") from error
    entries = checkpoint
    for key in ("generator", "state_dict", "model"):
        if isinstance(entries, dict) and isinstance(entries.get(key), dict):
            entries = entries[key]
            break
    if not isinstance(entries, dict) or not all(isinstance(v, Tensor) for v in entries.values()):
        found = sorted(entries)[:8] if isinstance(entries, dict) else type(entries).__name__
        raise CheckpointError(f"{path} holds no ZipEnhancer weights but {found}")
    entries = {key.removeprefix("model."): value for key, value in entries.items()}
    expected = model.state_dict()
    wrong = [
        f"{len(names)} {what}: {', '.join(names[:4])}{', ...' if len(names) > 4 else ''}"
        for what, names in (
            ("missing", sorted(expected.keys() - entries.keys())),
            ("unknown", sorted(entries.keys() - expected.keys())),
            (
                "of another shape",
                sorted(k for k in expected.keys() & entries.keys() if expected[k].shape != entries[k].shape),
            ),
        )
        if names
    ]
    if wrong:
        raise CheckpointError(
            f"{path} doesn't fit the network of its configuration.json. Entries " + "; ".join(wrong)
        )
    model.load_state_dict(entries)


def save_weights(model: ZipEnhancer, path: str) -> None:
    """Write the released layout, {'generator': entries}, which the built-in loads too."""
    entries = {key: value.detach().cpu().clone() for key, value in model.state_dict().items()}
    with replacing(path) as temporary:
        torch.save({"generator": entries}, temporary)
