"""Deprecated place of `egm_edge.backends.text_runtime.edge_llm`."""

from egm_edge.backends.text_runtime.base import BOX_PATTERN
from egm_edge.backends.text_runtime.edge_llm import EdgeLlmGrounder

__all__ = ["BOX_PATTERN", "EdgeLlmGrounder"]
