"""KeptFrames: the last pictures asked about, by hash, so that the next sentence on one pays only for its own words.

No general server does this for a picture sent again: it knows requests, not frames. One thread at a time.
"""

from __future__ import annotations

from collections import OrderedDict

from egm_edge.grounder import Frame, Grounder


class KeptFrames:
    """At most `limit` frames, the least recently asked about forgotten first."""

    def __init__(self, grounder: Grounder, limit: int) -> None:
        self._grounder, self._limit = grounder, limit
        self._frames: OrderedDict[str, Frame] = OrderedDict()

    def __len__(self) -> int:
        return len(self._frames)

    def frame(self, sha256: str, picture: bytes) -> tuple[Frame, bool]:
        """The frame of a picture, and whether it was kept from before.

        Raises:
            InputError: the picture cannot be used.
        """
        if kept := self._frames.get(sha256):
            self._frames.move_to_end(sha256)
            return kept, True
        frame = self._grounder.frame(picture)
        if self._limit:
            while len(self._frames) >= self._limit:
                self._frames.popitem(last=False)
            self._frames[sha256] = frame
        return frame, False
