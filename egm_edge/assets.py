"""Where the shipped checkpoint is and where its cached default bundle lives. Knows nothing of what is in them."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

from egm_edge.bundle import sha256_of
from egm_edge.errors import BundleError, CheckpointError

SHIPPED_NAME = "egm-nano"
ASSETS_DIR = Path(__file__).parent / "assets"


def names_shipped(given: str) -> bool:
    """Whether `given`, where a directory may be named, is the shipped checkpoint's name."""
    return given == SHIPPED_NAME and not Path(given).is_dir()


def shipped_checkpoint(name: str = SHIPPED_NAME) -> Path:
    """The directory of a checkpoint that comes with this package.

    Raises:
        CheckpointError: this installation has none of that name.
    """
    directory = ASSETS_DIR / name
    if not (directory / "config.json").is_file():
        raise CheckpointError(f"the shipped checkpoint {name!r}", "not in this installation", "pass a checkpoint directory")
    return directory


def default_bundle_dir() -> Path:
    """Where the shipped checkpoint's CPU bundle is kept: the user's cache, one directory per checkpoint content.

    Raises:
        CheckpointError: this installation has no shipped checkpoint.
    """
    digest = hashlib.sha256()
    for path in sorted(p for p in shipped_checkpoint().rglob("*") if p.is_file()):
        digest.update(f"{path.name} {sha256_of(path)}\n".encode())
    cache = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(cache) / "egm-edge" / f"{SHIPPED_NAME}-cpu-{digest.hexdigest()[:12]}"


def resolve_bundle(given: str | Path | None) -> Path:
    """The bundle to open: `given`, else $EGM_BUNDLE, else the cached default bundle.

    Raises:
        BundleError: none was given and there is no default one yet.
    """
    if chosen := given or os.environ.get("EGM_BUNDLE"):
        return Path(chosen)
    try:
        directory = default_bundle_dir()
    except CheckpointError:
        raise BundleError("a bundle", "neither --bundle nor EGM_BUNDLE", "pass --bundle DIR") from None
    if not directory.is_dir():
        raise BundleError(
            "a bundle (--bundle DIR or EGM_BUNDLE, else the default one)",
            f"nothing at {directory}",
            f"build the default one with `egm build {SHIPPED_NAME} --target cpu -o {directory}`",
        )
    return directory
