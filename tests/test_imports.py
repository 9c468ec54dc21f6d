"""The import table of docs/design.md: which folder may import what, inside functions too."""

import ast
import sys
from pathlib import Path

import pytest

import modelscope_zipenhancer

PACKAGE = Path(modelscope_zipenhancer.__file__).parent
NAME = PACKAGE.name
ROOT = {"errors", "names", "files", "workers", "worker_process"}  # standard library only; open to all

# Folder: what it may import besides the standard library, ROOT and its own files. A folder's name stands for
# all that is in it, 'folder.module' for that module.
TABLE = {
    "network": {"numpy", "torch"},
    "audio": {"numpy", "soundfile", "soxr", "librosa", "av"},
    "runtime": {"numpy", "torch", "network"},
    "enhance": {"numpy", "audio", "runtime.backend", "network.pretrained"},
    "corpus": {
        "numpy",
        "soundfile",
        "fsspec",
        "datasets",
        "pyarrow",
        "ray",
        "audio",
        "enhance",
        "runtime.backend",
    },
    "evaluate": {"numpy", "scipy", "pesq", "pystoi", "onnxruntime", "matplotlib", "audio", "enhance"},
    "web": {"numpy", "audio", "enhance", "fastapi", "starlette", "uvicorn", "prometheus_client"},
    "train": {"numpy", "scipy", "torch", "soundfile", "soxr", "network", "audio", "evaluate"},
    "plugin": {"numpy", "torch", "modelscope", "network", "runtime", "audio", "enhance", "train"},
}
# Modules that may import otherwise than their folder; None: everything.
SPECIAL = {
    "__init__": {"plugin", "enhance.enhancer", "network.checkpoint"},  # the public names, lazily
    "__main__": {"cli"},
    "network.pretrained": {"modelscope"},  # the download
    "plugin.__init__": {"modelscope"},  # inside functions: it runs at each start of Python
    "plugin.pth": set(),
    "plugin.service": {"modelscope", "fastapi", "audio", "web.limits"},
    "web.limits": {"audio.policy"},
    "runtime.backend": {"numpy"},
    "runtime.onnx": {"numpy", "onnxruntime", "network.config"},
    "runtime.onnx_export": {"numpy", "torch", "onnx", "onnxruntime", "network"},
    "runtime.onnx_graph": {"numpy", "torch", "onnx", "network"},
    "runtime.onnx_layer": {"numpy", "onnx"},
    "runtime.onnx_nodes": {"numpy", "torch", "onnx"},
    "web.demo": {"gradio", "starlette", "audio.policy"},
    "web.jobs": {"numpy", "audio", "enhance"},
    "web.picture": {"numpy", "PIL", "audio", "evaluate.spectrogram"},
    "web.theme": {"gradio"},
    "train.validate": {*TABLE["train"], "enhance", "runtime"},
    "train.__main__": {"cli"},  # `python -m modelscope_zipenhancer.train`, for torchrun
}


def modules() -> dict:
    """{dotted name below the package: its file}"""
    found = {}
    for path in sorted(PACKAGE.rglob("*.py")):
        found[".".join(path.relative_to(PACKAGE).with_suffix("").parts)] = path
    return found


def imports(name: str, path: Path) -> set:
    """What a module imports, anywhere in it: 'torch', or 'network.config' for one of ours."""
    package = name.split(".")[:-1]
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            base = [NAME, *package[: len(package) - node.level + 1]] if node.level else []
            base += node.module.split(".") if node.module else []
            below = ".".join(base[1:])
            for alias in node.names:
                ours = base[0] == NAME
                module = f"{below}.{alias.name}".strip(".") if ours else base[0]
                found.add(f"{NAME}.{module if module in MODULES else below}" if ours else module)
    return {x.removeprefix(f"{NAME}.") if x.startswith(NAME) else x.split(".")[0] for x in found} - {""}


MODULES = modules()


def rules_of(name: str) -> set | None:
    folder = name.partition(".")[0] if "." in name else ""
    if folder == "cli":  # which nobody imports
        return None
    assert name in SPECIAL or name in ROOT or folder in TABLE, (
        f"{name} is in a new place: give it a row in TABLE and in docs/design.md"
    )
    return SPECIAL.get(name, TABLE.get(folder, set())) | ({folder} if folder else set())


@pytest.mark.parametrize("name", MODULES)
def test_a_module_imports_only_what_its_floor_may(name):
    rules = rules_of(name)
    if rules is None:
        return
    rules |= ROOT | sys.stdlib_module_names
    wrong = {
        target
        for target in imports(name, MODULES[name])
        if not any(target == rule or target.startswith(f"{rule}.") for rule in rules)
    }
    assert not wrong, f"{name} may not import {', '.join(sorted(wrong))}: docs/design.md has the table"


def test_what_the_package_offers_is_listed_before_it_is_imported():
    assert set(modelscope_zipenhancer.__all__) <= set(dir(modelscope_zipenhancer))


def test_the_form_for_cpus_does_not_know_that_for_gpus():
    for name in MODULES:
        if name.startswith("runtime.cpu."):
            assert not any(target.startswith("runtime.gpu") for target in imports(name, MODULES[name])), name
