"""What `egm ground` is to look at: files, folders, globs, videos, cameras, stdin and addresses, as a stream of pictures.

Everything is named and checked before a model is loaded; nothing is decoded twice. Video and camera frames are BGR arrays
as OpenCV reads them, everything else travels as encoded bytes or a path.
"""

from __future__ import annotations

import glob
import http.client
import os
import re
import sys
import urllib.error
import urllib.request
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from egm_edge.errors import InputError
from egm_edge.images import MAX_FILE_BYTES, PICTURE_SUFFIXES
from egm_edge.webcam import read_camera

VIDEO_SUFFIXES = (".mp4", ".avi", ".mov", ".mkv", ".webm", ".m4v")
URL_TIMEOUT_S = 20.0
_CAMERA = re.compile(r"camera:(?P<index>\d{1,3})|/dev/video(?P<device>\d{1,3})")
_ADDRESS = re.compile(r"https?://", re.IGNORECASE)
_OTHER_SCHEME = re.compile(r"[a-z][a-z0-9+.-]*:/", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class InputPicture:
    """One picture to be asked about.

    Attributes:
        name: what answers are printed under; `clip.mp4#30` for frame 30 of a video.
        source: a path, the bytes of a file, or [H, W, 3] uint8 BGR.
        path: the file it comes from, so that it is never written over; None where there is none.
    """

    name: str
    source: Path | bytes | NDArray[np.uint8]
    path: Path | None = None

    @property
    def color(self) -> str | None:
        """Channel order of an array, as `Grounder.frame` takes it."""
        return "bgr" if isinstance(self.source, np.ndarray) else None

    @property
    def file_stem(self) -> str:
        """Fit for a file's name."""
        return re.sub(r"[^\w.-]+", "-", Path(self.name.split("?")[0]).name.replace("#", "-")).strip("-") or "picture"


def expand(given: Sequence[str], *, allow_urls: bool) -> list[str]:
    """Folders and patterns become their pictures, in order; everything else stays.

    Raises:
        InputError: nothing there, a folder or pattern without pictures, or an address that was not allowed.
    """
    found: list[str] = []
    for text in given:
        if _ADDRESS.match(text):
            if not allow_urls:
                raise InputError("a picture on this machine", f"the address {text}", "pass --allow-urls to fetch it")
            found.append(text)
        elif text == "-" or _CAMERA.fullmatch(text):
            if text == "-" and text in found:
                raise InputError("stdin once", "- twice", "name it once")
            found.append(text)
        elif os.path.isdir(text):
            found += _pictures_in(Path(text))
        elif not os.path.lexists(text) and glob.has_magic(text):
            matches = sorted(match for match in glob.glob(text, recursive=True) if os.path.isfile(match))
            if not matches:
                raise InputError("pictures", f"none that match {text!r}", "check the pattern")
            found += matches
        else:
            _require_file(text)
            found.append(text)
    return found


def _require_file(text: str) -> None:
    """Whether something is there, told before a model is loaded."""
    try:
        os.stat(text)
    except (FileNotFoundError, NotADirectoryError):
        if text.startswith("camera:"):
            raise InputError("a camera's number", repr(text), "for example camera:0") from None
        if _OTHER_SCHEME.match(text):
            hint = "pass the path of a file, or http://... with --allow-urls"
            raise InputError("a file or an http(s) address", repr(text), hint) from None
        hint = "check the path; several texts stand behind --ask" if " " in text else "check the path"
        raise InputError("an image file", f"nothing at {text}", hint) from None
    except (OSError, ValueError) as error:  # no permission, a name too long, a NUL in it
        found = f"{text[:80]}: {getattr(error, 'strerror', None) or error}"
        raise InputError("a readable image file", found, "check the path and its permissions") from None


def read(names: Iterable[str], *, every: int) -> Iterator[InputPicture]:
    """The pictures one after another; a video gives every `every`-th frame, a camera goes on until Ctrl-C.

    Raises:
        InputError: it cannot be read.
    """
    for name in names:
        if camera := _CAMERA.fullmatch(name):
            yield from _frames(name, int(camera["index"] or camera["device"]), every)
        elif is_film(name):
            yield from _frames(name, name, every)
        elif name == "-":  # one byte too many is enough for load_image to refuse an endless stream
            yield InputPicture("-", sys.stdin.buffer.read(MAX_FILE_BYTES + 1))
        elif _ADDRESS.match(name):
            yield InputPicture(name, _fetched(name))
        else:
            yield InputPicture(name, Path(name), Path(name))


def is_film(name: str) -> bool:
    """Whether it is a camera or a video: frames, of which some can be passed over."""
    return bool(_CAMERA.fullmatch(name)) or (name.lower().endswith(VIDEO_SUFFIXES) and Path(name).is_file())


def _pictures_in(folder: Path) -> list[str]:
    try:
        found = sorted(str(path) for path in folder.iterdir() if path.suffix.lower() in PICTURE_SUFFIXES)
    except OSError as error:
        raise InputError(f"a readable folder {folder}", error.strerror or str(error), "check its permissions") from None
    if not found:
        raise InputError(f"pictures in {folder}", "none", f"pass files ending in {', '.join(PICTURE_SUFFIXES)}")
    return found


def _frames(name: str, source: Any, every: int) -> Iterator[InputPicture]:
    import cv2

    capture = cv2.VideoCapture(source)
    try:
        if not capture.isOpened():
            what = "a camera" if isinstance(source, int) else "a video that OpenCV can read"
            raise InputError(what, f"{name}, which does not open", "check the name, the permissions and the codec")
        index = 0
        while True:
            if isinstance(source, int):
                frame = read_camera(capture, name)
            else:
                good, read = capture.read()
                if not good:
                    break
                frame = np.asarray(read, np.uint8)
            if index % every == 0:
                yield InputPicture(f"{name}#{index}", frame, Path(name) if isinstance(source, str) else None)
            index += 1
        if index == 0:
            raise InputError("a video with frames", f"{name} without one", "check the file")
    finally:
        capture.release()


def _fetched(address: str) -> bytes:
    try:
        with urllib.request.urlopen(address, timeout=URL_TIMEOUT_S) as answer:  # noqa: S310 - http(s) only, by _ADDRESS
            return bytes(answer.read(MAX_FILE_BYTES + 1))
    except (urllib.error.URLError, http.client.HTTPException, OSError, ValueError) as error:
        raise InputError(f"a picture at {address}", str(error)[:200], "check the address") from None
