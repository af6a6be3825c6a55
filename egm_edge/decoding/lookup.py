"""PromptLookup: drafts of the next tokens, copied from where the same words stood before. No second model.

EGM's answers repeat themselves: boxes and words named in the thought come back in the answer, and the expression comes
back in both. A draft is only ever a guess that the model then checks, so it changes speed, never tokens. The method is
prompt-lookup decoding (github.com/apoorvumang/prompt-lookup-decoding).
"""

from __future__ import annotations

from collections.abc import Iterable

LONG_MATCH = 3
SHORT_MATCH = 2
MAX_DRAFT_TOKENS = 4  # on the CPU engine a step of 4 costs about 1.6 single ones, a step of 8 already 2.5


class PromptLookup:
    """Remembers the sequence so far and proposes how it may go on.

    A match of three tokens is needed; two will do right after a draft that proved right, because repetition comes in runs
    and a wrong draft costs a quarter of a step.
    """

    def __init__(self, token_ids: Iterable[int] = ()) -> None:
        self._ids: list[int] = []
        self._after: dict[tuple[int, ...], int] = {}
        self._accepted_last = 0
        for token in token_ids:
            self.add(token)

    def add(self, token: int) -> None:
        """Append a token that is certain."""
        end = len(self._ids)
        for length in (SHORT_MATCH, LONG_MATCH):
            if end >= length:
                self._after[tuple(self._ids[-length:])] = end
        self._ids.append(token)

    def propose(self, limit: int) -> list[int]:
        """Up to `limit` tokens that may follow; empty when nothing matches."""
        lengths = (LONG_MATCH, SHORT_MATCH) if self._accepted_last else (LONG_MATCH,)
        for length in lengths:
            start = self._after.get(tuple(self._ids[-length:])) if len(self._ids) >= length else None
            if start is not None:
                return self._ids[start : start + min(limit, MAX_DRAFT_TOKENS, 2 * self._accepted_last + 1)]
        return []

    def judged(self, accepted: int) -> None:
        """Learn how much of the last proposal was right: good guesses make the next one longer."""
        self._accepted_last = accepted
