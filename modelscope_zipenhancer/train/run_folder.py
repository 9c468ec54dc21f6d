"""The folder of a run: checkpoint.pt, to resume from, log.csv, valid.csv, and a ModelScope model dir."""

import csv
import json
import logging
import os
from collections.abc import Mapping
from typing import Any

import torch

from ..errors import CheckpointError
from ..files import replacing
from ..names import CONFIG_FILE, WEIGHTS_FILE
from ..network.checkpoint import save, save_weights
from ..network.config import model_dir_configuration
from ..network.zipenhancer import ZipEnhancer

logger = logging.getLogger(__name__)

CHECKPOINT_FILE = "checkpoint.pt"
# Of a part in checkpoints that were written before it was renamed.
FORMER_NAMES = {"ema": "average", "discriminator": "judge", "discriminator_optimizer": "judge_optimizer"}


def save_model_dir(model: ZipEnhancer, model_dir: str | os.PathLike) -> None:
    """Write configuration.json and pytorch_model.bin into a folder; OutputError if they can't be written."""
    path = os.path.join(model_dir, CONFIG_FILE)
    with replacing(path) as temporary, open(temporary, "w", encoding="utf-8") as file:
        json.dump(model_dir_configuration(model.config), file, indent=2)
        file.write("\n")
    save_weights(model, os.path.join(model_dir, WEIGHTS_FILE))


def save_checkpoint(folder: str | os.PathLike, parts: Mapping[str, Any], optimizer: str, step: int) -> None:
    """Write all that it takes to resume at `step`.

    parts: what has a `state_dict()`, by name. optimizer: the kind of it, as TrainOptions has it.
    """
    state = {name: part.state_dict() for name, part in parts.items()}
    save(state | {"step": step, "kind": optimizer}, os.path.join(folder, CHECKPOINT_FILE))


def resume(
    folder: str | os.PathLike, parts: Mapping[str, Any], optimizer: str, device: torch.device | str
) -> int:
    """Load `parts` from the folder's checkpoint; returns the step to resume at, 0 if there is no checkpoint.

    Raises CheckpointError for one that is damaged, or of a run with other settings.
    """
    path = os.path.join(folder, CHECKPOINT_FILE)
    if not os.path.exists(path):
        return 0
    try:
        state = torch.load(path, map_location=device, weights_only=True)
        if state["kind"] != optimizer:
            raise ValueError(f"its optimiser is {state['kind']}, not {optimizer}")
        for name, part in parts.items():
            part.load_state_dict(state[name if name in state else FORMER_NAMES.get(name, name)])
    except Exception as error:  # torch raises many kinds for a file that isn't what it should be
        raise CheckpointError(
            f"{path} can't be resumed from, it is damaged or of a run with other settings: choose another "
            f"folder, or remove it ({error})"
        ) from error
    logger.info("resumed at step %d of %s", state["step"], path)
    return state["step"]


def add_row(path: str | os.PathLike, step: int, row: Mapping[str, float]) -> None:
    """Add a row to a table (CSV) and say it in the log.

    Rows of this step on, of a run that was killed before its next checkpoint, are replaced.
    """
    row = {"step": step, **row}
    logger.info("%s", " ".join(f"{name} {value:.4g}" for name, value in row.items()))
    before = []
    if os.path.exists(path):
        with open(path, newline="", encoding="utf-8") as file:
            before = [line for line in csv.DictReader(file) if int(line["step"]) < step]
    names = list(dict.fromkeys(key for line in [*before, row] for key in line))
    with replacing(path) as temporary, open(temporary, "w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, names)
        writer.writeheader()
        writer.writerows([*before, row])
