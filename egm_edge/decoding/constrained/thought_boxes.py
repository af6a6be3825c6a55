"""ThoughtBoxes: the boxes that a thought names, and the words before each. Knows nothing of answers."""

from __future__ import annotations

from collections.abc import Sequence
from copy import copy

from egm_edge.decoding.constrained.fsm import BOX_NUMBERS
from egm_edge.decoding.constrained.token_bytes import TokenBytes

BoxTokens = tuple[tuple[int, ...], ...]
WORDS_KEPT = 8


class ThoughtBoxes:
    """Four numbers with commas or blanks between them are a box.

    Attributes:
        boxes: their numbers' tokens, in order. words: what stood before each, at most eight words.
    """

    def __init__(self, tokens: TokenBytes) -> None:
        self.boxes: list[BoxTokens] = []
        self.words: list[list[str]] = []
        self._tokens = tokens
        self._numbers: list[tuple[int, ...]] = []
        self._joined = False
        self._alone: tuple[int, ...] = ()
        self._said = b""

    def after(self, tokens: Sequence[int]) -> ThoughtBoxes:
        """What would be heard if the thought went on so."""
        heard = copy(self)
        heard.boxes, heard.words, heard._numbers = [*self.boxes], [*self.words], [*self._numbers]
        for token in tokens:
            heard.add(token)
        return heard

    def likely(self) -> list[BoxTokens]:
        """The boxes, the likeliest answer first: the one whose place in the list was named last ("target 2"), else the
        last one."""
        alone = self._numbers[0] if len(self._numbers) == 1 else self._alone
        named = b"".join(self._tokens.of[token] for token in alone)
        at = int(named) - 1 if named.isdigit() else -1
        chosen = self.boxes[at : at + 1] if at >= 0 else []
        return [*chosen, *reversed(self.boxes)]

    def words_before(self, box: BoxTokens) -> list[str]:
        """What stood before that box, [] where it was not heard."""
        return next((words for heard, words in zip(self.boxes, self.words, strict=True) if heard == box), [])

    def add(self, token: int) -> None:
        """Hear the thought's next token."""
        written = self._tokens.of[token] if token < len(self._tokens.of) else b""
        if written.isdigit():
            if self._joined and self._numbers and not self._tokens.whole_numbers:
                self._numbers[-1] += (token,)
            else:
                self._numbers.append((token,))
            self._joined = True
            return
        self._joined = False
        if self._numbers and written.strip() in (b"", b","):
            return
        if len(self._numbers) == BOX_NUMBERS:
            self.boxes.append(tuple(self._numbers))
            self.words.append(self._said.decode(errors="ignore").strip(" [(:").split()[-WORDS_KEPT:])
            self._said = b""
        elif len(self._numbers) == 1:
            self._alone = self._numbers[0]
        self._numbers = []
        self._said += written
