"""Makes ModelScope's registries find this package, whatever is imported first.

To build a model or pipeline, ModelScope looks (registry, task, name) up in an index of its own
source, imports the module it finds there and takes the class which that module registered. So, for
each registry in REGISTRIES:

 1. the index entry is pointed at plugin.py; the built-in, and librosa with it, stays unimported;
 2. the registry is guarded: a built-in of that name that arrives late (FRCRN's pipeline lives in the
    same file) is put aside, where it would have raised "already registered".

ModelScope may be imported after this package: a finder on sys.meta_path does all that right after
each of its builder modules has run. Standard library only, and nothing slow: with the .pth file this
runs at every start of the interpreter.
"""

import os
import sys

from ..names import CONFIG_FILE, MODEL_TYPE, TASK, WEIGHTS_FILE

ROOT = __package__.partition(".")[0]
PLUGIN = f"{__package__}.classes"
REGISTRIES = {  # ModelScope's module: the registry in it, our class for it in plugin.py
    "modelscope.models.builder": ("MODELS", "ZipEnhancerModel"),
    "modelscope.pipelines.builder": ("PIPELINES", "ZipEnhancerPipeline"),
}
# What pipeline() calls with the model's id before it has a folder: functions of pipelines.builder.
HUB_FUNCTIONS = ("is_official_hub_path", "read_config", "normalize_model_input")
DISABLE = "MODELSCOPE_ZIPENHANCER_DISABLE"  # environment: 1 switches this package off

_undo = {}  # builder module: the functions that give its registry back


def activate() -> bool:
    """Make ModelScope use this package; again is no harm. False if the environment forbids it."""
    if os.environ.get(DISABLE, "") not in ("", "0"):
        return False
    if _Finder not in sys.meta_path:
        sys.meta_path.insert(0, _Finder)
    for builder in REGISTRIES:
        if builder in sys.modules:
            _take_over(builder)
    return True


def deactivate() -> None:
    """Give ModelScope's own classes back. Pipelines that exist stay what they are."""
    if _Finder in sys.meta_path:
        sys.meta_path.remove(_Finder)
    for builder in list(_undo):
        for undo in _undo.pop(builder):
            undo()


def register_classes() -> None:
    """Put the classes of plugin.py, as far as it is loaded, into the registries taken over."""
    plugin = sys.modules.get(PLUGIN)
    for builder in _undo:
        registry_name, class_name = REGISTRIES[builder]
        if cls := getattr(plugin, class_name, None):
            registry = getattr(sys.modules[builder], registry_name)
            registry.register_module(TASK, MODEL_TYPE, module_cls=cls, force=True)


class _Finder:
    """On sys.meta_path: imports the builder modules as ever, then takes their registry over."""

    @staticmethod
    def find_spec(name, path=None, target=None):
        if name not in REGISTRIES:
            return None
        from importlib.machinery import PathFinder

        spec = PathFinder.find_spec(name, path, target)
        if spec and spec.loader:
            run = spec.loader.exec_module

            def run_and_take_over(module):
                for undo in _undo.pop(name, ()):  # this is a reload
                    undo()
                run(module)
                _take_over(name)

            spec.loader.exec_module = run_and_take_over
        return spec


def _take_over(builder: str) -> None:
    if builder in _undo:
        return
    try:
        module = sys.modules[builder]
        _undo[builder] = [_redirect(getattr(module, REGISTRIES[builder][0]))]
        if builder == "modelscope.pipelines.builder":
            _undo[builder] += [_fall_back_on_cache(module, name) for name in HUB_FUNCTIONS]
        register_classes()
    except Exception as error:  # a ModelScope that is built otherwise must still work, without us
        _log(f"{ROOT} is not active, this ModelScope is not as expected: {error!r}")


def _redirect(registry):
    """Point the index at plugin.py and guard the registry; returns what undoes both."""
    from modelscope.utils.import_utils import LazyImportModule

    lazy = LazyImportModule  # 1.20 has the index as an attribute
    index = (lazy.get_ast_index() if hasattr(lazy, "get_ast_index") else lazy.AST_INDEX)["index"]
    key = (registry.name.upper(), TASK, MODEL_TYPE)
    entry = index.get(key)
    index[key] = {"module": PLUGIN, "filepath": __file__, "imports": []}

    register = registry._register_module
    group = registry.modules.setdefault(TASK, {})
    builtin = group.pop(MODEL_TYPE, None)

    def guarded(group_key="default", module_name=None, module_cls=None, force=False):
        nonlocal builtin
        if (group_key, module_name) == (TASK, MODEL_TYPE) and module_cls.__module__ != PLUGIN:
            builtin = module_cls
            builtin.group_key = group_key  # as registering it would
        else:
            register(group_key, module_name, module_cls, force)

    registry._register_module = guarded

    def undo():
        del registry._register_module
        index.pop(key)
        if entry is not None:
            index[key] = entry
        group.pop(MODEL_TYPE, None)
        if builtin is not None:
            group[MODEL_TYPE] = builtin

    return undo


def _fall_back_on_cache(module, name: str):
    """Let module.name(model, ...) do without the hub if the model is ours and in the cache.

    pipeline() asks the hub about an id before it looks into the cache, and without network fails
    there. Returns what undoes it; a ModelScope without such a function is left alone.
    """
    function = getattr(module, name, None)
    if function is None:
        return lambda: None

    def with_cache(model, *args, **kwargs):
        try:
            return function(model, *args, **kwargs)
        except Exception as error:
            folder = _cached(model)
            if folder is None:
                raise
            _log(f"the hub can't be asked about {model}, its copy in {folder} is used ({error})")
            return function(folder, *args, **kwargs)

    setattr(module, name, with_cache)
    return lambda: setattr(module, name, function)


def _cached(model):
    """The folder of a complete ZipEnhancer model in ModelScope's cache, or None."""
    import json

    from modelscope.hub.snapshot_download import snapshot_download

    try:
        folder = snapshot_download(model, local_files_only=True)
        with open(os.path.join(folder, CONFIG_FILE), encoding="utf-8") as file:
            ours = json.load(file)["pipeline"]["type"] == MODEL_TYPE
    except Exception:  # not in the cache, no id at all, another kind of model
        return None
    return folder if ours and os.path.exists(os.path.join(folder, WEIGHTS_FILE)) else None


def _log(text: str) -> None:
    import logging  # here: its import takes longer than this module's

    logging.getLogger(ROOT).warning(text)
