"""ReplyCache: what was said about a frame before, followed along while the next reply says much of it again.

A second question about a picture is thought about with the same objects and the same boxes. A draft copied from the earlier
reply is checked like any other, so it changes speed, never tokens.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence

CONTEXTS = (3, 2)  # tokens that must agree before an earlier reply is followed, the longest first
MAX_TOKENS = 8192
END = -1  # stands behind every reply


class ReplyCache:
    """The replies about one frame.

    Attributes:
        ids: their tokens, one reply after another, each with END behind it.
    """

    def __init__(self) -> None:
        self.ids: list[int] = []
        self._behind: dict[tuple[int, ...], int] = {}

    def note(self, reply: Sequence[int]) -> None:
        """Keep a reply; the others are forgotten all at once when there are too many tokens."""
        if len(self.ids) + len(reply) >= MAX_TOKENS:
            self.ids, self._behind = [], {}
        start = len(self.ids)
        self.ids += [*reply, END]
        for end in range(start, len(self.ids)):
            for length in CONTEXTS:
                if end - length >= start:
                    self._behind[tuple(self.ids[end - length : end])] = end

    def find(self, recent: Sequence[int]) -> int | None:
        """Where the reply goes on that holds the last of `recent`, the later one of several; None where none does."""
        for length in CONTEXTS:
            if (place := self._behind.get(tuple(recent[-length:]))) is not None:
                return place
        return None


class SuffixMatcher:
    """A place in earlier replies, moved along with a new one.

    Args:
        digits: tokens that write digits. One number in another's place does not end the following.

    Attributes:
        place: of the token in `earlier.ids` that may come next, None where nothing is followed.
    """

    def __init__(self, earlier: ReplyCache, digits: Collection[int]) -> None:
        self.earlier, self._digits = earlier, digits
        self.place: int | None = None
        self._recent: tuple[int, ...] = ()

    def hear(self, token: int) -> None:
        """The new reply's next token."""
        self._recent = (*self._recent[1 - CONTEXTS[0] :], token)
        place = self.place
        if place is not None:
            expected = self.earlier.ids[place]
            kept = expected == token or (expected in self._digits and token in self._digits)
            place = place + 1 if kept else None
        self.place = self.earlier.find(self._recent) if place is None else place

    def ahead(self, limit: int) -> list[int]:
        """The next tokens of the earlier reply."""
        if self.place is None:
            return []
        following = self.earlier.ids[self.place : self.place + limit]
        return following[: following.index(END)] if END in following else following
