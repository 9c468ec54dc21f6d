"""A network's weights in a ModelScope model dir: loaded from any layout in use, saved in the released one."""

import io
import os
import warnings
import zipfile

import torch
from torch import Tensor

from ..errors import CheckpointError, ModelNotFoundError
from ..files import replacing
from ..names import WEIGHTS_FILE
from .config import ModelConfig
from .pretrained import find_model
from .zipenhancer import ZipEnhancer


def load_model(model: str | os.PathLike, device: str = "cpu") -> ZipEnhancer:
    """The network of a model, for inference: `forward` and `denoise` of a torch.nn.Module.

    Args:
        model: a bundled one by name, a ModelScope model dir (configuration.json, pytorch_model.bin), or a
            model's id on ModelScope's hub, which is downloaded.
        device: of torch.

    Raises ModelNotFoundError, ConfigError or CheckpointError.
    """
    folder = find_model(model)
    network = load_network(ModelConfig.from_model_dir(folder), os.path.join(folder, WEIGHTS_FILE))
    return network.eval().requires_grad_(False).to(device)


def load_network(config: ModelConfig, path: str) -> ZipEnhancer:
    """A network of this shape with the weights of a file; in memory only once the file is known to have them.

    Raises ModelNotFoundError or CheckpointError.
    """
    entries = _read(path)
    layers = sum(stack.layers for stack in config.stacks)
    if layers > len(entries):
        raise CheckpointError(f"{path} has {len(entries)} entries, its configuration.json {layers} layers")
    with torch.device("meta"):
        _check_fits(ZipEnhancer(config), entries, path)
    with torch.device("cpu"):  # whatever the host's default device is
        model = ZipEnhancer(config)
        _fill(model, entries, path)
    return model


def load_weights(model: torch.nn.Module, path: str) -> None:
    """Load a checkpoint in any of the layouts in use into a network, strictly.

    {'generator': entries} is the released file's and what `save_weights` writes; {'state_dict':
    entries} with 'model.' before each name is the built-in trainer's; bare entries, with or
    without 'model.', are what ModelScope's save_pretrained and its trainer write.

    Raises ModelNotFoundError or CheckpointError.
    """
    entries = _read(path)
    _check_fits(model, entries, path)
    _fill(model, entries, path)


def _read(path: str) -> dict[str, Tensor]:
    """The entries of a checkpoint, without 'model.' before their names."""
    if not os.path.isfile(path):
        raise ModelNotFoundError(f"{path} is missing: the model dir has no weights")
    try:
        _check_archive(path)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of odd versions of pickle
            checkpoint = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch raises many kinds here, pickle's among them
        raise CheckpointError(f"{path} can't be read as weights: {error}") from error
    entries = checkpoint
    for key in ("generator", "state_dict", "model"):
        if isinstance(entries, dict) and isinstance(entries.get(key), dict):
            entries = entries[key]
            break
    if not isinstance(entries, dict) or not all(map(_is_entry, entries.items())):
        found = sorted(map(str, entries))[:8] if isinstance(entries, dict) else type(entries).__name__
        raise CheckpointError(f"{path} holds no ZipEnhancer weights but {found}")
    # Entries can share their memory: few, small ones do.
    size = sum(value.numel() * value.element_size() for value in entries.values())
    if size > 2 * os.path.getsize(path):
        raise CheckpointError(f"{path} holds less than its entries say, {size} bytes")
    return {key.removeprefix("model."): value for key, value in entries.items()}


def _check_archive(path: str) -> None:
    """ValueError for a ZIP archive that grows when it is read: torch.save compresses nothing."""
    with open(path, "rb") as file:
        if file.read(2) != b"PK":
            return
    with zipfile.ZipFile(path) as archive:
        size = sum(entry.file_size for entry in archive.infolist())
    if size > os.path.getsize(path):
        raise ValueError(f"its parts say {size} bytes, more than the file has")


def _is_entry(item: tuple) -> bool:
    """Whether (name, value) can be a weight: what can be copied into one, and is not from elsewhere."""
    key, value = item
    return (
        isinstance(key, str)
        and isinstance(value, Tensor)
        and (value.device.type, value.layout) == ("cpu", torch.strided)
        and not (value.is_complex() or value.is_quantized)
    )


def _check_fits(model: torch.nn.Module, entries: dict[str, Tensor], path: str) -> None:
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


def _fill(model: torch.nn.Module, entries: dict[str, Tensor], path: str) -> None:
    try:
        model.load_state_dict(entries)
    except (RuntimeError, NotImplementedError) as error:  # a type that can't be converted
        raise CheckpointError(f"{path} doesn't fit the network: {error}") from error
    wrong = [key for key, value in model.state_dict().items() if not value.isfinite().all()]
    if wrong:
        raise CheckpointError(f"{path} has NaN or infinite weights: {', '.join(wrong[:4])}")


def save_weights(model: ZipEnhancer, path: str) -> None:
    """Write the released layout, {'generator': entries}, which the built-in loads too."""
    entries = {key: value.detach().cpu().clone() for key, value in model.state_dict().items()}
    save({"generator": entries}, path)


def save(state: dict, path: str) -> None:
    """torch.save, whole or not at all; OutputError if it can't be written (torch has an error of its own)."""
    buffer = io.BytesIO()
    torch.save(state, buffer)
    with replacing(path) as temporary, open(temporary, "wb") as file:
        file.write(buffer.getbuffer())
