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

    Args:
        tokens: of the vocabulary.
        chosen_box: as in `PromptSpec`: the word before the place of the chosen box in the thought's list.

    Attributes:
        boxes: their numbers' tokens, in order. words: what stood before each, at most eight words.
    """

    def __init__(self, tokens: TokenBytes, chosen_box: str = "") -> None:
        self.boxes: list[BoxTokens] = []
        self.words: list[list[str]] = []
        self._tokens = tokens
        self._numbers: list[tuple[int, ...]] = []
        self._joined = False
        self._word, self._named = chosen_box.encode(), False
        self._chosen: tuple[int, ...] = ()
        self._said = b""

    def after(self, tokens: Sequence[int]) -> ThoughtBoxes:
        """What would be heard if the thought went on so."""
        heard = copy(self)
        heard.boxes, heard.words, heard._numbers = [*self.boxes], [*self.words], [*self._numbers]
        for token in tokens:
            heard.add(token)
        return heard

    def likely(self) -> list[BoxTokens]:
        """The boxes, the likeliest answer first: the one whose place in the list was named last, else the last one."""
        chosen = self._numbers[0] if self._named and len(self._numbers) == 1 else self._chosen
        named = b"".join(self._tokens.of[token] for token in chosen)
        at = int(named) - 1 if named.isdigit() else -1
        return [*(self.boxes[at : at + 1] if at >= 0 else []), *reversed(self.boxes)]

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
                if not self._numbers:
                    self._named = bool(self._word) and self._said.rstrip().endswith(self._word)
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
        elif len(self._numbers) == 1 and self._named:
            self._chosen = self._numbers[0]
        self._numbers = []
        self._said += written
