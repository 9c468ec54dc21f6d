"""Audio as other packages hand it over: arrays with their rates, and objects that hold such or lead there.

    {"array", "sampling_rate", "path"}, {"bytes", "path"}    a cell of an Audio column of datasets
    AudioDecoder, AudioSamples                               torchcodec, and so datasets since 4.0
    (array, rate)                                            soundfile, librosa, torchaudio
    (rate, array)                                            scipy, gradio
    Recording, Cut                                           Lhotse

By what the objects have, not by their class: none of the packages is imported.
"""

from numbers import Real
from typing import Any, NamedTuple

import numpy as np

from ..errors import AudioError


class Waveform(NamedTuple):
    """Samples in an array or tensor, with their rate."""

    samples: Any
    sample_rate: int  # Hz
    channels_first: bool  # (channels, samples) for certain; else the shorter axis holds the channels


def unwrapped(source: Any) -> Any:
    """A Waveform, or a path or bytes, of what another package hands over; anything else as it is.

    Raises AudioError for a pair or a dict that isn't one of the above.
    """
    if isinstance(source, dict):
        return _cell(source)
    if isinstance(source, (tuple, list)):
        return _pair(source)
    if hasattr(source, "get_all_samples"):
        source = source.get_all_samples()
    if hasattr(source, "sample_rate") and hasattr(source, "data") and hasattr(source.data, "shape"):
        return Waveform(source.data, _rate(source.sample_rate), True)
    if hasattr(source, "load_audio") and hasattr(source, "sampling_rate"):
        samples = source.load_audio()
        if samples is None:
            raise AudioError(f"the {type(source).__name__} has no audio")
        return Waveform(samples, _rate(source.sampling_rate), True)
    return source


def _cell(cell: dict) -> Any:
    if cell.get("array") is not None:
        if cell.get("sampling_rate") is None:
            raise AudioError("the dict has an array without its sampling_rate")
        return Waveform(_array(cell["array"]), _rate(cell["sampling_rate"]), False)
    for name in ("bytes", "path"):
        if cell.get(name) is not None:
            return cell[name]
    names = sorted(map(str, cell))
    raise AudioError(f"a dict of {names} holds no audio: expected array and sampling_rate, bytes or path")


def _pair(pair: Any) -> Waveform:
    kind = type(pair).__name__
    if len(pair) == 2:
        one, other = pair
        if _is_rate(other) and not _is_rate(one):
            return Waveform(_array(one), _rate(other), False)
        if _is_rate(one) and not _is_rate(other):
            return Waveform(_array(other), _rate(one), False)
    raise AudioError(
        f"a {kind} of {len(pair)}: expected (array, rate) or (rate, array); samples alone as a numpy array"
    )


def _array(samples: Any) -> Any:
    try:
        return samples if hasattr(samples, "shape") else np.asarray(samples)
    except ValueError as error:  # rows of several lengths
        raise AudioError(f"the {type(samples).__name__} is no array: {error}") from error


def _is_rate(value: Any) -> bool:
    return isinstance(value, Real) or getattr(value, "shape", None) == ()


def _rate(rate: Any) -> int:
    try:
        if float(rate) == int(rate) > 0:
            return int(rate)
    except (TypeError, ValueError, OverflowError):  # no number, NaN, infinite
        pass
    raise AudioError(f"a sample rate of {rate} Hz: expected a whole number")
