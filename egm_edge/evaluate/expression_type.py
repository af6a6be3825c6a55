"""What kind of reasoning an expression asks for, judged by its words where the data does not say.

A coarse reading aid for tables, in English only, first match of: ordinal, superlative, relation, position, attribute.
"""

from __future__ import annotations

import re

KINDS = ("ordinal", "superlative", "relation", "position", "attribute", "negative")
_PATTERNS = {
    "ordinal": r"\b(?:first|second|third|fourth|fifth|sixth|[0-9]+(?:st|nd|rd|th))\b",
    "superlative": r"\b(?:\w+most|\w+est|most|least|farthest|furthest)\b(?<!forest)(?<!west)(?<!guest)(?<!chest)(?<!vest)(?<!rest)",
    "relation": r"\b(?:(?:left|right|front|top|side|edge|end) of|next to|beside|behind|between|above|below|under|underneath"
    r"|beneath|over|near|close to|facing|against|with|holding|wearing|riding|inside|in front|on (?:a|the|his|her) \w+)\b",
    "position": r"\b(?:left|right|top|bottom|middle|center|centre|corner|upper|lower|front|back|far|lft|rt)\b",
}
_COMPILED = {kind: re.compile(pattern, re.IGNORECASE) for kind, pattern in _PATTERNS.items()}
_SIDE = re.compile(r"\bon (?:a|the|his|her) (?:far )?(?:left|right|top|bottom|side|middle)\b(?! of)", re.IGNORECASE)


def expression_type(expression: str) -> str:
    """One of KINDS but "negative", which only the data can know.

    Example:
        >>> expression_type("second cup from the left"), expression_type("the mug left of the kettle"), expression_type("red mug")
        ('ordinal', 'relation', 'attribute')
    """
    if _COMPILED["ordinal"].search(expression):
        return "ordinal"
    plain = _SIDE.sub("left", expression)
    return next((kind for kind, pattern in _COMPILED.items() if pattern.search(plain)), "attribute")
