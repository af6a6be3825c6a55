"""Releases of foreign runtimes that this project was written against, and what it says of others. Standard library only."""

from __future__ import annotations

EDGE_LLM = "0.11.0"  # tensorrt-edgellm
# Known by name, never tried here.
_OTHERS = {"0.11.1": "0.11.1, whose one command is `trtedge` and which this egm-edge was not tried with"}


def describe_release(version: str | None) -> str:
    """A release of tensorrt-edgellm that is not EDGE_LLM, for an error message."""
    return "none" if version is None else _OTHERS.get(version, version)
