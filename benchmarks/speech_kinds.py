"""What a model leaves of speech that is not close to a good microphone: the table in docs/evaluation.md.

    python benchmarks/speech_kinds.py SIDE [--model tiny ...] [--clean 6] [--rooms 3] [--rir DIR] [--snr 10]

SIDE is OUT/valid or OUT/test of split.py. Of each source of speech so many recordings are drawn, 10 s at most
of each: heard in so many of the side's rooms, by telephone, clipped, whispered, two voices at once. Each goes
in alone and with a noise of the side. The reference is what is heard of the speech: noise is to go, not the
room. C50: the level of a room's response in its first 50 ms over the rest. Where others are installed as
peers.py says, what they do is told, too.
"""

import argparse
import io
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import soundfile
from clean_and_noise import change_db, drawn
from peers import enhanced, ours, peers
from scipy.signal import butter, fftconvolve, sosfiltfilt

from modelscope_zipenhancer.evaluate.measures import pesq, si_sdr
from modelscope_zipenhancer.names import SAMPLE_RATE

TELEPHONE = butter(6, [300, 3400], "band", fs=SAMPLE_RATE, output="sos")
LOST = -6  # dB: speech that comes out so much weaker counts as lost


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("side", type=Path)
    parser.add_argument("--model", nargs="+", default=["tiny"])
    parser.add_argument("--clean", type=int, default=6, help="recordings of each source of speech")
    parser.add_argument("--rooms", type=int, default=3, help="that each of them is heard in")
    parser.add_argument("--rir", type=Path, help="folders of rooms, instead of the side's")
    parser.add_argument("--snr", type=float, default=10, help="of the mixtures, dB")
    args = parser.parse_args()
    rng = np.random.default_rng(0)
    rooms = [x for _, x in drawn(args.rir or args.side / "rir", 1000, rng)]
    noises = [x for _, x in drawn(args.side / "noise", 1000, rng)]
    voices = [x for _, x in drawn(args.side / "clean", args.clean, rng)]
    kinds, alone, noisy = [], [], []
    for kind, x in speech_of_each_kind(voices, rooms, args.rooms, rng):
        heard = (x * np.sqrt(0.01 / np.mean(x**2))).astype(np.float32)
        noise = np.resize(noises[rng.integers(len(noises))], len(x))
        noise = noise * np.sqrt(0.01 / np.mean(noise**2) / 10 ** (args.snr / 10))
        kinds.append(kind)
        alone.append((heard, heard))
        noisy.append((heard + noise, heard))
    systems = {"unchanged": (lambda x: x, 0)} | {name: ours(name) for name in args.model} | peers()
    print(f"alone, and in noise at {args.snr:g} dB: level, dB, WB-PESQ, SI-SDR, dB; lost")
    for name, (system, _) in systems.items():
        rows = np.array([measured(system, clips) for clips in (alone, noisy)])
        for kind in dict.fromkeys(kinds):
            chosen = rows[:, [each == kind for each in kinds]]
            cells = [
                f"{level:.1f}, {quality:.2f}, {sdr:.1f}; {np.sum(case[:, 0] < LOST)}"
                for case, (level, quality, sdr) in zip(chosen, chosen.mean(1))
            ]
            print(f"| {kind} ({chosen.shape[1]}) | {name} | {' | '.join(cells)} |", flush=True)


def measured(system, clips: list) -> list:
    """(level against the reference in dB, WB-PESQ, SI-SDR in dB) of each of (heard, reference)."""
    return [(change_db(x, y), pesq(x, y), si_sdr(x, y)) for x, y in enhanced(system, clips)]


def speech_of_each_kind(
    voices: list, rooms: list, rooms_each: int, rng: np.random.Generator
) -> Iterator[tuple[str, np.ndarray]]:
    """(kind, waveform (samples,)), of no particular level."""
    for x in voices:
        yield "as recorded", x
    in_rooms = [
        (c50_db(rooms[i]), in_room(x, rooms[i]))
        for x in voices
        for i in rng.permutation(len(rooms))[:rooms_each]
    ]
    for name, low, high in (("10 dB and more", 10, np.inf), ("3 to 10 dB", 3, 10), ("< 3 dB", -np.inf, 3)):
        for c50, x in in_rooms:
            if low <= c50 < high:
                yield f"in rooms, C50 {name}", x
    for x in voices:
        yield "telephone, 300 to 3400 Hz", sosfiltfilt(TELEPHONE, x)
    for x in voices:
        limit = 1.5 * np.sqrt(np.mean(x**2))
        yield "clipped 3.5 dB over its RMS", np.clip(x, -limit, limit)
    for x in voices:
        yield "MP3", mp3(x)
    for x in voices:
        yield "whispered", whispered(x, rng)
    for x, other in zip(voices, voices[len(voices) // 2 :] + voices):
        other = np.resize(other, len(x))
        yield "two voices at once, equally loud", x + other * np.sqrt(np.mean(x**2) / np.mean(other**2))


def in_room(x: np.ndarray, response: np.ndarray) -> np.ndarray:
    return fftconvolve(x, response[np.argmax(np.abs(response)) :])[: len(x)]


def c50_db(response: np.ndarray) -> float:
    energy = np.square(response[np.argmax(np.abs(response)) :], dtype=np.float64)
    return 10 * np.log10(energy[: SAMPLE_RATE // 20].sum() / (energy[SAMPLE_RATE // 20 :].sum() + 1e-12))


def mp3(x: np.ndarray) -> np.ndarray:
    """As libsndfile's MP3 of low quality gives it back."""
    file = io.BytesIO()
    soundfile.write(file, x, SAMPLE_RATE, format="MP3", compression_level=0.95)
    return np.resize(soundfile.read(io.BytesIO(file.getvalue()))[0], len(x))


def whispered(x: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """The spectral envelopes of speech (26 cepstral coefficients) on noise, weaker below 1.5 kHz."""
    window, hop = np.hanning(512), 128
    noise, y = rng.standard_normal(len(x)), np.zeros(len(x))
    tilt = np.clip(np.linspace(0, 8000 / 1500, 257), 0.05, 1)
    for start in range(0, len(x) - 511, hop):
        part = slice(start, start + 512)
        cepstrum = np.fft.irfft(np.log(np.abs(np.fft.rfft(x[part] * window)) + 1e-6))
        cepstrum[26:-25] = 0
        envelope = np.exp(np.fft.rfft(cepstrum).real) * tilt
        y[part] += np.fft.irfft(np.fft.rfft(noise[part] * window) * envelope) * window
    return y


if __name__ == "__main__":
    main()
