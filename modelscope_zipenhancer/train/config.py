"""What a training run is: a JSON file, read with the user's settings laid over it.

{"model": a configuration.json's `model` section, or a model whose shape is taken
 "init":  a model whose weights are gone on from, instead of `model`
 "data":  {"clean": DIR, "noise": DIR} or {"noisy": DIR, "clean": DIR}, and MixOptions
 "valid": {"clean": DIR, "noise": DIR, "snr": [dB, ...], "count": mixtures for each SNR}
 "train": TrainOptions}
"""

import contextlib
import json
import os
from dataclasses import dataclass, field, fields, replace

from ..network.pretrained import find_model
from ..errors import ConfigError
from ..network.config import ModelConfig
from . import losses
from .folders import AudioFolder
from .mixer import Mixer, MixOptions
from .pairs import PairFolder

CONFIGS = os.path.join(os.path.dirname(__file__), "configs")
OPTIMIZERS = ("adamw", "scaled_adam")
SCHEDULES = ("level", "cosine", "eden")
PRECISIONS = ("fp32", "bf16")


@dataclass(frozen=True)
class TrainOptions:
    """How a run trains.

    The rate rises over `warmup` steps. Then, of schedule 'level', it stays and falls to 0 over the last
    `decay` of `steps`; of 'cosine' it falls to 0 by `steps`; of 'eden' it falls as Zipformer's does.
    """

    steps: int
    batch_size: int = 4  # of each process
    learning_rate: float = 2e-3
    optimizer: str = "adamw"
    schedule: str = "level"
    warmup: int = 200
    decay: int = 0
    epoch_steps: int = 1000  # of schedule 'eden': what it counts as an epoch
    seed: int = 0
    clip_norm: float = 5.0
    ema_decay: float = 0.999
    dropout: float | None = None  # inside the feed-forward modules; None: the model's own
    precision: str = "fp32"  # 'bf16': the network under autocast, for GPUs
    save_every: int = 100
    valid_every: int = 500
    # "metric" above 0 trains the PESQ discriminator along with the network
    weights: dict = field(default_factory=lambda: dict(losses.WEIGHTS))

    def __post_init__(self):
        for key, known in (("optimizer", OPTIMIZERS), ("schedule", SCHEDULES), ("precision", PRECISIONS)):
            if getattr(self, key) not in known:
                raise ConfigError(f"train.{key} is {getattr(self, key)!r}, known are: {', '.join(known)}")
        for key in ("steps", "batch_size", "warmup", "epoch_steps", "save_every", "valid_every"):
            if not isinstance(getattr(self, key), int) or getattr(self, key) < 1:
                raise ConfigError(f"train.{key} is {getattr(self, key)!r}, expected a whole number from 1 on")
        unknown = self.weights.keys() - losses.WEIGHTS.keys()
        if unknown:
            raise ConfigError(f"train.weights: {_unknown(unknown, losses.WEIGHTS)}")


@dataclass(frozen=True)
class TrainConfig:
    model: ModelConfig
    init: str | None  # the folder of the model whose weights are gone on from
    data: dict
    valid: dict | None
    train: TrainOptions

    def batches(self):
        """What the loop draws from: a Mixer or a PairFolder. Opens the folders; AudioError, ..."""
        options = dict(self.data)
        folders = {key: options.pop(key, None) for key in ("clean", "noise", "noisy", "impulse_responses")}
        given = {key for key, folder in folders.items() if folder}
        if given == {"noisy", "clean"}:
            crop = options.get("crop_samples", MixOptions.crop_samples)
            return PairFolder(folders["noisy"], folders["clean"], crop)
        if given - {"impulse_responses"} != {"clean", "noise"}:
            raise ConfigError(
                f"data names the folders {', '.join(sorted(given)) or 'of nothing'}: give data.clean and "
                "data.noise to mix (--set data.clean=DIR data.noise=DIR), or data.noisy and data.clean"
            )
        responses = folders["impulse_responses"]
        return Mixer(
            AudioFolder(folders["clean"]),
            AudioFolder(folders["noise"]),
            _fill(MixOptions(), options, "data"),
            AudioFolder(responses) if responses else None,
        )


def read_config(name: str, settings: list = ()) -> TrainConfig:
    """Of a bundled config ('tiny', 's', 'm') or a JSON file, with settings such as 'train.steps=500'.

    A setting's value is JSON, or else a string. ConfigError names what is missing or not understood.
    """
    path = os.path.join(CONFIGS, f"{name}.json")
    path = path if os.path.isfile(path) else name
    try:
        with open(path, encoding="utf-8") as file:
            whole = json.load(file)
    except OSError as error:
        bundled = ", ".join(sorted(os.path.splitext(n)[0] for n in os.listdir(CONFIGS)))
        raise ConfigError(f"{name!r} is no file that can be read, nor one of {bundled}: {error}") from error
    except ValueError as error:
        raise ConfigError(f"{path} is no JSON: {error}") from error
    for setting in settings:
        _set(whole, setting)
    sections = ("model", "init", "data", "valid", "train")
    if whole.keys() - set(sections):
        raise ConfigError(f"{path}: {_unknown(whole.keys() - set(sections), sections)}")
    init, model = whole.get("init"), whole.get("model")
    if init:
        init = find_model(init)
        model = ModelConfig.from_model_dir(init)
    elif isinstance(model, str):
        model = ModelConfig.from_model_dir(find_model(model))
    elif isinstance(model, dict):
        model = ModelConfig.from_dict(model)
    else:
        raise ConfigError(
            f"{path}: 'model' is {model!r}, expected a section, or a model's name; or give 'init'"
        )
    if "steps" not in whole.get("train", {}):
        raise ConfigError(f"{path}: train.steps is missing: --set train.steps=3000")
    train = whole["train"] | {"weights": losses.WEIGHTS | whole["train"].get("weights", {})}
    return TrainConfig(
        model, init, whole.get("data", {}), whole.get("valid"), _fill(TrainOptions(1), train, "train")
    )


def _set(whole: dict, setting: str) -> None:
    key, equals, value = setting.partition("=")
    if not equals:
        raise ConfigError(f"--set {setting!r}: expected key=value, as in train.steps=500")
    with contextlib.suppress(ValueError):  # else a string, such as a path
        value = json.loads(value)
    *sections, last = key.split(".")
    for name in sections:
        whole = whole.setdefault(name, {})
        if not isinstance(whole, dict):
            raise ConfigError(f"--set {setting!r}: {name!r} is {whole!r}, nothing can be set in it")
    whole[last] = value


def _fill(options, values: dict, section: str):
    known = [f.name for f in fields(options)]
    if values.keys() - set(known):
        raise ConfigError(f"{section}: {_unknown(values.keys() - set(known), known)}")
    values = {key: tuple(value) if isinstance(value, list) else value for key, value in values.items()}
    return replace(options, **values)


def _unknown(keys, known) -> str:
    return f"unknown {', '.join(sorted(keys))}; known are {', '.join(known)}"
