"""FrameCache: the last pictures asked about, by hash, so that the next sentence on one pays only for its own words.

No general server does this for a picture sent again: it knows requests, not frames. Safe to call from several threads.
"""

from __future__ import annotations

import threading
from collections import OrderedDict

from egm_edge.grounder import Frame, Grounder
from egm_edge.serve.pictures import EncodedPicture


class FrameCache:
    """At most `limit` frames of at most `limit_bytes` together, the least recently asked about forgotten first."""

    def __init__(self, grounder: Grounder, limit: int, limit_bytes: int) -> None:
        self._grounder, self._limit, self._limit_bytes = grounder, limit, limit_bytes
        self._frames: OrderedDict[str, Frame] = OrderedDict()
        self._bytes = 0
        self._lock = threading.Lock()

    def __len__(self) -> int:
        return len(self._frames)

    def __contains__(self, picture: EncodedPicture) -> bool:
        return picture.sha256 in self._frames

    def frame(self, picture: EncodedPicture) -> tuple[Frame, bool]:
        """The frame of a picture, and whether it was kept from before.

        Raises:
            InputError: the picture cannot be used.
        """
        with self._lock:
            if kept := self._frames.get(picture.sha256):
                self._frames.move_to_end(picture.sha256)
                return kept, True
        frame = self._grounder.frame(picture.data)
        with self._lock:
            replaced = self._frames.pop(picture.sha256, None)
            self._frames[picture.sha256] = frame
            self._bytes += _bytes_of(frame) - (_bytes_of(replaced) if replaced else 0)
            while len(self._frames) > self._limit or self._bytes > self._limit_bytes:
                self._bytes -= _bytes_of(self._frames.popitem(last=False)[1])
        return frame, False


def _bytes_of(frame: Frame) -> int:
    return frame.image_rgb.nbytes + frame.pixels.patches.nbytes
