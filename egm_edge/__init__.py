"""egm-edge: language-guided boxes on a robot's own computer.

    from egm_edge import Grounder

    grounding = Grounder.from_bundle("out/egm-nano-cpu").ground("frame.png", "the red mug left of the kettle")

Public names are loaded when first used, so that importing the package costs nothing.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from egm_edge.auto import open_grounder
    from egm_edge.boxes import Box
    from egm_edge.errors import EgmError
    from egm_edge.grounder import Frame, Grounder
    from egm_edge.grounding import Grounding, Outcome, Task

__version__ = "0.1.0"
__all__ = ["Box", "EgmError", "Frame", "Grounder", "Grounding", "Outcome", "Task", "open_grounder"]

_HOMES = {
    "Box": "boxes",
    "EgmError": "errors",
    "Frame": "grounder",
    "Grounder": "grounder",
    "Grounding": "grounding",
    "Outcome": "grounding",
    "Task": "grounding",
    "open_grounder": "auto",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
