"""Where a model's folder is: bundled with the package, on this machine, or downloaded from the hub."""

import os
from pathlib import Path

from ..errors import ModelNotFoundError
from ..names import CONFIG_FILE, HUB_ID

MODELS = Path(__file__).parents[1] / "models"  # bundled, a folder each


def find_model(name: str | os.PathLike) -> str:
    """The folder of a model.

    Args:
        name: a bundled model ('tiny'), a ModelScope model dir, or a model's id on ModelScope's hub, which
            is downloaded; without a network its copy in the cache will do.

    Raises:
        ModelNotFoundError: for an unknown name, or a model that can't be downloaded.
    """
    name = os.fspath(name)
    bundled = sorted(entry.name for entry in MODELS.iterdir() if entry.is_dir())
    if name in bundled and not os.path.isfile(os.path.join(name, CONFIG_FILE)):
        return str(MODELS / name)  # a folder here that happens to be called so is no model
    if os.path.isdir(name):
        return name
    if name.count("/") != 1 or name.startswith((".", "/", "~")):
        raise ModelNotFoundError(
            f"unknown model {name!r}: give one of {', '.join(bundled)}, a model dir, or a hub id "
            f"such as {HUB_ID}"
        )
    return _download(name)


def _download(model_id: str) -> str:
    from modelscope.hub.snapshot_download import snapshot_download

    try:
        return snapshot_download(model_id)
    except Exception as error:  # no network: what an earlier download left will do
        try:
            return snapshot_download(model_id, local_files_only=True)
        except Exception:
            raise ModelNotFoundError(
                f"model {model_id!r} can't be downloaded from the hub: {error}"
            ) from error
