"""ModelScope still has what plugin/relied_on.py lists: a test for each row, of ModelScope alone."""

import base64
import importlib
import inspect
import json
import sys
from importlib.metadata import version
from types import SimpleNamespace

import numpy as np
import pytest
from conftest import needs_ast_str

from modelscope_zipenhancer.names import MODEL_TYPE, TASK
from modelscope_zipenhancer.plugin.relied_on import RELIED_ON

MODELSCOPE = version("modelscope")
FRCRN = "speech_frcrn_ans_cirm_16k"  # a type of the same task whose entries nobody changes
CHECKS = {}


def contract(name: str):
    """Make a function the check of a row: it fails, in whatever way, if the row isn't true."""

    def register(check):
        assert name not in CHECKS, name
        CHECKS[name] = check
        return check

    return register


def numbers(release: str) -> tuple:
    return tuple(int(part) for part in release.split(".")[:2])


def hold(row, tools) -> None:
    """Run the check of a row; the test fails with what to do about it."""
    try:
        CHECKS[row.name](tools)
    except Exception as error:
        pytest.fail(
            f"modelscope {MODELSCOPE} hasn't {row.name} as this package relies on it.\n"
            f"Used: {row.used}.\nWithout it: {row.without}.\nFound: {type(error).__name__}: {error}"
        )


@pytest.fixture
def tools(quick_model_dir, monkeypatch, tmp_path):
    """model_dir; patch; folder, on sys.path for new modules."""
    monkeypatch.syspath_prepend(tmp_path)
    return SimpleNamespace(model_dir=quick_model_dir, patch=monkeypatch, folder=tmp_path)


@pytest.mark.parametrize("row", RELIED_ON, ids=lambda row: row.name)
def test_modelscope_has(row, tools):
    if not numbers(row.since) <= numbers(MODELSCOPE) <= numbers(row.until or MODELSCOPE):
        pytest.skip(f"of modelscope {row.since} to {row.until or 'now'}, this is {MODELSCOPE}")
    if row.name.endswith(":get_pipeline_information_by_pipeline"):
        needs_ast_str()
    hold(row, tools)


def test_each_row_has_a_check_and_each_check_a_row():
    assert [row.name for row in RELIED_ON if row.name not in CHECKS] == []
    assert [name for name in CHECKS if name not in {row.name for row in RELIED_ON}] == []


def test_a_name_that_is_gone_is_said_with_what_breaks(tools):
    from modelscope.utils.registry import Registry

    (row,) = (row for row in RELIED_ON if row.name.endswith(":Registry.modules"))
    tools.patch.delattr(Registry, "modules")
    with pytest.raises(pytest.fail.Exception) as failure:
        hold(row, tools)
    for part in (MODELSCOPE, row.name, row.used, row.without, "AttributeError"):
        assert part in str(failure.value)


# ---- how a class is found ------------------------------------------------------------------------


def the_index() -> dict:
    from modelscope.utils.import_utils import LazyImportModule

    if hasattr(LazyImportModule, "get_ast_index"):
        return LazyImportModule.get_ast_index()["index"]
    return LazyImportModule.AST_INDEX["index"]


def new_entry(tools, key: tuple, source: str) -> str:
    """An index entry of a new module with that source; returns the module's name."""
    name = f"contract_{len(list(tools.folder.iterdir()))}"
    (tools.folder / f"{name}.py").write_text(source)
    tools.patch.delitem(sys.modules, name, raising=False)
    tools.patch.setitem(the_index(), key, {"module": name, "filepath": "", "imports": []})
    return name


@contract("modelscope.models.builder:MODELS")
def _(tools):
    from modelscope.models.builder import MODELS
    from modelscope.utils.registry import Registry

    assert isinstance(MODELS, Registry) and MODELS.name.upper() == "MODELS"
    assert ("MODELS", TASK, FRCRN) in the_index()


@contract("modelscope.pipelines.builder:PIPELINES")
def _(tools):
    from modelscope.pipelines.builder import PIPELINES
    from modelscope.utils.registry import Registry

    assert isinstance(PIPELINES, Registry) and PIPELINES.name.upper() == "PIPELINES"
    assert ("PIPELINES", TASK, FRCRN) in the_index()


@contract("modelscope.exporters.builder:EXPORTERS")
def _(tools):
    from modelscope.exporters.builder import EXPORTERS
    from modelscope.utils.registry import Registry

    assert isinstance(EXPORTERS, Registry) and EXPORTERS.name.upper() == "EXPORTERS"


@contract("modelscope.exporters.base:Exporter.from_model")
def _(tools):
    from modelscope.exporters.base import Exporter
    from modelscope.exporters.builder import EXPORTERS

    class Contract(Exporter):
        def export_onnx(self, output_dir, **_):
            pass

    tools.patch.setitem(EXPORTERS.modules, "contract", {MODEL_TYPE: Contract})
    model = SimpleNamespace(model_dir=tools.model_dir, group_key="contract")
    exporter = Exporter.from_model(model)
    assert isinstance(exporter, Contract) and exporter.model is model


def holds_the_built_ins_entries(index: dict) -> None:
    entry = index["index"]["PIPELINES", TASK, FRCRN]
    assert set(entry) == {"module", "filepath", "imports"}, entry
    assert entry["module"].startswith("modelscope.pipelines."), entry
    assert {("MODELS", TASK, MODEL_TYPE), ("PIPELINES", TASK, MODEL_TYPE)} <= set(index["index"])


@contract("modelscope.utils.import_utils:LazyImportModule.AST_INDEX")
def _(tools):
    from modelscope.utils.import_utils import LazyImportModule

    holds_the_built_ins_entries(LazyImportModule.AST_INDEX)


@contract("modelscope.utils.import_utils:LazyImportModule.get_ast_index")
def _(tools):
    from modelscope.utils.import_utils import LazyImportModule

    holds_the_built_ins_entries(LazyImportModule.get_ast_index())
    assert LazyImportModule.get_ast_index()["index"] is LazyImportModule.get_ast_index()["index"]


@contract("modelscope.utils.import_utils:LazyImportModule.import_module")
def _(tools):
    from modelscope.utils.import_utils import LazyImportModule

    key = ("PIPELINES", TASK, "contract")
    name = new_entry(tools, key, "")
    LazyImportModule.import_module(key)
    assert name in sys.modules, "the entry's module was not imported"


@contract("modelscope.utils.automodel_utils:can_load_by_ms")
def _(tools):
    from modelscope.utils.automodel_utils import can_load_by_ms

    assert not can_load_by_ms(str(tools.folder), TASK, "contract")
    new_entry(tools, ("MODELS", TASK, "contract"), "")
    assert can_load_by_ms(str(tools.folder), TASK, "contract")


@contract("modelscope.utils.registry:build_from_cfg")
def _(tools):
    from modelscope.utils.registry import Registry, build_from_cfg

    class Refused(Exception):
        def __init__(self, text: str):
            super().__init__(text)

    class Built:
        def __init__(self, size, **others):
            if size < 0:
                raise Refused("a negative size")
            self.size = size

    registry = Registry("contracts")
    registry.modules[TASK] = {"contract": Built}
    name = new_entry(tools, ("CONTRACTS", TASK, "contract"), "")
    built = build_from_cfg({"type": "contract", "size": 3}, registry, TASK)
    assert name in sys.modules, "the index was not asked"
    assert isinstance(built, Built) and built.size == 3 and Built.group_key == TASK
    with pytest.raises(Refused, match="a negative size"):
        build_from_cfg({"type": "contract", "size": -1}, registry, TASK)


def a_registry():
    from modelscope.utils.registry import Registry

    return Registry("contracts")


@contract("modelscope.utils.registry:Registry.name")
def _(tools):
    assert a_registry().name == "contracts"


@contract("modelscope.utils.registry:Registry.modules")
def _(tools):
    class Registered:
        pass

    registry = a_registry()
    registry.register_module(TASK, "contract", module_cls=Registered)
    assert registry.modules[TASK] == {"contract": Registered}
    registry.modules[TASK].pop("contract")
    assert registry.get("contract", TASK) is None
    registry.modules.setdefault("another task", {})["contract"] = Registered
    assert registry.get("contract", "another task") is Registered


@contract("modelscope.utils.registry:Registry._register_module")
def _(tools):
    registry, calls = a_registry(), []
    registered = registry._register_module

    def guard(group_key, module_name, module_cls, force):
        calls.append((group_key, module_name, module_cls, force))
        registered(group_key, module_name, module_cls, force)

    class Decorated:
        pass

    class Given:
        pass

    registry._register_module = guard
    registry.register_module(TASK, module_name="decorated")(Decorated)
    registry.register_module(TASK, "given", module_cls=Given, force=True)
    assert calls == [(TASK, "decorated", Decorated, False), (TASK, "given", Given, True)]
    assert registry.get("given", TASK) is Given
    del registry._register_module
    registry.register_module(TASK, "later", module_cls=Given)
    assert len(calls) == 2 and registry.get("later", TASK) is Given


@contract("modelscope.utils.registry:Registry.register_module")
def _(tools):
    class First:
        pass

    class Second:
        pass

    registry = a_registry()
    registry.register_module(TASK, "contract", module_cls=First)
    with pytest.raises(KeyError, match="already registered"):  # why the built-in has to be put aside
        registry.register_module(TASK, "contract", module_cls=Second)
    registry.register_module(TASK, "contract", module_cls=Second, force=True)
    assert registry.get("contract", TASK) is Second and Second.group_key == TASK


@contract("modelscope.metainfo:Models.speech_zipenhancer_ans_multiloss_16k_base")
def _(tools):
    from modelscope.metainfo import Models

    assert Models.speech_zipenhancer_ans_multiloss_16k_base == MODEL_TYPE


@contract("modelscope.metainfo:Pipelines.speech_zipenhancer_ans_multiloss_16k_base")
def _(tools):
    from modelscope.metainfo import Pipelines

    assert Pipelines.speech_zipenhancer_ans_multiloss_16k_base == MODEL_TYPE


@contract("modelscope.utils.constant:Tasks.acoustic_noise_suppression")
def _(tools):
    from modelscope.utils.constant import Tasks

    assert Tasks.acoustic_noise_suppression == TASK


# ---- without network -----------------------------------------------------------------------------


def is_called_by_pipeline(name: str, tools) -> None:
    """pipeline() itself calls the global of its module, with the model first."""
    from modelscope.pipelines import builder

    function, models = getattr(builder, name), []

    def recorded(model, *args, **kwargs):
        if sys._getframe(1).f_code is builder.pipeline.__code__:
            models.append(model)
        return function(model, *args, **kwargs)

    tools.patch.setattr(builder, name, recorded)
    builder.pipeline(TASK, model=tools.model_dir, device="cpu")
    assert models and set(models) == {tools.model_dir}, f"pipeline() called it with {models}"


@contract("modelscope.pipelines.builder:is_official_hub_path")
def _(tools):
    is_called_by_pipeline("is_official_hub_path", tools)


@contract("modelscope.pipelines.builder:read_config")
def _(tools):
    is_called_by_pipeline("read_config", tools)


@contract("modelscope.pipelines.builder:normalize_model_input")
def _(tools):
    from modelscope.pipelines import builder
    from modelscope.utils.constant import DEFAULT_MODEL_REVISION

    is_called_by_pipeline("normalize_model_input", tools)
    assert builder.normalize_model_input(tools.model_dir, DEFAULT_MODEL_REVISION) == tools.model_dir
    asked = []
    tools.patch.setattr(builder, "is_official_hub_path", lambda *args, **kwargs: True)
    tools.patch.setattr(builder, "snapshot_download", lambda model, **_: asked.append(model) or "folder")
    assert builder.normalize_model_input("damo/contract", DEFAULT_MODEL_REVISION) == "folder"
    assert asked == ["damo/contract"]


@contract("modelscope.hub.snapshot_download:snapshot_download")
def _(tools):
    import socket

    from modelscope.hub.snapshot_download import snapshot_download

    def no_network(*args, **kwargs):
        raise AssertionError("it asks the network")

    assert "local_files_only" in inspect.signature(snapshot_download).parameters
    tools.patch.setattr(socket, "create_connection", no_network)
    with pytest.raises(Exception) as caught:
        snapshot_download("damo/contract", cache_dir=str(tools.folder), local_files_only=True)
    assert "network" not in str(caught.value), caught.value


# ---- what the classes inherit and override -------------------------------------------------------


def a_model(tools):
    from modelscope.models.base import TorchModel

    class Network(TorchModel):
        def forward(self, inputs):
            return inputs

    return Network(tools.model_dir, device="cpu", unknown=1)


def a_pipeline(tools, **methods):
    """A pipeline on the CPU whose methods are those given, with what each has been called with."""
    from modelscope.pipelines.base import Pipeline

    calls = []

    def recorded(name, method):
        def call(self, *args, **kwargs):
            calls.append((name, *args, *([kwargs] if kwargs else [])))
            return method(*args, **kwargs)

        return call

    def same(x, **kwargs):
        return x

    methods = {"preprocess": same, "forward": same, "postprocess": same, **methods}
    body = {name: recorded(name, method) for name, method in methods.items()}
    cls = type("Recorder", (Pipeline,), {"group_key": TASK, **body})
    ans = cls(model=a_model(tools), device="cpu", preprocessor=same)
    ans.calls = calls
    return ans


@contract("modelscope.models.base:Model.from_pretrained")
def _(tools):
    from modelscope.models import Model

    source = f"""
from modelscope.models.base import TorchModel
from modelscope.models.builder import MODELS

@MODELS.register_module({TASK!r}, module_name="contract")
class Network(TorchModel):
    def __init__(self, model_dir, *args, **kwargs):
        super().__init__(model_dir, *args, **kwargs)
        self.given = kwargs

    def forward(self, inputs):
        return inputs
"""
    from modelscope.models.builder import MODELS

    new_entry(tools, ("MODELS", TASK, "contract"), source)
    model = {"type": "contract", "size": 3, "depth": 4}
    configuration = {"framework": "pytorch", "task": TASK, "model": model, "pipeline": {"type": "contract"}}
    (tools.folder / "configuration.json").write_text(json.dumps(configuration))
    try:
        network = Model.from_pretrained(str(tools.folder), device="cpu", size=5)
    finally:
        MODELS.modules.get(TASK, {}).pop("contract", None)
    given = {"size": 5, "depth": 4, "device": "cpu"}
    assert given.items() <= network.given.items(), network.given
    assert network.cfg.to_dict()["pipeline"] == {"type": "contract"}
    assert network.model_dir == str(tools.folder)


@contract("modelscope.models.base:TorchModel.save_pretrained")
def _(tools):
    folder, saved = tools.folder / "saved", []
    folder.mkdir()
    model = a_model(tools)

    def save(model, path, **kwargs):
        saved.append((model, path))

    config = {"task": TASK, "model": {"size": 3}, "pipeline": {"type": "contract"}}
    model.save_pretrained(folder, "weights.bin", save_function=save, config=config)
    assert saved == [(model, str(folder / "weights.bin"))]
    assert json.loads((folder / "configuration.json").read_text()) == config


@contract("modelscope.pipelines.base:Pipeline.__init__")
def _(tools):
    from modelscope.pipelines.base import Pipeline
    from modelscope.preprocessors import Preprocessor

    searched = []
    tools.patch.setattr(Preprocessor, "from_pretrained", lambda *args, **kwargs: searched.append(args))
    model, preprocessor = a_model(tools), object()
    cls = type("Bare", (Pipeline,), {"group_key": TASK, "postprocess": lambda self, x: x})
    ans = cls(model=model, device="cpu", preprocessor=preprocessor, unknown=1)
    assert ans.model is model and ans.preprocessor is preprocessor and ans.device.type == "cpu"
    assert not searched


@contract("modelscope.pipelines.base:Pipeline._sanitize_parameters")
def _(tools):
    def sort(**parameters):
        return {"reading": 1}, {"work": 2}, {"writing": 3}

    ans = a_pipeline(tools, _sanitize_parameters=sort)
    ans("input.wav", level="input", unknown=4)
    assert ans.calls == [
        ("_sanitize_parameters", {"level": "input", "unknown": 4}),
        ("preprocess", "input.wav", {"reading": 1}),
        ("forward", "input.wav", {"work": 2}),
        ("postprocess", "input.wav", {"writing": 3}),
    ]


@contract("modelscope.pipelines.base:Pipeline._check_input")
def _(tools):
    ans = a_pipeline(tools, _check_input=lambda input: None)
    ans(("of no", "kind that is allowed"))
    assert [call[0] for call in ans.calls] == ["_check_input", "preprocess", "forward", "postprocess"]


@contract("modelscope.pipelines.base:Pipeline._auto_collate")
def _(tools):
    ans = a_pipeline(tools, preprocess=lambda x: {"noisy": np.zeros(3, np.float32)})
    seen = []
    tools.patch.setattr(type(ans), "forward", lambda self, inputs: seen.append(inputs["noisy"]) or {})
    ans("input.wav")
    ans._auto_collate = False
    ans("input.wav")
    assert not isinstance(seen[0], np.ndarray) and isinstance(seen[1], np.ndarray), seen


@contract("modelscope.pipelines.base:Pipeline.prepare_model")
def _(tools):
    placed = []
    ans = a_pipeline(tools)
    tools.patch.setattr(ans.model, "to", lambda device: placed.append(str(device)))
    ans.prepare_model()
    assert placed == ["cpu"]
    ans("input.wav")
    assert placed == ["cpu"], "the first call places the model again"


@contract("modelscope.pipelines.base:Pipeline.__call__")
def _(tools):
    ans = a_pipeline(
        tools,
        preprocess=lambda x: {"noisy": np.full(2, x), "scale": float(x)},
        forward=lambda inputs: {"output_pcm": [bytes([int(scale)]) for scale in inputs["scale"]]},
    )
    ans._auto_collate = False
    assert ans([1, 2, 3], batch_size=2) == [{"output_pcm": bytes([item])} for item in (1, 2, 3)]
    inputs = [call[1] for call in ans.calls if call[0] == "forward"]
    assert [item["scale"] for item in inputs] == [[1.0, 2.0], [3.0]]
    assert [len(item["noisy"]) for item in inputs] == [2, 1] and isinstance(inputs[0]["noisy"], list)


@contract("modelscope.utils.constant:DEFAULT_MODEL_REVISION")
def _(tools):
    from modelscope.utils.constant import DEFAULT_MODEL_REVISION

    assert DEFAULT_MODEL_REVISION is None or isinstance(DEFAULT_MODEL_REVISION, str)


@contract("modelscope.outputs:OutputKeys.OUTPUT_PCM")
def _(tools):
    from modelscope.outputs import TASK_OUTPUTS, OutputKeys

    assert OutputKeys.OUTPUT_PCM == "output_pcm"
    assert TASK_OUTPUTS[TASK] == ["output_pcm"]


# ---- `modelscope server` -------------------------------------------------------------------------


@contract("modelscope.utils.input_output:get_pipeline_information_by_pipeline")
def _(tools):
    from modelscope.utils.input_output import get_pipeline_information_by_pipeline

    (tools.folder / "contract_server.py").write_text("""
class Plain:
    group_key = "acoustic-noise-suppression"

    def preprocess(self, inputs: object, sample_rate: int = None) -> dict:
        return inputs

    def forward(self, inputs: dict, level: str = "modelscope") -> dict:
        return inputs

    def postprocess(self, inputs: dict, output_path: str = None) -> dict:
        return inputs
""")
    tools.patch.delitem(sys.modules, "contract_server", raising=False)
    plain = importlib.import_module("contract_server").Plain()
    information = get_pipeline_information_by_pipeline(plain)
    assert information.task_name == TASK
    assert set(information.schema["parameters"]["properties"]) == {"sample_rate", "level", "output_path"}


@contract("modelscope.utils.input_output:call_pipeline_with_json")
def _(tools):
    from modelscope.utils.input_output import call_pipeline_with_json

    calls = []
    body = {"input": {"input": base64.b64encode(b"RIFF").decode()}, "parameters": {"level": "input"}}
    result = call_pipeline_with_json(
        {"task_name": TASK}, lambda *args, **kwargs: calls.append((args, kwargs)) or "result", body
    )
    assert result == "result" and calls == [((b"RIFF",), {"level": "input"})], calls


@contract("modelscope.utils.input_output:pipeline_output_to_service_base64_output")
def _(tools):
    from modelscope.utils.input_output import pipeline_output_to_service_base64_output

    answer = pipeline_output_to_service_base64_output(TASK, {"output_pcm": b"sound"})
    assert answer == {"output_pcm": base64.b64encode(b"sound").decode()}


@contract("modelscope.utils.input_output:service_base64_input_to_pipeline_input")
def _(tools):
    from modelscope.utils import input_output

    name = "service_base64_input_to_pipeline_input"
    tools.patch.setattr(input_output, name, lambda task, request: ((task, request), {"level": "input"}))
    called = input_output.call_pipeline_with_json({"task_name": TASK}, lambda *a, **k: (a, k), {"input": 1})
    assert called == (((TASK, {"input": 1}),), {"level": "input"}), called


@contract("modelscope.server.api_server:get_app")
def _(tools):
    pytest.importorskip("fastapi", reason="the [serve] extra")
    from modelscope.server import api_server

    from modelscope_zipenhancer.plugin.service import _event_handlers

    with _event_handlers():
        app = api_server.get_app(SimpleNamespace())
    source = inspect.getsource(importlib.import_module("modelscope.server.api.routers.model_router"))
    source += inspect.getsource(importlib.import_module("modelscope.server.core.event_handlers"))
    for part in ("post('/call'", "app.state.pipeline = ", "app.state.pipeline_info = ", "info['task_name']"):
        assert part in source.replace('"', "'"), part
    assert app.state
