"""migvis: see what a neural population encodes (MIG-Vis, mutual-information-guided diffusion).

The names below are loaded when they are first used, so that `import migvis` is cheap.
"""
__version__ = "0.1.0"

_HOME = {
    "MIGVis": "model",
    "Edits": "model",
    "EditSettings": "support.presets",
    "Recording": "data",
    "load_recording": "recordings.sources",
    "simulate_hvm": "simulate.it",
}
__all__ = sorted(_HOME)


def __getattr__(name: str) -> object:
    "Import a name from the module that defines it (PEP 562)."
    if name not in _HOME: raise AttributeError(f"module 'migvis' has no attribute {name!r}; it offers {', '.join(__all__)}")
    from importlib import import_module
    return getattr(import_module(f"migvis.{_HOME[name]}"), name)


def __dir__() -> list[str]:
    "What the package offers."
    return [*globals(), *_HOME]
