"""The unchanged call by a model id: downloaded from a hub, resumed, checked, and without network."""

from importlib.metadata import version

import pytest
from loopback_hub import CLIENT_PREAMBLE, LoopbackHub

DAMO, IIC = (f"{owner}/speech_zipenhancer_ans_multiloss_16k_base" for owner in ("damo", "iic"))
MODELSCOPE = tuple(int(part) for part in version("modelscope").split(".")[:2])
QUICK_RETRIES = {"MODELSCOPE_API_MAX_RETRIES": "1"}  # of 1.40, whose own number takes half a minute
CALL = f"""
import modelscope_zipenhancer
{CLIENT_PREAMBLE}
import numpy as np
from modelscope.pipelines import pipeline
from modelscope.utils.constant import Tasks
for model in MODELS:
    ans = pipeline(Tasks.acoustic_noise_suppression, model=model)
    assert type(ans).__module__ == "modelscope_zipenhancer.plugin.classes"
    print("enhanced", len(ans(np.ones(16000, np.float32))["output_pcm"]))
"""


@pytest.fixture
def hub(quick_model_dir):
    with LoopbackHub({DAMO: quick_model_dir, IIC: quick_model_dir}) as hub:
        yield hub


def enhanced(printed: str) -> int:
    return printed.count("enhanced 32000")


def test_a_model_is_downloaded_once_and_then_runs_without_network(quick_model_dir, run_python, tmp_path):
    with LoopbackHub({DAMO: quick_model_dir, IIC: quick_model_dir}) as hub:
        there = hub.environment(tmp_path / "cache")
        assert enhanced(run_python(f"MODELS = {[DAMO, IIC]}{CALL}", **there)) == 2
        weights = [path for path, _ in hub.requests if "pytorch_model.bin" in path]
        assert len(weights) == 2  # damo/ and iic/ are two models to ModelScope
    offline = f"""
MODELS = [{DAMO!r}]
{CALL}
import modelscope_zipenhancer
modelscope_zipenhancer.deactivate()
try:
    pipeline(Tasks.acoustic_noise_suppression, model={DAMO!r})
except Exception as error:
    print("builtin", type(error).__name__)
modelscope_zipenhancer.activate()
try:
    pipeline(Tasks.acoustic_noise_suppression, model="damo/never_downloaded")
except Exception as error:
    print("unknown", type(error).__name__)
"""
    printed = run_python(offline, **there, **QUICK_RETRIES)
    assert enhanced(printed) == 1
    assert "builtin ValueError" in printed and "unknown ValueError" in printed


def test_a_revision_that_the_hub_does_not_have_is_not_replaced_by_another_in_the_cache(
    hub, run_python, tmp_path
):
    program = f"""
MODELS = [{DAMO!r}]
{CALL}
try:
    pipeline(Tasks.acoustic_noise_suppression, model={DAMO!r}, model_revision="v9.9")
except Exception as error:
    print("refused", type(error).__name__)
"""
    printed = run_python(program, **hub.environment(tmp_path / "cache"), **QUICK_RETRIES)
    assert enhanced(printed) == 1 and "refused" in printed


def test_a_pipeline_name_and_a_model_id_go_together(hub, run_python, tmp_path):
    call = CALL.replace("model=model", "model=model, pipeline_name=model.partition('/')[2]")
    assert call != CALL
    assert enhanced(run_python(f"MODELS = [{IIC!r}]{call}", **hub.environment(tmp_path))) == 1


def test_a_download_that_breaks_off_is_resumed(hub, run_python, tmp_path):
    hub.cut_after = 20000
    assert enhanced(run_python(f"MODELS = [{DAMO!r}]{CALL}", **hub.environment(tmp_path))) == 1
    ranges = [wanted for path, wanted in hub.requests if "FilePath=pytorch_model.bin" in path]
    assert len(ranges) == 2
    if MODELSCOPE >= (1, 40):  # 1.20 starts over
        assert ranges[1].startswith("bytes=20000-")


def test_a_download_with_a_wrong_checksum_is_refused_and_leaves_nothing(hub, run_python, tmp_path):
    hub.wrong_sha256 = True
    program = f"""
try:
    MODELS = [{DAMO!r}]
    {CALL.replace(chr(10), chr(10) + "    ")}
except Exception as error:
    print("refused", type(error).__name__)
"""
    assert "refused File" in run_python(program, **hub.environment(tmp_path / "cache"))
    assert not list((tmp_path / "cache").rglob("pytorch_model.bin"))
