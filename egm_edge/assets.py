"""Where the shipped model is: its checkpoint and its CPU bundle. Knows nothing of what is in them."""

from __future__ import annotations

import json
from functools import lru_cache
from pathlib import Path

from egm_edge.errors import CheckpointError, EgmError

SHIPPED_NAME = "egm-nano"
ASSETS_DIR = Path(__file__).parent / "assets"


def shipped_checkpoint() -> Path:
    """The directory of the checkpoint that comes with this package.

    Raises:
        CheckpointError: this installation has none.
    """
    return _shipped(SHIPPED_NAME, "config.json")


def shipped_bundle() -> Path:
    """The directory of its CPU bundle, calibrated and verified, which is what runs when nothing is named.

    Raises:
        CheckpointError: this installation has none.
    """
    return _shipped(f"{SHIPPED_NAME}-cpu", "bundle.json")


@lru_cache(maxsize=1)
def shipped_hash() -> str:
    """The hash of that bundle, "" where this installation has none."""
    try:
        return str(json.loads((shipped_bundle() / "bundle.json").read_text("utf-8")).get("hash", ""))
    except (EgmError, OSError, ValueError):
        return ""


def _shipped(name: str, marker: str) -> Path:
    directory = ASSETS_DIR / name
    if not (directory / marker).is_file():
        raise CheckpointError(f"{name}, which comes with egm-edge", "not in this installation", "pass a directory")
    return directory
