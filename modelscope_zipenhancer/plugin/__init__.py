"""Makes ModelScope build this package's classes, whatever is imported first; and its own again.

To build a model or a pipeline, ModelScope looks (registry, task, type) up in an index of its own
source, imports the module that it finds there, and then takes the class that this module registered:

    pipeline(task, model)  ->  type, in the model's configuration.json
      ->  index["PIPELINES", task, type]["module"]  ->  imported  ->  PIPELINES.modules[task][type]

So, for each of the REGISTRIES:

 1. The index entry is pointed at classes.py. The built-in stays unimported, and librosa with it.
 2. The registry is guarded. The built-in can still be imported, FRCRN's pipeline lives in the same
    file; there it would find its name taken and raise, and FRCRN with it. It is put aside instead.

And without network a model in the cache will do (`_fall_back_on_cache`); and what comes to ModelScope's
service is treated as a stranger's (service.py).

ModelScope may be imported after this package: a finder on sys.meta_path does that right after the
module of a registry has run. The private names of ModelScope that all this rests on: relied_on.py.
Standard library only, and nothing slow: with the .pth file (pth.py) this runs whenever Python starts.
"""

import os
import sys

from ..names import CONFIG_FILE, MODEL_TYPE, TASK, WEIGHTS_FILE

ROOT = __package__.partition(".")[0]
CLASSES = f"{__package__}.classes"
PIPELINES_BUILDER = "modelscope.pipelines.builder"
REGISTRIES = {  # ModelScope's module: the registry in it, our class for it in classes.py
    "modelscope.models.builder": ("MODELS", "ZipEnhancerModel"),
    PIPELINES_BUILDER: ("PIPELINES", "ZipEnhancerPipeline"),
    "modelscope.exporters.builder": ("EXPORTERS", "ZipEnhancerExporter"),  # which has no built-in
}
SERVICE = {  # ModelScope's module: what is done to it, a function of service.py
    "modelscope.utils.input_output": "mark_what_is_sent",
    "modelscope.server.api_server": "limit_requests",
}
# What pipeline() asks the hub by, before it has the model's folder; globals of PIPELINES_BUILDER.
HUB_FUNCTIONS = ("is_official_hub_path", "read_config", "normalize_model_input")
DISABLE = "MODELSCOPE_ZIPENHANCER_DISABLE"  # environment variable: 1 switches this package off

_undo = {}  # module of ModelScope that is taken over: functions, each takes one change back


def activate() -> bool:
    """Make ModelScope use this package; again is no harm. False if the environment forbids it."""
    if os.environ.get(DISABLE, "") not in ("", "0"):
        return False
    if _Finder not in sys.meta_path:
        sys.meta_path.insert(0, _Finder)
    for name in (*REGISTRIES, *SERVICE):
        if name in sys.modules:
            _take_over(name)
    return True


def deactivate() -> None:
    """Give ModelScope's own classes back. Pipelines that exist stay what they are."""
    if _Finder in sys.meta_path:
        sys.meta_path.remove(_Finder)
    for name in list(_undo):
        _give_back(name)


def register_classes() -> None:
    """Put the classes of classes.py, as far as it is loaded, into the registries taken over.

    Called from both sides, since either may come first: at the end of classes.py, and when a registry
    is taken over.
    """
    classes = sys.modules.get(CLASSES)
    for builder in REGISTRIES.keys() & _undo:
        registry_name, class_name = REGISTRIES[builder]
        if cls := getattr(classes, class_name, None):
            registry = getattr(sys.modules[builder], registry_name)
            registry.register_module(TASK, MODEL_TYPE, module_cls=cls, force=True)


class _Finder:
    """On sys.meta_path: lets a module of REGISTRIES or SERVICE be imported as ever, then takes it over.

    Each module is waited for: Model.from_pretrained needs only that of the models. None imports
    another, which inside an import would be a circle.
    """

    @staticmethod
    def find_spec(name, path=None, target=None):
        if name not in REGISTRIES and name not in SERVICE:
            return None
        from importlib.machinery import PathFinder

        spec = PathFinder.find_spec(name, path, target)
        if spec and spec.loader:
            run = spec.loader.exec_module

            def run_and_take_over(module):
                _give_back(name)  # a reload makes a new registry
                run(module)
                _take_over(name)

            spec.loader.exec_module = run_and_take_over
        return spec


def _take_over(name: str) -> None:
    """Change one module, now that it has run; all of the change, or nothing and a warning.

    A ModelScope that is built otherwise must go on working, with its own classes.
    """
    if name in _undo:
        return
    module, undo = sys.modules[name], []
    _undo[name] = undo
    try:
        if name in SERVICE:
            from . import service

            undo.append(getattr(service, SERVICE[name])(module))
            return
        registry = getattr(module, REGISTRIES[name][0])
        undo.append(_point_index_here(registry))
        undo.append(_guard(registry))
        if name == PIPELINES_BUILDER:
            for function in HUB_FUNCTIONS:
                undo.append(_fall_back_on_cache(module, function))
        register_classes()
    except Exception as error:
        _give_back(name)
        what = "a service of ModelScope isn't limited" if name in SERVICE else f"{ROOT} is not active"
        _log(f"{what}, this ModelScope is not as expected: {error!r}")


def _give_back(name: str) -> None:
    """Take back what `_take_over` changed, the last change first."""
    for undo in reversed(_undo.pop(name, [])):
        undo()


def _point_index_here(registry):
    """Make ModelScope import classes.py for our type of this registry; returns what takes it back."""
    from modelscope.utils.import_utils import LazyImportModule as lazy

    # Until 1.20 an attribute, since 1.21 behind a function that reads it from a file.
    index = (lazy.get_ast_index() if hasattr(lazy, "get_ast_index") else lazy.AST_INDEX)["index"]
    key = (registry.name.upper(), TASK, MODEL_TYPE)
    entry = index.get(key)
    path = os.path.join(os.path.dirname(__file__), "classes.py")
    index[key] = {"module": CLASSES, "filepath": path, "imports": []}

    def undo():
        index.pop(key)
        if entry is not None:
            index[key] = entry

    return undo


def _guard(registry):
    """Put ModelScope's class of our type aside, there already or yet to come; returns what takes it back.

    register_module calls self._register_module, so that a function set on the registry is in its way.
    """
    register = registry._register_module
    classes = registry.modules.setdefault(TASK, {})
    builtin = classes.pop(MODEL_TYPE, None)

    def guarded(group_key="default", module_name=None, module_cls=None, force=False):
        nonlocal builtin
        if (group_key, module_name) == (TASK, MODEL_TYPE) and module_cls.__module__ != CLASSES:
            builtin = module_cls
            builtin.group_key = group_key  # as registering it would; pipelines read it
        else:
            register(group_key, module_name, module_cls, force)

    registry._register_module = guarded

    def undo():
        del registry._register_module
        classes.pop(MODEL_TYPE, None)
        if builtin is not None:
            classes[MODEL_TYPE] = builtin

    return undo


def _fall_back_on_cache(module, name: str):
    """Let module.name(model, ...) do without the hub if the model is ours and in the cache.

    pipeline() asks the hub about an id before it looks into the cache, and without network fails
    there. Returns what takes it back; a ModelScope without such a function is left alone.
    """
    function = getattr(module, name, None)
    if function is None:
        return lambda: None

    def with_cache(model, *args, **kwargs):
        try:
            return function(model, *args, **kwargs)
        except Exception as error:
            revision = args[0] if args else kwargs.get("revision", kwargs.get("model_revision"))
            folder = _cached(model, revision)
            if folder is None:
                raise
            _log(f"the hub can't be asked about {model}, its copy in {folder} is used ({error})")
            return function(folder, *args, **kwargs)

    setattr(module, name, with_cache)
    return lambda: setattr(module, name, function)


def _cached(model, revision=None) -> "str | None":
    """The folder of a complete ZipEnhancer model, of that revision, in ModelScope's cache, or None."""
    import json

    from modelscope.hub.snapshot_download import snapshot_download

    try:
        named = {} if revision is None else {"revision": revision}
        folder = snapshot_download(model, local_files_only=True, **named)
        with open(os.path.join(folder, CONFIG_FILE), encoding="utf-8") as file:
            ours = json.load(file)["pipeline"]["type"] == MODEL_TYPE
        if revision is not None and os.path.exists(noted := os.path.join(folder, ".mv")):
            with open(noted, encoding="utf-8") as file:  # 1.20 takes any revision for the one that is cached
                ours = ours and file.read().startswith(f"Revision:{revision},")
    except Exception:  # not in the cache, no id at all, another kind of model
        return None
    return folder if ours and os.path.exists(os.path.join(folder, WEIGHTS_FILE)) else None


def _log(text: str) -> None:
    import logging  # here: its import takes longer than this module's

    logging.getLogger(ROOT).warning(text)
