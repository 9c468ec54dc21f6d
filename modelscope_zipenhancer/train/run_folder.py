"""A run's folder: `checkpoint.pt` (everything to go on), `log.csv`, `valid.csv`, a ModelScope model dir."""

import csv
import json
import logging
import os

import torch

from ..errors import CheckpointError
from ..files import replacing
from ..names import CONFIG_FILE, WEIGHTS_FILE
from ..network.checkpoint import save_weights
from ..network.config import model_dir_configuration
from ..network.zipenhancer import ZipEnhancer

logger = logging.getLogger(__name__)


def save_model_dir(model: ZipEnhancer, model_dir: str) -> None:
    """configuration.json and weights, as ModelScope's model dirs have them."""
    path = os.path.join(model_dir, CONFIG_FILE)
    with replacing(path) as temporary, open(temporary, "w", encoding="utf-8") as file:
        json.dump(model_dir_configuration(model.config), file, indent=2)
        file.write("\n")
    save_weights(model, os.path.join(model_dir, WEIGHTS_FILE))


def _save(path: str, parts: dict, kind: str, step: int) -> None:
    state = {name: part.state_dict() for name, part in parts.items()}
    with replacing(path) as temporary:
        torch.save(state | {"step": step, "kind": kind}, temporary)


def _resume(path: str, parts: dict, kind: str, device) -> int:
    """The step to go on from, 0 without a checkpoint."""
    if not os.path.exists(path):
        return 0
    try:
        state = torch.load(path, map_location=device, weights_only=True)
        if state["kind"] != kind:
            raise ValueError(f"its optimiser is {state['kind']}, not {kind}")
        for name, part in parts.items():
            part.load_state_dict(state[name])
    except Exception as error:  # torch raises many kinds for a file that isn't what it should be
        raise CheckpointError(
            f"{path} can't be gone on from, it is damaged or of a run with other settings: choose another "
            f"folder, or remove it ({error})"
        ) from error
    logger.info("going on from step %d of %s", state["step"], path)
    return state["step"]


def _log(path: str, step: int, row: dict) -> None:
    """Add a line; those of this step on, of a run that was killed before its checkpoint, go."""
    row = {"step": step, **row}
    logger.info("%s", " ".join(f"{k} {v:.4g}" for k, v in row.items()))
    before = []
    if os.path.exists(path):
        with open(path, newline="", encoding="utf-8") as file:
            before = [line for line in csv.DictReader(file) if int(line["step"]) < step]
    names = list(dict.fromkeys(key for line in [*before, row] for key in line))
    with replacing(path) as temporary, open(temporary, "w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, names)
        writer.writeheader()
        writer.writerows([*before, row])
