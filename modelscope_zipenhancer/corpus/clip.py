"""One recording of many: read, enhanced, measured and written, with what goes wrong in its result."""

import logging
import os
import re
import threading
import time
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import soundfile

from ..audio.policy import without_password
from ..audio.read import load
from ..audio.samples import BLOCK, Recording
from ..audio.write import check_format, check_output, encode
from ..enhance.enhancer import Enhancer
from ..errors import AudioError, AudioNotFoundError, FetchError, ZipEnhancerError
from ..runtime.backend import Backend, preferred_batch_size
from ..worker_process import alive
from . import storage
from .find import Job
from .report import Levels, Result

logger = logging.getLogger(__name__)
PACKAGE = logging.getLogger(__name__.partition(".")[0])

FULL_SCALE = 1 - 2**-15  # the largest sample of 16 bits: what is there has been clipped, as a rule
SEEKABLE = {"WAV", "WAVEX", "RF64", "W64", "FLAC", "AIFF", "AU", "CAF"}  # to the sample
PAUSE = 0.5  # seconds before a second attempt; each further one waits twice as long

Progress = Callable[[int, int], None]


class Enhanced(NamedTuple):
    """A recording in the format of its output, and its numbers."""

    data: bytes
    seconds: float
    sample_rate: int
    levels: Levels


def run_job(
    enhancer: Enhancer, job: Job, options: dict, progress: Progress | None = None, retries: int = 0
) -> Result:
    """Enhance one recording into its file; what goes wrong is in the result.

    Args:
        options: those of Enhancer.enhance_file.
        retries: how often what may pass is tried again: a network, a disk that answers with an error, an
            exception that isn't of this package.

    Raises:
        storage.FullError, which would meet all that follow too.
    """

    def work() -> Enhanced:
        bits, bitrate = options.get("bits"), options.get("bitrate")
        if storage.is_remote(job.output):
            check_format(job.output, options.get("output_rate"), None, bits, bitrate)
        else:
            storage.make_folder(os.path.dirname(job.output))
            check_output(job.output, bits=bits, bitrate=bitrate)
        enhanced = enhance(enhancer, read(job, options), job.output, options, progress)
        storage.write(job.output, enhanced.data)
        return enhanced

    return result_of(work, job.source, job.output, retries)


def result_of(work: Callable[[], Enhanced], source: str, output: str, retries: int = 0) -> Result:
    """A Result of what work() returns or raises; it is called again where that may help."""
    source = without_password(source)
    started = time.perf_counter()
    for attempt in range(retries + 1):
        with Warnings() as warnings:
            try:
                done = work()
            except storage.FullError:
                raise
            except Exception as error:
                if attempt < retries and _may_pass(error):
                    logger.debug("%s: attempt %d: %s", source, attempt + 1, error)
                    time.sleep(PAUSE * 2**attempt)
                    continue
                if not isinstance(error, ZipEnhancerError):
                    logger.debug("%s", source, exc_info=True)
                    error = f"{source!r}: {type(error).__name__}: {error}"
                return Result(source, output, "failed", error=" ".join(str(error).split()))
        break
    return Result(
        source,
        output,
        "done",
        done.seconds,
        time.perf_counter() - started,
        warnings=tuple(warnings.said),
        sample_rate=done.sample_rate,
        levels=done.levels,
    )


def _may_pass(error: Exception) -> bool:
    if isinstance(error, FetchError) or not isinstance(error, ZipEnhancerError):
        return True
    return isinstance(error.__cause__, OSError) and not isinstance(error, AudioNotFoundError)


def read(job: Job, options: dict) -> Recording:
    """The recording of a job, or the part of it that is meant."""
    strict, part = options.get("strict", False), job.seconds is not None or job.start or job.channels
    remote = storage.is_remote(job.source)
    if not part:
        return load(storage.read_source(job.source) if remote else job.source, strict=strict)
    if not remote and not re.match(r"https?://", job.source, re.IGNORECASE):
        recording = _read_part(job, strict)
        if recording:
            return recording
    x, rate, warnings = load(storage.read_source(job.source) if remote else job.source, strict=strict)
    start, stop = _samples(job, rate)
    return _part(job, x[start:stop], rate, stop, warnings)


def _read_part(job: Job, strict: bool) -> Recording | None:
    """The part of a local file, without reading the rest; None where that can't be had to the sample.

    None, too, where the file has less than the part: the whole is read then. It may have more than its header
    says, or, if `strict`, be refused because it was cut off.
    """
    with storage.open_source(job.source) as file:
        try:
            with soundfile.SoundFile(file) as sound:
                if sound.format not in SEEKABLE:
                    return None
                rate = sound.samplerate
                start, stop = _samples(job, rate)
                if start >= sound.frames or (strict if stop is None else stop > sound.frames):
                    return None
                sound.seek(start)
                x = sound.read(-1 if stop is None else stop - start, "float32", always_2d=True)
        except (soundfile.SoundFileError, RuntimeError):
            return None  # the whole is read otherwise, or has an error that says more
    return load_array(_part(job, x, rate, stop, ()))


def _samples(job: Job, rate: int) -> tuple[int, int | None]:
    start = round(job.start * rate)
    return start, None if job.seconds is None else start + round(job.seconds * rate)


def _part(job: Job, x: np.ndarray, rate: int, stop: int | None, warnings: tuple[str, ...]) -> Recording:
    """Some channels of (samples, channels), with a warning where the end of the part is missing."""
    if not len(x):
        raise AudioError(f"{job.source!r} ends before {job.start:g} s, where a part of it starts")
    missing = 0 if stop is None else stop - round(job.start * rate) - len(x)
    if missing > rate // 100:  # a duration in a manifest is rounded
        warnings += (f"{missing / rate:.2f} s are missing: the part goes beyond the end",)
    if job.channels:
        if max(job.channels) >= x.shape[1]:
            raise AudioError(f"{job.source!r} has {x.shape[1]} channels: there is no {max(job.channels)}")
        x = x[:, list(job.channels)]
    return Recording(x, rate, warnings)


def load_array(recording: Recording) -> Recording:
    """The recording, checked as `audio.read` checks arrays: no NaN."""
    return recording._replace(samples=load(recording.samples, recording.sample_rate).samples)


def enhance(
    enhancer: Enhancer, recording: Recording, name: str, options: dict, progress: Progress | None = None
) -> Enhanced:
    """A recording enhanced and encoded in the format that the suffix of `name` says."""
    options = dict(options)
    options.pop("strict", None)
    bits, bitrate = options.pop("bits", None), options.pop("bitrate", None)
    for warning in recording.warnings:
        logger.warning("%s: %s", name, warning)

    def report(done: int, samples: int) -> None:
        alive()
        if progress:
            progress(done, samples)

    x, rate = recording.samples, recording.sample_rate
    meter = Meter(enhancer.backend)
    alive()
    y = Enhancer(meter).enhance(x, rate, progress=report, **options)
    target = int(options.get("output_rate") or rate)
    check_format(name, target, y.shape[1], bits, bitrate)
    before = level(x)
    levels = Levels(before, level(y), meter.noise_level(before), int(np.count_nonzero(at_full_scale(x))))
    data = encode(y, target, os.path.splitext(name)[1].lower(), bits=bits, bitrate=bitrate, name=repr(name))
    alive()
    return Enhanced(data, len(y) / target, target, levels)


class Meter:
    """A backend that measures how much is taken away by the one that it hands on to."""

    def __init__(self, backend: Backend) -> None:
        self.backend, self.preferred_batch_size = backend, preferred_batch_size(backend)
        self.came, self.went = 0.0, 0.0  # energies

    def __call__(self, waveform: np.ndarray, gain: np.ndarray | None = None) -> np.ndarray:
        """`Backend.__call__`."""
        clean = self.backend(waveform) if gain is None else self.backend(waveform, gain)
        taken = (waveform - clean).ravel()
        self.came += float(np.dot(waveform.ravel(), waveform.ravel()))
        self.went += float(np.dot(taken, taken))
        return clean

    def noise_level(self, level: float | None) -> float | None:
        """dBFS of what was taken away from a recording of this level; None of nothing."""
        if level is None or not self.came or not self.went:
            return None
        return round(level + 10 * float(np.log10(self.went / self.came)), 2)


def level(x: np.ndarray) -> float | None:
    """dBFS: the RMS of (samples, channels), 0 for a square wave of full scale; None of silence."""
    energy = sum(
        float(np.sum(np.square(x[i : i + BLOCK], dtype=np.float64))) for i in range(0, len(x), BLOCK)
    )
    return round(10 * float(np.log10(energy / x.size)), 2) if energy else None


def at_full_scale(x: np.ndarray) -> np.ndarray:
    return np.abs(x) >= FULL_SCALE


class Warnings(logging.Handler):
    """The warnings that this package logs in this thread meanwhile."""

    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self.thread = threading.get_ident()
        self.said: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        if record.thread == self.thread:
            self.said.append(" ".join(record.getMessage().split()))

    def __enter__(self) -> "Warnings":
        PACKAGE.addHandler(self)
        return self

    def __exit__(self, *_: Any) -> None:
        PACKAGE.removeHandler(self)
