"""`build_engine` and `training` stand beside this package under names that a user's folder may have too.

They are loaded by their place, so that `egm` finds its own from a folder that holds another `training/`; that one is left to
whoever imports it by name. One process holds one package of a name: where another was imported before, a BackendError says so.
"""

from __future__ import annotations

import importlib
import importlib.util
import sys
from importlib.machinery import PathFinder
from pathlib import Path
from types import ModuleType

from egm_edge.errors import BackendError

HOME = Path(__file__).resolve().parent.parent
PACKAGES = ("build_engine", "training")


def import_own(module: str) -> ModuleType:
    """A module of this package, or of the two beside it.

    Raises:
        BackendError: another package of that name is in this process already.
        ModuleNotFoundError: it is not installed, or something that it imports is not.
    """
    package = module.partition(".")[0]
    if package in PACKAGES:
        _load(package)
    return importlib.import_module(module)


def _load(package: str) -> None:
    found = sys.modules.get(package)
    spec = PathFinder.find_spec(package, [str(HOME)])
    if spec is None or spec.loader is None or spec.origin is None:  # installed elsewhere: by name, as everything is
        return
    if found is None:
        own = sys.modules[package] = importlib.util.module_from_spec(spec)
        try:
            spec.loader.exec_module(own)
        except BaseException:
            del sys.modules[package]
            raise
    elif Path(found.__file__ or "").resolve() != Path(spec.origin).resolve():
        place = found.__file__ or next(iter(getattr(found, "__path__", ["nowhere"])))
        hint = f"run it in a process of its own (`egm ...`), or rename your {package!r}"
        raise BackendError(f"egm-edge's own package {package!r}", f"yours, imported before from {place}", hint)
