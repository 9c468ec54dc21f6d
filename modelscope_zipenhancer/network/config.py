"""The shape of a ZipEnhancer network, read from and written to configuration.json's `model` section.

The keys are those of modelscope's own configuration (`dense_channel`, `former_conf`, ...), so
that one file describes a network to this package and to the built-in alike.
"""

import json
import os
from dataclasses import dataclass
from typing import Any, TypeGuard

from ..errors import ConfigError, ModelNotFoundError
from ..names import CONFIG_FILE, MODEL_TYPE, TASK

LARGEST = 1 << 16  # of any size here: beyond all that was ever trained, and safe to compute with
LARGEST_FACTOR = 101  # of a downsampling: the body has so many frequency bins


@dataclass(frozen=True)
class StackConfig:
    """One dual-path stack: `layers` pairs of Zipformer layers at 1/factor of the resolution."""

    time_factor: int = 1  # downsampling of the frames
    freq_factor: int = 1  # downsampling of the frequency bins
    layers: int = 1
    heads: int = 4
    query_dim: int = 12  # a head, as are the next two
    pos_head_dim: int = 4
    value_dim: int = 8
    feedforward_dim: int = 256  # of the second of three; the others have 3/4 and 5/4 of it
    kernel: int = 15  # of the depthwise convolutions, odd


@dataclass(frozen=True)
class ModelConfig:
    """Sizes of the network. The defaults are the released ZipEnhancer-S (2.04 M parameters)."""

    channels: int = 64
    pos_dim: int = 24  # of the relative positional encoding, even
    stacks: tuple = (StackConfig(), StackConfig(2, 2), StackConfig(2, 2), StackConfig())
    # A bin comes out at most so many times as large as the largest of the nine around it that went in; the
    # built-in has no bound, and takes no notice of this one.
    magnitude_bound: float | None = None
    dropout: float = 0.1  # in training, inside the feed-forward modules

    @classmethod
    def from_dict(cls, section: dict) -> "ModelConfig":
        """Read the `model` section of a configuration.json; ConfigError names what is not understood."""
        former = section.get("former_conf")
        if not isinstance(former, dict):
            raise ConfigError(f"configuration.json: model.former_conf is {former!r}, expected an object")
        _refuse(section, "model", model_num_spks=1)
        _refuse(former, "model.former_conf", causal=False)
        channels = _whole(section, "dense_channel", "model")

        time_factors = former.get("downsampling_factor")
        if not isinstance(time_factors, (list, tuple)) or not time_factors:
            raise ConfigError(
                f"configuration.json: model.former_conf.downsampling_factor is {time_factors!r}, "
                "expected a list with one number for each stack"
            )

        def column(key: str) -> tuple:
            """A value for each stack; one value, or a list of one, stands for all of them."""
            value = former.get(key)
            if key == "f_downsampling_factor" and value is None:
                value = time_factors
            values = list(value) if isinstance(value, (list, tuple)) else [value]
            if len(values) == 1:
                values = values * len(time_factors)
            if len(values) != len(time_factors) or not all(_is_whole(v) for v in values):
                raise ConfigError(
                    f"configuration.json: model.former_conf.{key} is {value!r}, expected a positive "
                    f"whole number, {LARGEST} at most, or a list of {len(time_factors)} of them"
                )
            return tuple(values)

        for dim in column("encoder_dim"):
            if dim != channels:
                raise ConfigError(
                    f"configuration.json: model.former_conf.encoder_dim has {dim}, unsupported: "
                    f"it must equal model.dense_channel, {channels}"
                )
        for factor in (*column("downsampling_factor"), *column("f_downsampling_factor")):
            if factor > LARGEST_FACTOR:
                raise ConfigError(
                    f"configuration.json: model.former_conf has a downsampling by {factor}, more than "
                    f"{LARGEST_FACTOR}"
                )
        for kernel in column("cnn_module_kernel"):
            if kernel % 2 == 0:
                raise ConfigError(
                    f"configuration.json: model.former_conf.cnn_module_kernel has {kernel}, must be odd"
                )
        pos_dim = _whole(former, "pos_dim", "model.former_conf")
        if pos_dim % 2:
            raise ConfigError(f"configuration.json: model.former_conf.pos_dim is {pos_dim}, must be even")
        bound = section.get("magnitude_bound")
        if not (bound is None or (_is_number(bound) and 1 <= bound <= LARGEST)):
            raise ConfigError(
                f"configuration.json: model.magnitude_bound is {bound!r}, expected a number from 1 to "
                f"{LARGEST}"
            )
        columns = (column(key) for key in _STACK_KEYS)
        return cls(channels, pos_dim, tuple(StackConfig(*row) for row in zip(*columns)), bound)

    def to_dict(self) -> dict:
        """The `model` section of a configuration.json that this package and the built-in read."""
        rows = [tuple(vars(stack).values()) for stack in self.stacks]
        former: dict[str, Any] = {key: list(values) for key, values in zip(_STACK_KEYS, zip(*rows))}
        former["encoder_dim"] = former["encoder_unmasked_dim"] = [self.channels] * len(self.stacks)
        former["pos_dim"] = self.pos_dim
        bound = {} if self.magnitude_bound is None else {"magnitude_bound": self.magnitude_bound}
        return {
            "type": MODEL_TYPE,
            "num_tsconformers": len(self.stacks),
            "dense_channel": self.channels,
            "former_conf": former,
            "batch_first": True,
            "model_num_spks": 1,
            **bound,
        }

    @classmethod
    def from_model_dir(cls, model_dir: str) -> "ModelConfig":
        """Read `model_dir`/configuration.json; ModelNotFoundError or ConfigError."""
        path = os.path.join(model_dir, CONFIG_FILE)
        try:
            with open(path, encoding="utf-8") as file:
                whole = json.load(file)
        except FileNotFoundError:
            raise ModelNotFoundError(f"{path} is missing: {model_dir} is no ModelScope model dir") from None
        except (ValueError, RecursionError) as error:
            raise ConfigError(f"{path} is no JSON: {error}") from error
        except OSError as error:
            raise ConfigError(f"{path} can't be read: {error.strerror or error}") from error
        section = whole.get("model") if isinstance(whole, dict) else None
        if not isinstance(section, dict):
            raise ConfigError(f"{path}: the object 'model' is missing")
        return cls.from_dict(section)


# configuration.json's name of each StackConfig field, in the fields' order
_STACK_KEYS = (
    "downsampling_factor",
    "f_downsampling_factor",
    "num_encoder_layers",
    "num_heads",
    "query_head_dim",
    "pos_head_dim",
    "value_head_dim",
    "feedforward_dim",
    "cnn_module_kernel",
)


def _is_whole(value: Any) -> TypeGuard[int]:
    return isinstance(value, int) and not isinstance(value, bool) and 0 < value <= LARGEST


def _is_number(value: Any) -> TypeGuard[float]:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def _whole(section: dict, key: str, where: str) -> int:
    value = section.get(key)
    if not _is_whole(value):
        raise ConfigError(
            f"configuration.json: {where}.{key} is {value!r}, expected a positive whole number, "
            f"{LARGEST} at most"
        )
    return value


def _refuse(section: dict, where: str, **supported: Any) -> None:
    for key, only in supported.items():
        if section.get(key, only) != only:
            raise ConfigError(
                f"configuration.json: {where}.{key} is {section[key]!r}, unsupported: only {only!r} is"
            )


def model_dir_configuration(config: ModelConfig) -> dict:
    """The whole configuration.json of a model dir that holds a network of this shape."""
    return {
        "framework": "pytorch",
        "task": TASK,
        "pipeline": {"type": MODEL_TYPE},
        "model": config.to_dict(),
    }
