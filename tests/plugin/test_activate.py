"""Whatever is imported first, and however often, ModelScope finds our classes; and its own when told to."""

import io
import json
import sysconfig

import pytest
import soundfile
from conftest import ROOT, noisy_speech

from modelscope_zipenhancer.errors import OutputError
from modelscope_zipenhancer.names import CONFIG_FILE, MODEL_TYPE, TASK
from modelscope_zipenhancer.plugin import activate, deactivate
from modelscope_zipenhancer.plugin.pth import install_pth, pth_path, remove_pth

# What a program finds; with `ours`, "ours" for each, and librosa, which only the built-in imports, unloaded.
REPORT = """
import sys
from modelscope.models import Model
from modelscope.pipelines import pipeline
def whose(x):
    return "ours" if type(x).__module__ == "modelscope_zipenhancer.plugin.classes" else "builtin"
print("librosa" in sys.modules)
print(whose(Model.from_pretrained(MODEL, device="cpu")))
print(whose(pipeline("acoustic-noise-suppression", model=MODEL, device="cpu")))
print(whose(pipeline("acoustic-noise-suppression", model=MODEL, device="cpu",
                     pipeline_name="speech_zipenhancer_ans_multiloss_16k_base")))
import modelscope.pipelines.audio.ans_pipeline, modelscope.models.audio.ans.zipenhancer
from modelscope.pipelines.builder import PIPELINES
print(PIPELINES.get("speech_frcrn_ans_cirm_16k", "acoustic-noise-suppression").__name__)
print(whose(pipeline("acoustic-noise-suppression", model=MODEL, device="cpu")))
"""
OURS = ["ours", "ours", "ours", "ANSPipeline", "ours"]
ORDERS = {
    "the package": ("import modelscope_zipenhancer", False),
    "ModelScope's pipelines": (
        "import modelscope.pipelines, modelscope_zipenhancer, modelscope_zipenhancer as again",
        False,
    ),
    "ModelScope's models": ("import modelscope.models, modelscope_zipenhancer", False),
    "the built-in itself": ("import modelscope.pipelines.audio.ans_pipeline, modelscope_zipenhancer", True),
    "the plugin module": ("import modelscope_zipenhancer.plugin.classes", False),
}


@pytest.mark.parametrize("first", ORDERS)
def test_modelscope_finds_our_classes_if_what_is_imported_first_is(first, run_python, quick_model_dir):
    imports, librosa = ORDERS[first]
    said = run_python(f"{imports}\nMODEL = {quick_model_dir!r}\n{REPORT}").split()
    assert said == [str(librosa), *OURS]


def test_importing_the_package_loads_nothing_but_the_standard_library(run_python):
    said = run_python(
        "import sys; before = set(sys.modules); import modelscope_zipenhancer\n"
        "names = {name.partition('.')[0] for name in set(sys.modules) - before}\n"
        "print(*sorted(names - sys.stdlib_module_names), 'logging' in sys.modules)"
    )
    assert said.split() == ["modelscope_zipenhancer", "False"]


def test_the_package_lists_what_it_offers_and_loads_it_when_asked():
    import modelscope_zipenhancer

    assert callable(modelscope_zipenhancer.load_model)
    assert modelscope_zipenhancer.Enhancer.__name__ == "Enhancer"
    with pytest.raises(AttributeError, match="nonsense"):
        _ = modelscope_zipenhancer.nonsense


def test_the_names_are_those_of_the_configuration():
    configuration = json.loads((ROOT / CONFIG_FILE).read_text())
    assert configuration["task"] == TASK
    assert configuration["pipeline"]["type"] == configuration["model"]["type"] == MODEL_TYPE


@pytest.fixture
def active_again():
    yield
    deactivate()
    activate()


def whose_pipeline(model_dir) -> str:
    from modelscope.pipelines import pipeline

    return type(pipeline(TASK, model=model_dir, device="cpu")).__name__


def test_deactivate_gives_modelscopes_own_back_and_activate_ours(quick_model_dir, active_again):
    assert whose_pipeline(quick_model_dir) == "ZipEnhancerPipeline"
    for _round in range(2):
        deactivate()
        deactivate()
        assert whose_pipeline(quick_model_dir) == "ANSZipEnhancerPipeline"
        assert activate() and activate()
        assert whose_pipeline(quick_model_dir) == "ZipEnhancerPipeline"


def test_the_environment_switches_it_off(quick_model_dir, active_again, monkeypatch):
    deactivate()
    monkeypatch.setenv("MODELSCOPE_ZIPENHANCER_DISABLE", "1")
    assert not activate()
    assert whose_pipeline(quick_model_dir) == "ANSZipEnhancerPipeline"


def test_a_modelscope_built_otherwise_keeps_working_and_the_log_says_why(
    quick_model_dir, active_again, monkeypatch, caplog
):
    from modelscope.utils.import_utils import LazyImportModule

    deactivate()
    whose_pipeline(quick_model_dir)
    changed = "get_ast_index" if hasattr(LazyImportModule, "get_ast_index") else "AST_INDEX"
    with monkeypatch.context() as patch:
        patch.setattr(LazyImportModule, changed, staticmethod(lambda: {}))
        activate()
    assert "is not active" in caplog.text
    assert whose_pipeline(quick_model_dir) == "ANSZipEnhancerPipeline"


def test_what_was_changed_before_a_surprise_is_changed_back(quick_model_dir, run_python):
    program = f"""
import modelscope.models.builder, modelscope.pipelines.builder
from modelscope.pipelines import pipeline
from modelscope.utils.registry import Registry

modules = Registry.modules
del Registry.modules  # the index is changed by then
import modelscope_zipenhancer
Registry.modules = modules
for _ in range(2):
    print(type(pipeline({TASK!r}, model={quick_model_dir!r}, device="cpu")).__name__)
    modelscope_zipenhancer.activate()
"""
    assert run_python(program).split() == ["ANSZipEnhancerPipeline", "ZipEnhancerPipeline"]


def test_frcrn_still_runs(tmp_path):
    pytest.importorskip("six")  # FRCRN needs it, and ModelScope doesn't say so
    from modelscope.pipelines import pipeline

    sizes = {"complex": True, "model_complexity": 8, "model_depth": 14, "log_amp": False}
    stft = {"win_len": 640, "win_inc": 320, "fft_len": 640, "win_type": "hann"}
    model = {"type": "speech_frcrn_ans_cirm_16k", "padding_mode": "zeros", **sizes, **stft}
    configuration = {
        "framework": "pytorch",
        "task": TASK,
        "pipeline": {"type": model["type"]},
        "model": model,
    }
    (tmp_path / "configuration.json").write_text(json.dumps(configuration))
    frcrn = pipeline(TASK, model=str(tmp_path), device="cpu")
    assert type(frcrn).__name__ == "ANSPipeline"
    wav = io.BytesIO()
    soundfile.write(wav, noisy_speech(1.0), 16000, format="WAV")
    assert len(frcrn(wav.getvalue())["output_pcm"]) == 2 * 16000


@pytest.fixture
def site_packages(tmp_path, monkeypatch):
    folder = tmp_path / "site-packages"
    folder.mkdir()
    monkeypatch.setattr(sysconfig, "get_path", lambda name: str(folder))
    return folder


def test_the_pth_activates_programs_that_know_nothing_of_the_package(site_packages, run_python):
    path = install_pth()
    assert path == pth_path() and path == install_pth()
    assert [entry.name for entry in site_packages.iterdir()] == ["modelscope_zipenhancer.pth"]
    program = f"import site, sys; site.addsitedir({str(site_packages)!r}); print(*sys.modules)"
    assert "modelscope_zipenhancer.plugin" in run_python(program).split()


def test_the_pth_is_silent_where_the_package_is_gone(site_packages, run_python):
    install_pth()
    program = (
        "import contextlib, io, site, sys\n"
        "sys.modules['modelscope_zipenhancer'] = None  # as if it had been uninstalled\n"
        "with contextlib.redirect_stderr(io.StringIO()) as errors:\n"
        f"    site.addsitedir({str(site_packages)!r})\n"
        "print(repr(errors.getvalue()), sys.modules['modelscope_zipenhancer'])"
    )
    assert run_python(program).split() == ["''", "None"]


def test_the_pth_goes_when_told_to(site_packages):
    install_pth()
    assert remove_pth() == pth_path()
    assert remove_pth() is None
    assert list(site_packages.iterdir()) == []


def test_a_pth_that_cannot_be_removed_is_an_error_of_the_family(site_packages):
    install_pth()
    (site_packages / "modelscope_zipenhancer.pth").unlink()
    (site_packages / "modelscope_zipenhancer.pth").mkdir()
    with pytest.raises(OutputError, match="can't be removed"):
        remove_pth()


def test_a_pth_that_cannot_be_written_is_an_error_of_the_family(tmp_path, monkeypatch):
    monkeypatch.setattr(sysconfig, "get_path", lambda name: str(tmp_path / "missing"))
    with pytest.raises(OutputError, match="missing"):
        install_pth()
