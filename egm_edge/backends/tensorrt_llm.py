"""Deprecated place of `egm_edge.backends.text_runtime.tensorrt_llm`."""

from egm_edge.backends.text_runtime.base import BOX_PATTERN
from egm_edge.backends.text_runtime.tensorrt_llm import TensorRtLlmGrounder

__all__ = ["BOX_PATTERN", "TensorRtLlmGrounder"]
