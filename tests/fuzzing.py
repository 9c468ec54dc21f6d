"""Damaged inputs, and what each kind of them goes to: for the short tests here and benchmarks/fuzz.py.

A target takes bytes. What it raises besides the documented errors is a fault of this package.
"""

import atexit
import base64
import functools
import io
import json
import random
import shutil
import struct
import tempfile
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path
from unittest import mock

import numpy as np
import soundfile
import torch
from conftest import QUICK, seeded_model, write_model_dir
from recordings import by_av, by_soundfile, speech

from modelscope_zipenhancer.audio.policy import SERVED
from modelscope_zipenhancer.audio.read import load
from modelscope_zipenhancer.audio.resample import resample
from modelscope_zipenhancer.errors import AudioError, CheckpointError, ConfigError, FetchError, OptionError
from modelscope_zipenhancer.names import CONFIG_FILE, SAMPLE_RATE
from modelscope_zipenhancer.network.checkpoint import load_weights
from modelscope_zipenhancer.network.config import ModelConfig, model_dir_configuration
from modelscope_zipenhancer.runtime.onnx import OnnxBackend

LINEAR = torch.nn.Linear(2, 2)  # a network whose checkpoint has 1 KB
SECONDS = 0.06  # of each seed: files of 1 to 4 KB
SUBTYPES = ("PCM_16", "PCM_24", "FLOAT", "PCM_U8", "ULAW", "IMA_ADPCM", "MS_ADPCM", "GSM610")
BY_AV = (  # container, codec, rate, channels
    ("mp3", "libmp3lame", 16000, 1),
    ("mp2", "mp2", 16000, 1),
    ("adts", "aac", 16000, 1),
    ("ipod", "aac", 16000, 1),
    ("ipod", "alac", 16000, 2),
    ("mov", "pcm_s16be", 16000, 1),
    ("3gp", "libopencore_amrnb", 8000, 1),
    ("amr", "libopencore_amrnb", 8000, 1),
    ("webm", "libopus", 16000, 1),
    ("matroska", "flac", 16000, 1),
    ("ogg", "libopus", 16000, 1),
    ("ogg", "flac", 16000, 1),
    ("asf", "wmav2", 16000, 1),
    ("avi", "libmp3lame", 16000, 1),
    ("flv", "aac", 44100, 1),
    ("mpegts", "aac", 16000, 1),
    ("ac3", "ac3", 44100, 1),
    ("wv", "wavpack", 16000, 2),
    ("tta", "tta", 16000, 1),
    ("wav", "libmp3lame", 16000, 1),
    ("wav", "g722", 16000, 1),
    ("aiff", "pcm_s24be", 16000, 1),
)
FIELDS = (
    0,
    1,
    2,
    7,
    0x7F,
    0x80,
    0xFF,
    0x7FFF,
    0x8000,
    0xFFFF,
    0x7FFFFFFF,
    0x80000000,
    0xFFFFFFFE,
    0xFFFFFFFF,
)
FIELDS += (1024, 65536, 1 << 20, 1 << 24, 1 << 30, 1 << 40, (1 << 63) - 1, 1 << 63, (1 << 64) - 1)


# ---- seeds -------------------------------------------------------------------------------------


@functools.cache
def audio_seeds() -> dict[str, bytes]:
    """A short file of every container that is read, as each library writes it."""
    seeds = {}
    for container in sorted(soundfile.available_formats().keys() - {"SD2", "RAW"}):  # two files, and none
        rate = 8000 if container in ("SVX", "WVE") else 16000
        for subtype in (s for s in SUBTYPES if soundfile.check_format(container, s)):
            if container not in ("WAV", "AIFF", "CAF", "W64") and f"{container}-PCM_16" in seeds:
                break
            seeds[f"{container}-{subtype}"] = by_soundfile(container, subtype, speech(rate, 1, SECONDS), rate)
    seeds["OGG-VORBIS"] = by_soundfile("OGG", "VORBIS", speech(16000, 1, SECONDS), 16000)
    seeds["OGG-OPUS"] = by_soundfile("OGG", "OPUS", speech(16000, 1, SECONDS), 16000)
    for container, codec, rate, channels in BY_AV:
        seeds[f"{container}-{codec}"] = by_av(container, codec, speech(rate, channels, SECONDS), rate)
    seeds["ID3"] = b"ID3\4\0\0\0\0\1\x48" + bytes(200) + seeds["FLAC-PCM_16"]
    return {name: data for name, data in seeds.items() if len(data) < 20_000}


@functools.cache
def configuration_seeds() -> dict[str, bytes]:
    whole = model_dir_configuration(ModelConfig())
    small = model_dir_configuration(QUICK)
    return {"released": json.dumps(whole).encode(), "quick": json.dumps(small, indent=1).encode()}


@functools.cache
def checkpoint_seeds() -> dict[str, bytes]:
    """Checkpoints of `LINEAR` in each layout in use, in both formats of torch, and what else torch saves."""
    good = LINEAR.state_dict()
    x = good["weight"]
    seeds = {}
    for kind, value in {
        "bare": good,
        "generator": {"generator": good},
        "trainer": {"state_dict": {f"model.{name}": x.half() for name, x in good.items()}, "epoch": 3},
        "views": {"weight": x.t(), "bias": torch.zeros(1).expand(2)},
        "parameters": {"weight": torch.nn.Parameter(x), "bias": torch.zeros(2, dtype=torch.complex64)},
        "other": [1, 2.5, "text", (x, None), {1: b"bytes", "s": {1, 2}}],
        "sparse": {"weight": x.to_sparse(), "bias": torch.zeros(2, device="meta")},
    }.items():
        seeds[kind] = _saved(value)
        seeds[f"{kind}, legacy"] = _saved(value, _use_new_zipfile_serialization=False)
    return seeds


def _saved(value: object, **options: bool) -> bytes:
    file = io.BytesIO()
    torch.save(value, file, **options)
    return file.getvalue()


@functools.cache
def graph_seeds() -> dict[str, bytes]:
    """A graph of the form that is expected, with constants, and one of another form."""
    from onnx import TensorProto, helper, numpy_helper

    def graph(name: str) -> bytes:
        axes = helper.make_tensor_value_info
        x, y = axes(name, TensorProto.FLOAT, ["n", "t"]), axes("y", TensorProto.FLOAT, ["n", "t"])
        one = numpy_helper.from_array(np.ones((1, 1), np.float32), "one")
        nodes = [helper.make_node("Mul", [name, "one"], ["z"]), helper.make_node("Pad", ["z", "pads"], ["y"])]
        pads = numpy_helper.from_array(np.array([0, 0, 0, 0], np.int64), "pads")
        model = helper.make_model(
            helper.make_graph(nodes, "g", [x], [y], [one, pads]),
            opset_imports=[helper.make_opsetid("", 17)],
            ir_version=8,
        )
        return model.SerializeToString()

    return {"waveform": graph("waveform"), "other": graph("x")}


@functools.cache
def text_seeds() -> dict[str, bytes]:
    wav = audio_seeds()["WAV-PCM_16"][:400]
    texts = {
        "base64": base64.b64encode(wav),
        "data": b"data:audio/wav;base64," + base64.b64encode(wav),
        "escaped": b"data:," + b"".join(b"%%%02x" % byte for byte in wav[:100]),
        "file": b"file:///tmp/%00a.wav",
        "url": b"https://user:word@example.com:443/a%20b.wav?x=1#y",
        "idn": "http://b\u00fccher.example/\u00e4 \u00f6.wav".encode(),
        "ip": b"http://[::ffff:127.0.0.1%25lo]:80/x",
    }
    return texts


# ---- damage ------------------------------------------------------------------------------------


def damaged(data: bytes, rng: random.Random, others: tuple[bytes, ...] = ()) -> bytes:
    """The data, changed in some places: fields, lengths, order; checksums are made to fit again."""
    out = bytearray(data)
    for _ in range(1 + min(int(rng.expovariate(0.7)), 8)):
        out = _damaged_once(out, rng, others)
    if out[:4] == b"OggS" and rng.random() < 0.9:
        out = with_ogg_checksums(out)
    return bytes(out)


def _damaged_once(out: bytearray, rng: random.Random, others: tuple[bytes, ...]) -> bytearray:
    end = len(out)
    if end == 0:
        return bytearray(rng.choice(others) if others else b"RIFF")
    # headers are where lengths are believed
    position = min(int(rng.expovariate(1 / 40)), end - 1) if rng.random() < 0.7 else rng.randrange(end)
    choice = rng.random()
    if choice < 0.45:  # a field
        width = rng.choice((1, 2, 2, 4, 4, 4, 8))
        value = (
            rng.choice(FIELDS) + rng.choice((0, 0, 0, 1, -1)) if rng.random() < 0.8 else rng.getrandbits(64)
        )
        order = rng.choice(("little", "big"))
        field = (value & ((1 << 8 * width) - 1)).to_bytes(width, order)
        out[position : position + width] = field[: max(1, end - position)]
    elif choice < 0.6:  # a bit
        out[position] ^= 1 << rng.randrange(8)
    elif choice < 0.7:  # cut off
        del out[rng.randrange(end) :]
    elif choice < 0.8:  # a piece is missing, or there twice
        stop = min(end, position + rng.choice((1, 2, 4, 8, 27, 188, 500)))
        if rng.random() < 0.5:
            del out[position:stop]
        else:
            out[position:position] = out[position:stop]
    elif choice < 0.86 and others:  # joined with, or gone over into, another file
        other = rng.choice(others)
        return out + other if rng.random() < 0.5 else out[:position] + other[position:]
    elif choice < 0.92:  # a piece is moved
        start = rng.randrange(end)
        piece = out[start : start + rng.choice((4, 8, 16, 64))]
        out[position:position] = piece
    else:
        out[position:position] = rng.randbytes(rng.choice((1, 3, 8)))
    return out


_REVERSED = bytes(int(f"{byte:08b}"[::-1], 2) for byte in range(256))


def ogg_checksum(page: bytes) -> int:
    """The CRC of a page whose own field is zeros: zlib's, mirrored, begun at 0."""
    mirrored = zlib.crc32(page.translate(_REVERSED), 0xFFFFFFFF) ^ 0xFFFFFFFF
    return int(f"{mirrored:032b}"[::-1], 2)


def with_ogg_checksums(data: bytearray) -> bytearray:
    position = 0
    while len(data) >= position + 27 and data[position : position + 4] == b"OggS":
        segments = data[position + 26]
        length = 27 + segments + sum(data[position + 27 : position + 27 + segments])
        data[position + 22 : position + 26] = bytes(4)
        crc = ogg_checksum(bytes(data[position : position + length]))
        data[position + 22 : position + 26] = struct.pack("<I", crc)
        position += length
    return data


def damaged_checkpoint(data: bytes, rng: random.Random, others: tuple[bytes, ...] = ()) -> bytes:
    """As `damaged`; more often inside an entry of the archive, the pickle above all, than around them."""
    if rng.random() < 0.75 and data[:2] == b"PK":
        try:
            with zipfile.ZipFile(io.BytesIO(data)) as archive:
                entries = [(info, archive.read(info)) for info in archive.infolist()]
        except (
            zipfile.BadZipFile,
            NotImplementedError,
            RuntimeError,
            EOFError,
            ValueError,
            OSError,
            zlib.error,
        ):
            return damaged(data, rng, others)
        pickles = [i for i, (info, _) in enumerate(entries) if info.filename.endswith("data.pkl")]
        target = rng.choice(pickles) if pickles and rng.random() < 0.8 else rng.randrange(len(entries) or 1)
        file = io.BytesIO()
        with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED if rng.random() < 0.2 else 0) as archive:
            for i, (info, body) in enumerate(entries):
                archive.writestr(info.filename, damaged(body, rng) if i == target else body)
        return file.getvalue()
    return damaged(data, rng, others)


def damaged_json(data: bytes, rng: random.Random, others: tuple[bytes, ...] = ()) -> bytes:
    """As `damaged`; more often a value of the object is another."""
    try:
        whole = json.loads(data)
    except (ValueError, RecursionError):
        return damaged(data, rng, others)
    if rng.random() < 0.25 or not isinstance(whole, (dict, list)) or not whole:
        return damaged(data, rng, others)
    for _ in range(rng.choice((1, 1, 2, 4))):
        node = whole
        while True:
            keys = list(node) if isinstance(node, dict) else range(len(node))
            key = rng.choice(keys)
            if isinstance(node[key], (dict, list)) and node[key] and rng.random() < 0.85:
                node = node[key]
                continue
            if rng.random() < 0.1 and len(node) > 1:
                del node[key]
            else:
                node[key] = _json_value(rng)
            break
    return json.dumps(whole).encode()


def _json_value(rng: random.Random) -> object:
    values = (None, True, False, 0, 1, -1, 2, 3, 1.0, 0.5, 1e400, -0.0, "", "4", "\ud800", [], {}, [1], [[1]])
    values += (*FIELDS, 10**30, 10**4000, [1, 2, 3, 4], [2, 2, 2, 2], [True], {"a": 1}, ["x"], float("nan"))
    return rng.choice(values)


# ---- targets -----------------------------------------------------------------------------------


def read_bytes(data: bytes) -> None:
    """`audio.read.load`, open and with the limits for strangers."""
    recording = load(data, policy=SERVED if len(data) % 2 else None)
    x = recording.samples
    assert x.dtype == np.float32 and x.ndim == 2 and x.size and np.isfinite(x).all()
    assert recording.sample_rate > 0 and all(isinstance(text, str) for text in recording.warnings)


def read_text(data: bytes) -> None:
    """Text: base64, data URLs, names, URLs up to the connection. Nothing is opened."""
    text = data.decode("utf-8", "surrogateescape")
    with mock.patch("urllib.request.OpenerDirector.open", side_effect=OSError("no network here")):
        load(text, policy=SERVED)


def enhance_bytes(data: bytes) -> None:
    """ModelScope's pipeline on bytes; instead of the network, the sound as it is."""
    pcm = _pipeline()(data, level="input")["output_pcm"]
    recording = load(data)
    expected = -(-len(recording.samples) * SAMPLE_RATE // recording.sample_rate)
    assert abs(len(pcm) / 2 - expected) <= 1, (len(pcm), expected)


def warm_up() -> None:
    """Import what is imported when it is needed: librosa takes seconds, and 170 MB."""
    resample(np.zeros(99), 8000, SAMPLE_RATE)


@functools.cache
def _pipeline() -> Callable:
    from modelscope_zipenhancer.plugin.classes import ZipEnhancerModel, ZipEnhancerPipeline

    folder = str(write_model_dir(_folder() / "model", seeded_model(QUICK)))
    whole = ZipEnhancerPipeline(model=ZipEnhancerModel.from_pretrained(folder), device="cpu")
    whole.backend = lambda waveform, gain=None: waveform
    return whole


@functools.cache
def _folder() -> Path:
    folder = tempfile.mkdtemp(prefix="fuzzing-")
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    return Path(folder)


def read_configuration(data: bytes) -> None:
    """configuration.json to a network's shape, and back; the network itself is made without memory."""
    (_folder() / CONFIG_FILE).write_bytes(data)
    config = ModelConfig.from_model_dir(str(_folder()))
    assert ModelConfig.from_dict(json.loads(json.dumps(config.to_dict()))) == config


def read_checkpoint(data: bytes) -> None:
    """A file of weights into the network that it may belong to."""
    path = _folder() / "weights.bin"
    path.write_bytes(data)
    load_weights(LINEAR, str(path))
    assert all(x.isfinite().all() for x in LINEAR.parameters())


def read_graph(data: bytes) -> None:
    """An ONNX file into ONNX Runtime."""
    path = _folder() / "model.onnx"
    path.write_bytes(data)
    OnnxBackend(str(path), threads=1)


# name: the function, its seeds, how they are damaged, what it may raise
TARGETS: dict[str, tuple[Callable, Callable, Callable, tuple]] = {
    "read": (read_bytes, audio_seeds, damaged, (AudioError,)),
    "text": (read_text, text_seeds, damaged, (AudioError, FetchError)),
    "pipeline": (enhance_bytes, audio_seeds, damaged, (AudioError, OptionError)),
    "configuration": (read_configuration, configuration_seeds, damaged_json, (ConfigError,)),
    "checkpoint": (read_checkpoint, checkpoint_seeds, damaged_checkpoint, (CheckpointError,)),
    "graph": (read_graph, graph_seeds, damaged, (CheckpointError,)),
}
