"""NgramProposer: drafts of the next tokens, copied from where the same words stood before. No second model.

EGM's answers repeat themselves: boxes and words named in the thought come back in the answer, the expression comes back in
both, and every thought lists its boxes in the same shape, whatever their numbers. A draft is only ever a guess that the
model then checks, so it changes speed, never tokens. The method is prompt-lookup decoding
(github.com/apoorvumang/prompt-lookup-decoding); looking up shapes with the numbers left out, and believing each kind of
match as far as it proved right, are this project's additions.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable
from dataclasses import dataclass, field

from egm_edge.decoding.speculative.reply_cache import ReplyCache, SuffixMatcher

EARLIER, WORDS, SHAPE = "earlier", "words", "shape"
FOLLOWED = (EARLIER, 0)
KINDS = ((WORDS, 3), (SHAPE, 6), (WORDS, 2), (SHAPE, 4), (WORDS, 1))  # what is tried, in this order
WORD_LENGTHS = tuple(length for kind, length in KINDS if kind is WORDS)
SHAPE_LENGTHS = tuple(length for kind, length in KINDS if kind is SHAPE)
LONGEST = 6
MAX_DRAFT_TOKENS = 12
FIRST_ACCEPTANCE_RATE = {0: 0.8, 3: 0.8, 6: 0.8, 2: 0.5, 4: 0.5, 1: 0.4}
LEARNING = 0.1
WORTH = 0.3  # on the CPU engine another token of a step costs 0.1 to 0.2 steps
MAX_SHAPES = 4096

Kind = tuple[str, int]


@dataclass
class NgramStatistics:
    """What the replies of a bundle taught.

    Attributes:
        shapes: what followed which shape.
        acceptance_rate: how often a match of a kind was right.
    """

    shapes: dict[tuple[int, ...], int] = field(default_factory=dict)
    acceptance_rate: dict[Kind, float] = field(
        default_factory=lambda: {kind: FIRST_ACCEPTANCE_RATE[kind[1]] for kind in (FOLLOWED, *KINDS)}
    )


class NgramProposer:
    """Remembers the sequence so far and proposes how it may go on.

    Args:
        token_ids: the sequence so far.
        digits: tokens that write digits; drafts never guess a number that did not stand behind the same number.
        statistics: of the bundle's replies.
        reply_cache: replies about the same frame.
    """

    def __init__(
        self,
        token_ids: Iterable[int] = (),
        *,
        digits: Collection[int] = (),
        statistics: NgramStatistics | None = None,
        reply_cache: ReplyCache | None = None,
    ) -> None:
        self._words: tuple[int, ...] = ()  # the last LONGEST tokens
        self._shape: tuple[int, ...] = ()
        self._after: dict[tuple[int, ...], int] = {}
        self._digits = frozenset(digits)
        self._statistics = statistics or NgramStatistics()
        self._matcher = SuffixMatcher(reply_cache or ReplyCache(), self._digits)
        self._kinds: list[Kind] = []
        for token in token_ids:
            self.add(token)

    def add(self, token: int) -> None:
        """Append a token that is certain."""
        words, shape = self._words, self._shape
        for length in WORD_LENGTHS:
            if len(words) >= length:
                self._after[words[-length:]] = token
        if self._digits and token not in self._digits:
            shapes = self._statistics.shapes
            for length in SHAPE_LENGTHS:
                if len(shape) >= length:
                    shapes[shape[-length:]] = token
            if len(shapes) > MAX_SHAPES:
                shapes.clear()
        self._words, self._shape = (*words[-LONGEST + 1 :], token), self._grown(shape, token)
        self._matcher.hear(token)

    def propose(self, limit: int) -> list[int]:
        """Up to `limit` tokens that may follow, as long as they are worth their cost; empty when nothing matches."""
        words, shape = self._words, self._shape
        draft: list[int] = []
        self._kinds = []
        acceptance_rate = 1.0
        limit = min(limit, MAX_DRAFT_TOKENS)
        ahead = self._matcher.ahead(limit)
        while len(draft) < limit:
            found = (ahead[len(draft)], FOLLOWED) if len(draft) < len(ahead) else self._guess(words, shape)
            if found is None:
                break
            token, kind = found
            acceptance_rate *= self._statistics.acceptance_rate[kind]
            if acceptance_rate < WORTH:
                break
            draft.append(token)
            self._kinds.append(kind)
            words, shape = (*words[-LONGEST + 1 :], token), self._grown(shape, token)
        return draft

    def record_accepted(self, accepted: int) -> None:
        """Learn how much of the last proposal was right."""
        acceptance_rate = self._statistics.acceptance_rate
        for place, kind in enumerate(self._kinds[: accepted + 1]):
            acceptance_rate[kind] += LEARNING * (float(place < accepted) - acceptance_rate[kind])
        for kind in acceptance_rate:  # what is not believed is tried again some day
            acceptance_rate[kind] = max(acceptance_rate[kind], WORTH * 0.9) + (0.002 if acceptance_rate[kind] < WORTH else 0.0)
        self._kinds = []

    def _guess(self, words: tuple[int, ...], shape: tuple[int, ...]) -> tuple[int, Kind] | None:
        for kind, length in KINDS:
            if kind is WORDS:
                key = words[-length:]
                token = self._after.get(key) if len(key) == length else None
                if token in self._digits and not self._digits.intersection(key):
                    token = None
            else:
                token = self._statistics.shapes.get(shape[-length:]) if len(shape) >= length else None
            if token is not None:
                return token, (kind, length)
        return None

    def _grown(self, shape: tuple[int, ...], token: int) -> tuple[int, ...]:
        """A shape and one more token; a number is minus the count of its digits' tokens."""
        if token not in self._digits:
            return (*shape[-LONGEST + 1 :], token)
        if shape and shape[-1] < 0:
            return (*shape[:-1], shape[-1] - 1)
        return (*shape[-LONGEST + 1 :], -1)
