"""PromptLookup: drafts of the next tokens, copied from where the same words stood before. No second model.

EGM's answers repeat themselves: boxes and words named in the thought come back in the answer, the expression comes back in
both, and every thought lists its boxes in the same shape, whatever their numbers. A draft is only ever a guess that the
model then checks, so it changes speed, never tokens. The method is prompt-lookup decoding
(github.com/apoorvumang/prompt-lookup-decoding); looking up shapes with the numbers left out is this project's addition.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable

LONG_MATCH = 3
SHORT_MATCH = 2
SHAPE_MATCHES = (6, 4)
MAX_DRAFT_TOKENS = 4  # on the CPU engine a step of 4 costs about 1.6 single ones, a step of 8 already 2.5
MAX_SHAPES = 4096

Shapes = dict[tuple[int, ...], int]


class PromptLookup:
    """Remembers the sequence so far and proposes how it may go on.

    A match of three tokens is needed; two will do right after a draft that proved right, because repetition comes in runs
    and a wrong draft costs a quarter of a step. Where no words match, the shape does: the same tokens with every number
    left out, of this reply or of an earlier one.

    Args:
        token_ids: the sequence so far.
        digits: tokens that write digits; drafts never guess a number that did not stand behind the same number.
        shapes: what followed which shape, shared by the replies of a bundle.
    """

    def __init__(
        self, token_ids: Iterable[int] = (), *, digits: Collection[int] = (), shapes: Shapes | None = None
    ) -> None:
        self._ids: list[int] = []
        self._after: dict[tuple[int, ...], int] = {}
        self._accepted_last = 0
        self._digits = frozenset(digits)
        self._shapes: Shapes = {} if shapes is None else shapes
        self._shape: list[int] = []
        for token in token_ids:
            self.add(token)

    def add(self, token: int) -> None:
        """Append a token that is certain."""
        end = len(self._ids)
        for length in (SHORT_MATCH, LONG_MATCH):
            if end >= length:
                self._after[tuple(self._ids[-length:])] = end
        if token not in self._digits:
            for length in SHAPE_MATCHES:
                if len(self._shape) >= length:
                    self._shapes[tuple(self._shape[-length:])] = token
            if len(self._shapes) > MAX_SHAPES:
                self._shapes.clear()
        self._ids.append(token)
        self._shape = _grown(self._shape, token, self._digits)

    def propose(self, limit: int) -> list[int]:
        """Up to `limit` tokens that may follow; empty when nothing matches."""
        limit = min(limit, MAX_DRAFT_TOKENS)
        lengths = (LONG_MATCH, SHORT_MATCH) if self._accepted_last else (LONG_MATCH,)
        for length in lengths:
            key = tuple(self._ids[-length:])
            start = self._after.get(key) if len(key) == length else None
            if start is not None:
                draft = self._ids[start : start + min(limit, 2 * self._accepted_last + 1)]
                draft = draft if self._digits.intersection(key) else self._before_digits(draft)
                if draft:
                    return draft
        return self._of_shape(limit) if self._digits else []

    def judged(self, accepted: int) -> None:
        """Learn how much of the last proposal was right: good guesses make the next one longer."""
        self._accepted_last = accepted

    def _before_digits(self, draft: list[int]) -> list[int]:
        return draft[: next((i for i, token in enumerate(draft) if token in self._digits), len(draft))]

    def _of_shape(self, limit: int) -> list[int]:
        shape, draft = self._shape[-max(SHAPE_MATCHES) :], []
        while len(draft) < limit:
            keys = (tuple(shape[-length:]) for length in SHAPE_MATCHES if len(shape) >= length)
            token = next((self._shapes[key] for key in keys if key in self._shapes), None)
            if token is None:
                break
            draft.append(token)
            shape = _grown(shape, token, self._digits)
        return draft


def _grown(shape: list[int], token: int, digits: frozenset[int]) -> list[int]:
    """A shape and one more token; a number is minus the count of its digits' tokens."""
    if token not in digits:
        return [*shape[-max(SHAPE_MATCHES) :], token]
    if shape and shape[-1] < 0:
        return [*shape[:-1], shape[-1] - 1]
    return [*shape[-max(SHAPE_MATCHES) :], -1]
