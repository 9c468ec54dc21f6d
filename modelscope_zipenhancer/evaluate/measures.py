"""The measures of the speech enhancement papers, as pure functions of waveforms.

PESQ and STOI are those of the packages `pesq` and `pystoi` ([eval] extra). SI-SDR, segmental SNR and
the composite measures are written here from their papers, named at each. DNSMOS is Microsoft's
network, from a file that the user gives. Waveforms are float (samples,), 16 kHz, full scale +-1; a
measure that is not defined for them raises MetricError, none returns NaN. Higher is better, but for
the two distances.
"""

import functools
import warnings
from typing import NamedTuple

import numpy as np

from ..errors import AudioError, needed_by
from ..names import SAMPLE_RATE

FRAME = 480  # samples in 30 ms, a frame of the segmental measures
HOP = 120  # samples between frames: they overlap by three quarters
LPC_ORDER = 16
EPS = float(np.finfo(float).eps)


class MetricError(AudioError):
    """A measure that is not defined for these signals."""


def si_sdr(reference: np.ndarray, estimate: np.ndarray) -> float:
    """Scale-invariant signal-to-distortion ratio in dB; at most 156 (that of equal signals).

    Le Roux et al., "SDR - half-baked or well done?", ICASSP 2019, eq. 3, of zero-mean signals.
    """
    reference, estimate = _checked_pair(reference, estimate)
    if not np.ptp(reference) or not np.ptp(estimate):
        raise MetricError("SI-SDR of silence, or another constant signal, is not defined")
    reference, estimate = reference - reference.mean(), estimate - estimate.mean()
    target = reference * (reference @ estimate / (reference @ reference))
    distortion = estimate - target
    floor = EPS * (estimate @ estimate)
    return float(10 * np.log10((target @ target + floor) / (distortion @ distortion + floor)))


def segmental_snr(reference: np.ndarray, estimate: np.ndarray) -> float:
    """Mean SNR of 30 ms frames in dB, each limited to -10..35; a silent frame of both counts -10.

    Hansen and Pellom, ICSLP 1998, with the frames of Loizou, "Speech Enhancement", 2nd ed., 2013.
    """
    reference, estimate = _checked_pair(reference, estimate)
    signal = np.square(_frames(reference)).sum(axis=1)
    noise = np.square(_frames(reference - estimate)).sum(axis=1)
    return float(np.mean(np.clip(10 * np.log10(signal / (noise + EPS) + EPS), -10, 35)))


def log_likelihood_ratio(reference: np.ndarray, estimate: np.ndarray) -> float:
    """LPC distance of the spectral envelopes, from 0 (equal); mean of the 95 % lowest frames.

    Quackenbush et al., "Objective Measures of Speech Quality", 1988: log of the prediction error that
    the estimate's predictor leaves of the reference, over that which the reference's own leaves.
    """
    lags = [np.fft.irfft(_power(x))[:, : LPC_ORDER + 1] for x in _checked_pair(reference, estimate)]
    floor = np.maximum(1e-12 * lags[0][:, 0], np.finfo(float).tiny)  # -120 dB: below 16 bits' noise
    own, other = (np.maximum(_prediction_error(_predictor(r), lags[0]), floor) for r in lags)
    return _mean_of_lowest(np.log(other / own))


def weighted_spectral_slope(reference: np.ndarray, estimate: np.ndarray) -> float:
    """Distance of the slopes of 25 critical bands, from 0 (equal); mean of the 95 % lowest frames.

    Klatt, ICASSP 1982, with the bands and constants of Loizou's book. The levels have a floor, so the
    scale matters: it is full scale +-1, as Matlab reads files. Scripts that divide such samples by
    32768 once more find a several times smaller distance in quiet speech, and better ratings.
    """
    powers = (_power(x)[:, :512] for x in _checked_pair(reference, estimate))
    bands = (10 * np.log10(np.maximum(power @ _critical_bands().T, 1e-10)) for power in powers)
    return _mean_of_lowest(_slope_distance(*bands))


class Composite(NamedTuple):
    """Ratings of 1 to 5."""

    csig: float  # of the speech
    cbak: float  # of the background
    covl: float  # of the whole


def composite(reference: np.ndarray, estimate: np.ndarray, pesq_wb: float | None = None) -> Composite:
    """Ratings of listeners, predicted from the other measures.

    Hu and Loizou, "Evaluation of objective quality measures for speech enhancement", IEEE TASLP 16(1),
    2008, table VI. As in the papers that compare by them, their PESQ is the wide-band one, which is
    computed unless given.
    """
    p = pesq(reference, estimate) if pesq_wb is None else pesq_wb
    llr = log_likelihood_ratio(reference, estimate)
    wss = weighted_spectral_slope(reference, estimate)
    ratings = (
        3.093 - 1.029 * llr + 0.603 * p - 0.009 * wss,
        1.634 + 0.478 * p - 0.007 * wss + 0.063 * segmental_snr(reference, estimate),
        1.594 + 0.805 * p - 0.512 * llr - 0.007 * wss,
    )
    return Composite(*(float(np.clip(rating, 1, 5)) for rating in ratings))


def pesq(reference: np.ndarray, estimate: np.ndarray, mode: str = "wb") -> float:
    """PESQ as MOS-LQO, about 1.0 to 4.64: 'wb' ITU-T P.862.2, 'nb' P.862.1; of the package `pesq`."""
    with needed_by("PESQ", "eval"):
        from pesq import pesq as measure

    reference, estimate = _checked_pair(reference, estimate)
    try:
        return float(measure(SAMPLE_RATE, reference, estimate, mode))
    except (RuntimeError, ValueError) as error:  # its own errors hold bytes
        reason = error.args[0] if error.args else error
        reason = reason.decode() if isinstance(reason, bytes) else str(reason)
        raise MetricError(f"PESQ can't be computed: {reason}") from error


def stoi(reference: np.ndarray, estimate: np.ndarray) -> float:
    """Short-time objective intelligibility, about 0..1 (Taal et al., 2011); of the package `pystoi`."""
    with needed_by("STOI", "eval"):
        from pystoi import stoi as measure

    reference, estimate = _checked_pair(reference, estimate)
    with warnings.catch_warnings():  # of too little speech it warns, and returns 1e-5
        warnings.filterwarnings("error", message="Not enough STFT frames")
        try:
            return float(measure(reference, estimate, SAMPLE_RATE))
        except (RuntimeWarning, ValueError) as error:
            raise MetricError("STOI needs 0.4 s of speech or more") from error


def _checked_pair(reference, estimate) -> tuple:
    pair = tuple(np.asarray(x, np.float64) for x in (reference, estimate))
    if pair[0].ndim != 1 or pair[0].shape != pair[1].shape:
        raise MetricError(
            f"shapes {pair[0].shape} and {pair[1].shape}: expected (samples,) twice, equally long"
        )
    if not np.isfinite(pair[0]).all() or not np.isfinite(pair[1]).all():
        raise MetricError("NaN or infinite samples")
    if len(pair[0]) < FRAME + HOP:
        raise MetricError(f"{len(pair[0])} samples are too few: {FRAME + HOP} or more")
    return pair


def _frames(x: np.ndarray) -> np.ndarray:
    """(samples,) -> (frames, 480), Hann-windowed; the last whole frame is left out, as Loizou's code does."""
    frames = np.lib.stride_tricks.sliding_window_view(x + EPS, FRAME)[::HOP]
    return frames[: (len(x) - FRAME) // HOP] * np.hanning(FRAME + 2)[1:-1]


def _power(x: np.ndarray) -> np.ndarray:
    return np.square(np.abs(np.fft.rfft(_frames(x), 1024)))  # (frames, 513)


def _mean_of_lowest(x: np.ndarray) -> float:
    """A few frames, of pauses most of all, are far off and say nothing: the 5 % highest are left out."""
    return float(np.mean(np.sort(x)[: max(1, round(0.95 * len(x)))]))


def _predictor(lags: np.ndarray) -> np.ndarray:
    """Levinson-Durbin over all frames: autocorrelation (frames, order + 1) -> 1, -a1, ... of that shape."""
    a = np.zeros_like(lags)
    a[:, 0] = 1
    error = lags[:, 0].copy()
    for i in range(1, lags.shape[1]):
        reflection = -np.einsum("fk,fk->f", a[:, :i], lags[:, i:0:-1]) / np.maximum(error, 1e-300)
        a[:, 1 : i + 1] += reflection[:, None] * a[:, i - 1 :: -1]
        error = np.maximum(error * (1 - np.square(reflection)), 1e-12 * lags[:, 0])
    return a


def _prediction_error(a: np.ndarray, lags: np.ndarray) -> np.ndarray:
    """a' R a with R the Toeplitz matrix of `lags`, for each frame."""
    size = a.shape[1]
    own = np.stack([(a[:, : size - k] * a[:, k:]).sum(axis=1) for k in range(size)], axis=1)
    return own[:, 0] * lags[:, 0] + 2 * (own[:, 1:] * lags[:, 1:]).sum(axis=1)


@functools.cache
def _critical_bands() -> np.ndarray:
    """(25, 512): Gaussian filters over the bins of a 1024-point spectrum, from Loizou's table in Hz."""
    centre = [50, 120, 190, 260, 330, 400, 470, 540, 617.372, 703.378, 798.717, 904.128, 1020.38, 1148.30]
    centre += [1288.72, 1442.54, 1610.70, 1794.16, 1993.93, 2211.08, 2446.71, 2701.97, 2978.04, 3276.17]
    centre = np.array([*centre, 3597.63])[:, None] * 512 / 8000  # bins
    width = [70] * 7 + [77.3724, 86.0056, 95.3398, 105.411, 116.256, 127.914, 140.423, 153.823, 168.154]
    width += [183.457, 199.776, 217.153, 235.631, 255.255, 276.072, 298.126, 321.465, 346.136]
    width = np.array(width)[:, None] * 512 / 8000
    bands = np.exp(-11 * np.square((np.arange(512) - np.floor(centre)) / width)) * width[0] / width
    return bands * (bands > np.exp(-30 / (2 * 2.303)))


def _slope_distance(reference: np.ndarray, estimate: np.ndarray) -> np.ndarray:
    """Of levels in dB (frames, bands): (frames,). Slopes count by how near a peak their band is."""
    slopes, weights = [], []
    for bands in (reference, estimate):
        slope, level = np.diff(bands), bands[:, :-1]
        near_peak = 1 / (1 + _nearest_peak(bands, slope) - level)
        weights.append(20 / (20 + bands.max(axis=1, keepdims=True) - level) * near_peak)
        slopes.append(slope)
    weight = (weights[0] + weights[1]) / 2
    return (weight * np.square(slopes[0] - slopes[1])).sum(axis=1) / weight.sum(axis=1)


def _nearest_peak(bands: np.ndarray, slope: np.ndarray) -> np.ndarray:
    """Level of the peak that each of the first 24 bands climbs to: upwards if it rises, else downwards.

    The upward climb stops one band short of its peak: so does the code that all published figures
    come from, and they are what ours are compared with.
    """
    up, down = bands[:, :-1].copy(), bands[:, :-1].copy()
    for i in range(slope.shape[1] - 2, -1, -1):
        up[:, i] = np.where(slope[:, i + 1] > 0, up[:, i + 1], bands[:, i])
    for i in range(1, slope.shape[1]):
        down[:, i] = np.where(slope[:, i - 1] <= 0, down[:, i - 1], bands[:, i])
    return np.where(slope > 0, up, down)


# What is measured of a pair: {keys of report.PAIRED: function(reference, estimate, values so far)}
PAIRWISE = {
    ("pesq_wb",): lambda reference, estimate, _: pesq(reference, estimate),
    ("pesq_nb",): lambda reference, estimate, _: pesq(reference, estimate, "nb"),
    ("stoi",): lambda reference, estimate, _: stoi(reference, estimate),
    ("si_sdr",): lambda reference, estimate, _: si_sdr(reference, estimate),
    ("ssnr",): lambda reference, estimate, _: segmental_snr(reference, estimate),
    ("csig", "cbak", "covl"): lambda reference, estimate, values: composite(
        reference, estimate, values.get("pesq_wb")
    ),
}
