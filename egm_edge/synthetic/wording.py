"""Other ways to say the same: synonyms, longer relations, a polite frame round the expression; and words nobody knows.

Knows nothing of scenes. Only `rng.random()` is drawn from.
"""

from __future__ import annotations

import random
import re

from egm_edge.synthetic.sample import pick
from egm_edge.synthetic.vocabulary import ALL_COLOURS, COLOUR_SYNONYMS, NOUNS, ORDINALS, SIZES

_LONGER: dict[str, tuple[str, ...]] = {
    "left of": ("to the left of", "on the left of"),
    "right of": ("to the right of", "on the right of"),
    "largest": ("biggest",),
    "object": ("thing",),
}
_FRAMES: tuple[str, ...] = ("{} on the table", "please find {}", "find {}", "{} please", "{} here", "where is {}")
EXTRA_WORDS: tuple[str, ...] = ("biggest", "please", "find", "here", "where", "unknown", "word")
"""Words of expressions and thoughts beyond nouns, colours, sizes and ordinals."""
_ONSETS: tuple[str, ...] = (
    "", "b", "bl", "br", "c", "ch", "d", "dr", "f", "fl", "g", "gr", "h", "j", "k", "l", "m", "n", "p", "qu", "r", "s", "sh",
    "st", "t", "tr", "v", "w", "z",
)  # fmt: skip
_VOWELS: tuple[str, ...] = ("a", "e", "i", "o", "u", "ai", "ea", "oo", "ou")
_ENDS: tuple[str, ...] = (
    "", "b", "ck", "d", "g", "l", "ll", "m", "n", "nd", "ng", "nt", "p", "r", "rd", "s", "sh", "st", "t", "x",
)  # fmt: skip


def reworded(expression: str, rng: random.Random) -> str:
    """The expression with synonyms for some of its words, and now and then in a frame ("please find ...")."""
    for word, others in (*NOUNS.items(), *((c, (s,)) for c, s in COLOUR_SYNONYMS.items()), *_LONGER.items()):
        if others and rng.random() < 0.5:
            expression = re.sub(rf"\b{word}\b", pick(rng, others), expression)
    if rng.random() < 0.25:
        expression = pick(rng, _FRAMES).format(expression)
    return expression


def strange_word(rng: random.Random) -> str:
    """A pronounceable word of one to three syllables that is in no vocabulary here."""
    while True:
        syllables = 1 + int(rng.random() * 2.4)
        word = "".join(pick(rng, _ONSETS) + pick(rng, _VOWELS) + pick(rng, _ENDS) for _ in range(syllables))
        if len(word) > 2 and word not in KNOWN:
            return word


KNOWN: frozenset[str] = frozenset(
    word
    for phrase in (
        *NOUNS,
        *(o for others in NOUNS.values() for o in others),
        *ALL_COLOURS,
        *COLOUR_SYNONYMS.values(),
        *SIZES,
    )
    for word in phrase.split()
) | {*EXTRA_WORDS, *ORDINALS, "one", "all", "next", "top", "near", "table", "from", "and", "front", "thing"}
"""What a strange word must not be."""
