"""Runtimes that take a picture and text and give text, their logits kept inside: servers, and engines in this process.

Which one a bundle wants stands in its manifest (`text_runtime`); TEXT_GROUNDERS has the class that opens it.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

from egm_edge.errors import BundleError

if TYPE_CHECKING:
    from egm_edge.backends.text_runtime.text_grounder import TextGrounder

HTTP, EDGE_LLM, TENSORRT_LLM = "http", "edge_llm", "tensorrt_llm"
TEXT_GROUNDERS = {HTTP: "RemoteGrounder", EDGE_LLM: "EdgeLlmGrounder", TENSORRT_LLM: "TensorRtLlmGrounder"}


def grounder_class(name: str) -> type[TextGrounder]:
    """The class that answers through the runtime `Manifest.text_runtime` names.

    Raises:
        BundleError: no such runtime.
    """
    if name not in TEXT_GROUNDERS:
        expected = f"a text runtime of {', '.join(TEXT_GROUNDERS)}"
        raise BundleError(expected, repr(name), "install the egm-edge that wrote the bundle")
    found: type[TextGrounder] = getattr(import_module(f"{__name__}.{name}"), TEXT_GROUNDERS[name])
    return found
