"""DNSMOS P.835: Microsoft's network rates speech as listeners do; its file is the user's."""

import functools
import os
from typing import NamedTuple

import numpy as np

from ..errors import CheckpointError, ModelNotFoundError, needed_by
from ..names import SAMPLE_RATE
from .measures import MetricError

DNSMOS_SAMPLES = 144160  # 9.01 s, a window of DNSMOS


class Dnsmos(NamedTuple):
    """Ratings of about 1 to 5."""

    sig: float  # of the speech
    bak: float  # of the background
    ovr: float  # of the whole


def dnsmos(x: np.ndarray, model_path: str | os.PathLike) -> Dnsmos:
    """DNSMOS P.835 of a waveform (samples,), by Microsoft's sig_bak_ovr.onnx; needs no reference.

    Reddy et al., ICASSP 2022. As their script does it: a short recording is doubled until it fills
    9.01 s, then a window a second, and the mean over the windows.
    """
    session = dnsmos_session(os.fspath(model_path))
    x = np.asarray(x, np.float32)
    if len(x) == 0 or not np.any(x):
        raise MetricError("DNSMOS of silence is not defined")
    while len(x) < DNSMOS_SAMPLES:
        x = np.concatenate([x, x])
    seconds = len(x) // SAMPLE_RATE
    starts = range(0, max(1, seconds - 9) * SAMPLE_RATE, SAMPLE_RATE)
    raw = [session.run(None, {"input_1": x[None, i : i + DNSMOS_SAMPLES]})[0][0] for i in starts]
    sig, bak, ovr = np.array(raw, np.float64).T
    return Dnsmos(
        float(np.mean(np.polyval([-0.08397278, 1.22083953, 0.0052439], sig))),
        float(np.mean(np.polyval([-0.13166888, 1.60915514, -0.39604546], bak))),
        float(np.mean(np.polyval([-0.06766283, 1.11546468, 0.04602535], ovr))),
    )


@functools.cache
def dnsmos_session(path: str):
    """The network, kept for the process; or Missing-, ModelNotFound- or CheckpointError."""
    with needed_by("DNSMOS", "eval"):
        import onnxruntime

    if not os.path.isfile(path):
        raise ModelNotFoundError(f"no DNSMOS file at {path!r}: sig_bak_ovr.onnx of microsoft/DNS-Challenge")
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1  # the processes are the parallelism
    try:
        session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
        if session.get_inputs()[0].shape[1:] != [DNSMOS_SAMPLES]:
            raise ValueError(f"its input is {session.get_inputs()[0].shape}")
        return session
    except Exception as error:  # onnxruntime's errors have no common base
        raise CheckpointError(f"{path!r} is not DNSMOS's sig_bak_ovr.onnx: {error}") from error
