"""What a training run is: a JSON file, read with the user's settings laid over it.

{"model": a configuration.json's `model` section, or a model (name, id or folder) whose shape is taken
 "init":  a model whose shape and weights the run starts from, instead of `model`
 "data":  {"clean": DIR, "noise": DIR, "impulse_responses": DIR or nothing} and MixOptions,
          or {"noisy": DIR, "clean": DIR, "crop_samples": samples}
 "valid": {"clean": DIR, "noise": DIR, "snr": [dB, ...], "count": mixtures for each SNR, "seed": number}
 "train": TrainOptions}
"""

import contextlib
import json
import math
import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, fields, replace
from typing import Any, TypeVar

from ..errors import ConfigError
from ..network.config import ModelConfig
from ..network.pretrained import find_model
from . import losses
from .folders import AudioFolder
from .mixer import Mixer, MixOptions
from .pairs import PairFolder

CONFIGS = os.path.join(os.path.dirname(__file__), "configs")
OPTIMIZERS = ("adamw", "scaled_adam")
SCHEDULES = ("level", "cosine", "eden")
PRECISIONS = ("fp32", "bf16")
SECTIONS = ("model", "init", "data", "valid", "train")
VALID_KEYS = ("clean", "noise", "snr", "count", "seed")
RENAMED_LOSSES = {"missing": "over_suppression"}  # as configs may still have them

Options = TypeVar("Options", MixOptions, "TrainOptions")


@dataclass(frozen=True)
class TrainOptions:
    """How a run trains. ConfigError names a value that can't be.

    The rate rises over `warmup` steps. Then, by the schedule 'level', it stays and falls to 0 over the last
    `decay` of `steps`; by 'cosine' it falls to 0 by `steps`; by 'eden' it falls as Zipformer's does.
    """

    steps: int
    batch_size: int = 4  # items of each process
    learning_rate: float = 2e-3  # the highest; 0.04 for scaled_adam
    optimizer: str = "adamw"
    schedule: str = "level"
    warmup: int = 200  # steps, 1 or more
    decay: int = 0  # steps
    epoch_steps: int = 1000  # what the schedule 'eden' counts as an epoch
    seed: int = 0
    clip_norm: float = 5.0  # of the whole gradient
    ema_decay: float = 0.999  # of the weights' EMA, in each step, 0 to 1; less in a run's first steps
    dropout: float | None = None  # inside the feed-forward modules, 0 to 1; None: the model's own
    precision: str = "fp32"  # 'bf16': the network under autocast, for GPUs
    save_every: int = 100  # steps between checkpoints, and rows of the log
    valid_every: int = 500  # steps between validations; takes effect when a checkpoint is due
    # {loss: weight}; "metric" above 0 trains the PESQ discriminator along with the network
    weights: dict[str, float] = field(default_factory=lambda: dict(losses.WEIGHTS))

    def __post_init__(self) -> None:
        for key, known in (("optimizer", OPTIMIZERS), ("schedule", SCHEDULES), ("precision", PRECISIONS)):
            if getattr(self, key) not in known:
                raise ConfigError(f"train.{key} is {getattr(self, key)!r}, known are: {', '.join(known)}")
        for key in ("steps", "batch_size", "warmup", "epoch_steps", "save_every", "valid_every"):
            if not isinstance(getattr(self, key), int) or getattr(self, key) < 1:
                raise ConfigError(f"train.{key} is {getattr(self, key)!r}, expected a whole number from 1 on")
        for key in ("decay", "seed"):
            if not isinstance(getattr(self, key), int) or getattr(self, key) < 0:
                raise ConfigError(f"train.{key} is {getattr(self, key)!r}, expected a whole number from 0 on")
        ends = {"learning_rate": math.inf, "clip_norm": math.inf, "ema_decay": 1, "dropout": 1}
        for key, highest in ends.items():
            value = getattr(self, key)
            if not (_is_number(value) and 0 <= value <= highest or key == "dropout" and value is None):
                raise ConfigError(f"train.{key} is {value!r}, expected a number from 0 to {highest}")
        for key in self.weights:
            if key in RENAMED_LOSSES:
                raise ConfigError(f"train.weights.{key} is called train.weights.{RENAMED_LOSSES[key]} now")
        if self.weights.keys() - losses.WEIGHTS.keys():
            unknown = self.weights.keys() - losses.WEIGHTS.keys()
            raise ConfigError(f"train.weights: {_unknown(unknown, losses.WEIGHTS)}")
        for key, weight in self.weights.items():
            if not (_is_number(weight) and weight >= 0):
                raise ConfigError(f"train.weights.{key} is {weight!r}, expected a number from 0 on")


@dataclass(frozen=True)
class TrainConfig:
    """A whole run, as `read_config` reads it."""

    model: ModelConfig
    init: str | None  # the folder of the model whose weights the run starts from
    data: dict[str, Any]
    valid: dict[str, Any] | None  # what `validate.Validation` takes besides the run's folder
    train: TrainOptions

    def batches(self) -> Mixer | PairFolder:
        """Open the folders that the loop draws from.

        Raises:
            ConfigError: the folders are neither clean and noise nor noisy and clean, or an option is unknown.
            OptionError: an option has a value that can't be.
            AudioNotFoundError, AudioError: as AudioFolder and PairFolder raise them.
        """
        options = dict(self.data)
        folders = {key: options.pop(key, None) for key in ("clean", "noise", "noisy", "impulse_responses")}
        given = {key for key, folder in folders.items() if folder}
        if given == {"noisy", "clean"}:
            mixing = _fill(MixOptions(), options, "data")  # of which pairs need but the one
            return PairFolder(folders["noisy"], folders["clean"], mixing.crop_samples)
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


def read_config(name: str | os.PathLike, settings: Sequence[str] = ()) -> TrainConfig:
    """Read a bundled config ('tiny', 's', 'm') or a JSON file.

    Args:
        name: of a bundled config, or the file's path.
        settings: such as 'train.steps=500', laid over the config in turn. A value is JSON, or else a string.

    Raises:
        ConfigError: something is missing, unknown or of a value that can't be.
        ModelNotFoundError: the model that the config names can't be found.
    """
    name = os.fspath(name)
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
    if not isinstance(whole, dict):
        raise ConfigError(f"{path} holds {whole!r:.50}, expected an object with {', '.join(SECTIONS)}")
    if whole.keys() - set(SECTIONS):
        raise ConfigError(f"{path}: {_unknown(whole.keys() - set(SECTIONS), SECTIONS)}")
    for setting in settings:
        _set(whole, setting)
    for section in ("data", "valid", "train"):
        if not isinstance(whole.get(section) or {}, dict):
            raise ConfigError(f"{path}: {section!r} is {whole[section]!r}, expected an object")
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
    data, valid, train = (whole.get(section) or {} for section in ("data", "valid", "train"))
    if valid.keys() - set(VALID_KEYS):
        raise ConfigError(f"valid: {_unknown(valid.keys() - set(VALID_KEYS), VALID_KEYS)}")
    if valid and not (valid.get("clean") and valid.get("noise")):
        raise ConfigError("valid names no folders: give valid.clean and valid.noise, or leave valid out")
    snr = valid.get("snr", [0])
    if not (isinstance(snr, list) and snr and all(map(_is_number, snr))):
        raise ConfigError(f"valid.snr is {snr!r}, expected a list of numbers, in dB")
    for key, least in (("count", 1), ("seed", 0)):
        if not isinstance(valid.get(key, least), int) or valid.get(key, least) < least:
            raise ConfigError(f"valid.{key} is {valid[key]!r}, expected a whole number from {least} on")
    if "steps" not in train:
        raise ConfigError(f"{path}: train.steps is missing: --set train.steps=3000")
    weights = train.get("weights") or {}
    if not isinstance(weights, dict):
        raise ConfigError(f"{path}: train.weights is {weights!r}, expected an object")
    train = train | {"weights": losses.WEIGHTS | weights}
    return TrainConfig(model, init, data, valid or None, _fill(TrainOptions(1), train, "train"))


def _set(whole: dict[str, Any], setting: str) -> None:
    """Lay a setting, 'section.key=value', over the config."""
    key, equals, value = setting.partition("=")
    if not equals:
        raise ConfigError(f"--set {setting!r}: expected key=value, as in train.steps=500")
    with contextlib.suppress(ValueError):  # else a string, such as a path
        value = json.loads(value)
    *sections, last = key.split(".")
    if (first := [*sections, last][0]) not in SECTIONS:
        raise ConfigError(f"--set {setting!r}: {_unknown([first], SECTIONS)}, as in train.steps=500")
    for name in sections:
        whole = whole.setdefault(name, {})
        if not isinstance(whole, dict):
            raise ConfigError(f"--set {setting!r}: {name!r} is {whole!r}, nothing can be set in it")
    whole[last] = value


def _fill(options: Options, values: dict[str, Any], section: str) -> Options:
    """The options with these values, lists as tuples."""
    known = [f.name for f in fields(options)]
    if values.keys() - set(known):
        raise ConfigError(f"{section}: {_unknown(values.keys() - set(known), known)}")
    values = {key: tuple(value) if isinstance(value, list) else value for key, value in values.items()}
    return replace(options, **values)


def _is_number(value: object) -> bool:
    return isinstance(value, (int, float)) and math.isfinite(value)


def _unknown(keys: Iterable[str], known: Iterable[str]) -> str:
    return f"unknown {', '.join(sorted(keys))}; known are {', '.join(known)}"
