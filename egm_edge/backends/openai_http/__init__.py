"""Deprecated place of `egm_edge.backends.text_runtime.http`."""

from egm_edge.backends.text_runtime.http import RemoteGrounder
from egm_edge.backends.text_runtime.text_grounder import TextFrame as RemoteFrame

__all__ = ["RemoteFrame", "RemoteGrounder"]
