"""What a user's text names: a bundle, a checkpoint, the shipped model, a hub id or a server. Opens and downloads nothing.

    source = resolve("nvidia/EGM-4B")        # Source(kind=SourceKind.HUB, text="nvidia/EGM-4B")

Every verb, `open_grounder` and the ROS 2 node's `bundle_path` ask here, so that one text means one thing everywhere.
"""

from __future__ import annotations

import difflib
import os
import re
from collections.abc import Collection
from dataclasses import dataclass
from enum import Enum
from pathlib import Path

from egm_edge.assets import SHIPPED_NAME, shipped_bundle, shipped_checkpoint
from egm_edge.bundle import MANIFEST_NAME
from egm_edge.errors import BundleError, EgmError, InputError

VARIABLE = "EGM_BUNDLE"
HUB_ID = re.compile(r"(?P<repo>[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*)(@(?P<revision>[\w./-]+))?")
_ADDRESS = re.compile(r"https?://", re.IGNORECASE)
_HOST_AND_PORT = re.compile(r"[\w.-]+:\d+(/\S*)?")


class SourceKind(str, Enum):
    """What a text turned out to name."""

    BUNDLE = "bundle directory"
    CHECKPOINT = "checkpoint directory"
    HUB = "hub id"
    SERVER = "server address"


ALL_KINDS = frozenset(SourceKind)
LOCAL_KINDS = frozenset({SourceKind.BUNDLE, SourceKind.CHECKPOINT})


@dataclass(frozen=True, slots=True)
class Source:
    """One model, as it was named.

    Attributes:
        kind: what it is.
        text: as the user typed it.
        path: its directory; None for a hub id and a server.
    """

    kind: SourceKind
    text: str
    path: Path | None = None

    @property
    def directory(self) -> Path:
        """`path` where there must be one."""
        if self.path is None:
            raise ValueError(f"a {self.kind.value} has no directory")
        return self.path

    @property
    def name(self) -> str:
        """Short, fit for a folder's name."""
        text = self.path.resolve().name if self.path else _ADDRESS.sub("", self.text)
        return re.sub(r"[^\w.-]+", "-", text).strip("-")


def resolve(
    given: str | Path | None, *, takes: Collection[SourceKind] = ALL_KINDS, prefers: SourceKind = SourceKind.BUNDLE
) -> Source:
    """What `given` names; without it $EGM_BUNDLE, else the shipped model.

    Args:
        takes: kinds that the caller can use.
        prefers: what `egm-nano` stands for: its bundle, or (CHECKPOINT) what that was built from.

    Raises:
        BundleError: nothing there, or a directory that is neither a bundle nor a checkpoint.
        InputError: something that the caller cannot use; the message says what the text was taken for.
        CheckpointError: this installation carries no shipped model.
    """
    chosen = "" if given is not None else os.environ.get(VARIABLE, "")
    text = str(given) if given is not None else chosen or SHIPPED_NAME
    try:
        source = _read(text, prefers)
    except EgmError as error:
        if not chosen:
            raise
        raise type(error)(error.expected, f"{error.found}, which ${VARIABLE} names", error.hint) from None
    except (OSError, ValueError):  # too long for a name, or a NUL in it
        raise _nothing(text[:80], Path()) from None
    if source.kind not in takes:
        wanted = " or ".join(f"a {kind.value}" for kind in SourceKind if kind in takes)
        raise InputError(wanted, f"{text!r}, taken for a {source.kind.value}", _HINTS.get(source.kind, "pass one of those"))
    return source


_HINTS = {
    SourceKind.SERVER: "name what the server has loaded, not where it listens",
    SourceKind.HUB: "build it first: `egm build OWNER/NAME -o DIR`, then pass DIR",
    SourceKind.CHECKPOINT: "build it first: `egm build CHECKPOINT -o DIR`, then pass DIR",
    SourceKind.BUNDLE: "pass what the bundle was built from",
}


def _read(text: str, prefers: SourceKind) -> Source:
    if not text.strip():  # Path("") would be the folder one stands in
        raise _nothing(text, Path())
    if _ADDRESS.match(text):
        return Source(SourceKind.SERVER, text)
    path = Path(text)
    if path.is_dir():
        return Source(_kind_of_directory(path), text, path)
    if text == SHIPPED_NAME:
        home = shipped_checkpoint() if prefers is SourceKind.CHECKPOINT else shipped_bundle()
        return Source(prefers, text, home)
    if path.exists():
        raise BundleError("a directory, a hub id or a server's address", f"{text!r}, which is a file", _file_hint(path))
    if HUB_ID.fullmatch(text) and not (path.parent.is_dir() and str(path.parent) != "."):
        return Source(SourceKind.HUB, text)
    raise _nothing(text, path)


def _kind_of_directory(path: Path) -> SourceKind:
    if (path / MANIFEST_NAME).is_file():
        return SourceKind.BUNDLE
    if (path / "config.json").is_file():
        return SourceKind.CHECKPOINT
    inside = [child.name for child in path.iterdir() if (child / MANIFEST_NAME).is_file() or (child / "config.json").is_file()]
    found = f"{path}, a directory without {MANIFEST_NAME} (a bundle's) and without config.json (a checkpoint's)"
    raise BundleError(
        "a bundle or a checkpoint", found, f"did you mean {path / inside[0]}?" if inside else "check the path, or `egm build`"
    )


def _file_hint(path: Path) -> str:
    if path.suffix == ".gguf":
        return "start llama.cpp's server with it and pass http://HOST:PORT"
    if path.name in (MANIFEST_NAME, "config.json") or path.suffix == ".safetensors":
        return f"pass its directory, {path.parent}"
    return "pass the directory of a bundle or a checkpoint"


def _nothing(text: str, path: Path) -> EgmError:
    near = difflib.get_close_matches(text.lower(), [SHIPPED_NAME], n=1, cutoff=0.6)
    if _HOST_AND_PORT.fullmatch(text):
        near = [f"http://{text}"]
    if not near and path.name and path.parent.is_dir():
        names = [child.name for child in path.parent.iterdir() if child.is_dir()]
        near = [str(path.parent / name) for name in difflib.get_close_matches(path.name, names, n=1, cutoff=0.6)]
    hint = f"did you mean {near[0]}?" if near else f"check the path, build it with `egm build`, or leave it out for {SHIPPED_NAME}"
    wanted = f"a bundle or checkpoint directory, {SHIPPED_NAME}, a hub id OWNER/NAME or http://HOST:PORT"
    return BundleError(wanted, f"nothing there by the name {text!r}", hint)
