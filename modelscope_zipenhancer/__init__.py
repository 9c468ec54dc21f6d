"""ZipEnhancer speech denoising: a drop-in for ModelScope's pipeline, and a package of its own.

Importing it makes ModelScope use it (plugin/) and loads nothing else: what else is named here
is imported when it is first asked for.
"""

from .plugin import activate, deactivate

__version__ = "0.1.0"
__all__ = ["Enhancer", "load_model", "activate", "deactivate", "__version__"]

activate()


def __dir__():
    return sorted({*globals(), *__all__})


def __getattr__(name):
    if name == "Enhancer":
        from .enhance.enhancer import Enhancer

        return Enhancer
    if name == "load_model":
        from .network.checkpoint import load_model

        return load_model
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
