"""What other packages hand over as audio: the same samples at the same rate, whatever they come in."""

import io
import types

import numpy as np
import pytest
import soundfile
import torch

from modelscope_zipenhancer.audio.read import read
from modelscope_zipenhancer.errors import AudioError

X = np.random.default_rng(0).uniform(-0.5, 0.5, (2000, 2)).astype(np.float32)  # (samples, channels)
FILE = io.BytesIO()
soundfile.write(FILE, X, 24_000, "FLOAT", format="WAV")


class AudioSamples:  # torchcodec's
    data, sample_rate = torch.from_numpy(X.T.copy()), 24_000


class AudioDecoder:
    def get_all_samples(self):
        return AudioSamples()


class Cut:  # Lhotse's
    sampling_rate = 24_000

    def load_audio(self):
        return X.T


SOURCES = {
    "datasets' cell": {"array": X, "sampling_rate": 24_000, "path": "a.wav"},
    "a cell with channels first": {"array": X.T, "sampling_rate": 24_000},
    "an undecoded cell": {"bytes": FILE.getvalue(), "path": "a.wav"},
    "soundfile's pair": (X, 24_000),
    "librosa's pair": (X.T, 24_000),
    "torchaudio's pair": (torch.from_numpy(X.T.copy()), 24_000),
    "scipy's pair": (np.int64(24_000), X),
    "gradio's pair": (24_000, np.rint(X * 32768).astype(np.int16)),
    "a list": [24_000.0, X],
    "torchcodec's decoder": AudioDecoder(),
    "torchcodec's samples": AudioSamples(),
    "Lhotse's cut": Cut(),
}


@pytest.mark.parametrize("kind", SOURCES)
def test_what_a_package_hands_over_is_read_with_its_rate(kind):
    x, rate = read(SOURCES[kind])
    assert rate == 24_000 and x.shape == X.shape and x.dtype == np.float32
    assert np.max(np.abs(x - X)) <= (2**-16 if kind == "gradio's pair" else 0)
    if kind != "an undecoded cell":
        assert read(SOURCES[kind], 24_000)[1] == 24_000
        with pytest.raises(AudioError, match="is at 24000 Hz, and sample_rate=16000 was given"):
            read(SOURCES[kind], 16_000)


def test_objects_that_have_their_channels_first_keep_them_however_few_samples_there_are():
    few = types.SimpleNamespace(data=torch.zeros(2, 1), sample_rate=16_000)
    assert read(few)[0].shape == (1, 2)


def test_a_mono_pair_and_a_list_of_numbers():
    assert read((X[:, 0], 8000))[0].shape == (2000, 1)
    assert read(([0.1, 0.2, 0.3], 8000))[0].shape == (3, 1)


@pytest.mark.parametrize(
    ("source", "said"),
    [
        ((X, X), "a tuple of 2: expected .array, rate."),
        ((16_000, 16_000), "a tuple of 2"),
        ((X, 16_000, 1), "a tuple of 3"),
        ([0.1, 0.2, 0.3], "a list of 3"),
        ((X, 16_000.5), "a sample rate of 16000.5 Hz"),
        ((X, 0), "a sample rate of 0 Hz"),
        ({"array": X}, "an array without its sampling_rate"),
        ({"text": "x"}, r"a dict of \['text'\] holds no audio"),
        ((X * np.nan, 16_000), "NaN"),
    ],
)
def test_what_is_no_audio_is_refused(source, said):
    with pytest.raises(AudioError, match=said):
        read(source)
