"""The short form of benchmarks/fuzz.py: damaged inputs raise what is documented, and nothing else."""

import contextlib
import functools
import io
import json
import random

import fuzzing
import numpy as np
import pytest
import torch

from modelscope_zipenhancer.audio.policy import SERVED
from modelscope_zipenhancer.audio.read import load
from modelscope_zipenhancer.errors import AudioError, CheckpointError, ConfigError
from modelscope_zipenhancer.network.config import ModelConfig

hypothesis = pytest.importorskip("hypothesis", reason="hypothesis makes the inputs: pip install hypothesis")
from hypothesis import example, given, settings  # noqa: E402
from hypothesis import strategies as st  # noqa: E402
from hypothesis.extra import numpy as of_numpy  # noqa: E402

# The same examples at each run, and none is slow enough to fail by the clock of a busy machine.
settings.register_profile("fuzzing", deadline=None, derandomize=True, database=None, max_examples=200)
settings.load_profile("fuzzing")


@functools.cache
def ready(target: str) -> tuple:
    """A target of fuzzing.py, once what it needs is there and has been built."""
    if target == "graph":
        pytest.importorskip("onnx")
        pytest.importorskip("onnxruntime")
    run, seeds, damage, allowed = fuzzing.TARGETS[target]
    with contextlib.suppress(*allowed):
        run(next(iter(seeds().values())))
    return run, seeds, damage, allowed


@pytest.mark.parametrize("target", fuzzing.TARGETS)
@given(seed=st.integers(0, 2**32 - 1))
@settings(max_examples=500)
def test_a_damaged_input_raises_what_is_documented_and_prints_nothing(target, seed):
    run, seeds, damage, allowed = ready(target)
    whole, rng, printed = tuple(seeds().values()), random.Random(seed), io.StringIO()
    with contextlib.redirect_stderr(printed), contextlib.suppress(*allowed):
        run(damage(rng.choice(whole), rng, whole))
    assert printed.getvalue() == ""


TAKEN = {"read": 60, "pipeline": 60, "text": 2, "configuration": 2, "checkpoint": 8, "graph": 1}


@pytest.mark.parametrize("target", fuzzing.TARGETS)
def test_of_whole_inputs_of_a_target_some_are_taken(target):
    run, seeds, _, allowed = ready(target)
    taken = 0
    for data in seeds().values():
        with contextlib.suppress(*allowed):
            run(data)
            taken += 1
    assert taken >= {"read": 60, "pipeline": 60, "text": 3, "configuration": 2, "checkpoint": 6}.get(
        target, 1
    )


@given(st.binary(max_size=400))
def test_any_bytes_are_audio_or_an_audio_error(data):
    with contextlib.suppress(AudioError):
        fuzzing.read_bytes(data)


PREFIXES = ("", "data:,", "data:audio/wav;base64,", "file://", "http://", " https://[", "UklGR" * 20)


@given(st.sampled_from(PREFIXES), st.text(st.characters(), max_size=300))
def test_any_text_is_audio_or_a_documented_error(prefix, text):
    with contextlib.suppress(*fuzzing.TARGETS["text"][3]):
        fuzzing.read_text((prefix + text).encode("utf-8", "surrogatepass"))


ARRAYS = of_numpy.arrays(
    of_numpy.scalar_dtypes() | of_numpy.byte_string_dtypes() | st.just(np.dtype(object)),
    of_numpy.array_shapes(min_dims=0, max_dims=3, min_side=0, max_side=3),
    fill=st.nothing(),
)


@given(ARRAYS)
@example(np.array("NaT", "M8[Y]"))  # which has no `data` to ask for
@pytest.mark.filterwarnings("ignore:overflow encountered in cast")  # of float64 to float32: infinite, refused
def test_any_array_is_samples_or_an_audio_error(x):
    with contextlib.suppress(AudioError):
        samples, _, _ = load(x, policy=SERVED)
        assert samples.dtype == np.float32 and samples.ndim == 2 and np.isfinite(samples).all()


NUMBERS = st.floats() | st.integers() | st.complex_numbers() | st.just("16000") | st.none() | st.booleans()
SAMPLES = st.lists(NUMBERS | st.lists(NUMBERS, max_size=3), max_size=4) | ARRAYS | st.binary(max_size=9)
OBJECTS = st.one_of(
    st.tuples(SAMPLES | NUMBERS, SAMPLES | NUMBERS),
    st.lists(SAMPLES, max_size=3),
    st.dictionaries(
        st.sampled_from(["array", "sampling_rate", "path", "bytes"]) | st.integers(), SAMPLES | NUMBERS
    ),
)


@given(OBJECTS)
@pytest.mark.filterwarnings("ignore:overflow encountered in cast")
def test_any_pair_or_dict_is_samples_or_an_audio_error(source):
    with contextlib.suppress(AudioError):
        samples, rate, _ = load(source, policy=SERVED)
        assert samples.dtype == np.float32 and samples.ndim == 2 and rate > 0


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=5) | st.dictionaries(st.text(max_size=5), inner, max_size=4),
    max_leaves=8,
)
RELEASED = ModelConfig().to_dict()


@given(st.sampled_from([*RELEASED, *(("former_conf", key) for key in RELEASED["former_conf"])]), JSON)
def test_any_value_in_a_configuration_is_a_network_or_a_config_error(key, value):
    section = json.loads(json.dumps(RELEASED))
    if isinstance(key, tuple):
        section[key[0]][key[1]] = value
    else:
        section[key] = value
    with contextlib.suppress(ConfigError):
        assert max(ModelConfig.from_dict(section).stacks[0].__dict__.values()) <= 65536


VALUES = st.recursive(
    st.none()
    | st.integers(-(2**63), 2**63 - 1)
    | st.text(max_size=5)
    | st.builds(
        torch.zeros,
        st.lists(st.integers(0, 3), max_size=3).map(tuple) | st.just((2, 2)),
        dtype=st.sampled_from([torch.float32, torch.float16, torch.int64, torch.complex64, torch.bool]),
        device=st.sampled_from(["cpu", "meta"]),
    ),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(["weight", "bias", "model", "generator", "state_dict"]) | st.integers(), inner
        )
    ),
    max_leaves=6,
)


@given(VALUES)
def test_whatever_torch_has_saved_is_weights_or_a_checkpoint_error(value):
    file = io.BytesIO()
    torch.save(value, file)
    with contextlib.suppress(CheckpointError):
        fuzzing.read_checkpoint(file.getvalue())
