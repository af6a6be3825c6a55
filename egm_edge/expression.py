"""Check an expression before anything is spent on it. Knows nothing of images, prompts or engines."""

from __future__ import annotations

import re
import unicodedata

from egm_edge.errors import InputError

EXPRESSION_MAX_CHARS = 2000
ALLOWED_CONTROLS = "\t\n\r"
# Chat-template and image markers: the tokenizer would read them as its own special tokens, not as words.
MARKER = re.compile(r"<\|[^<>|]*\|>|</?(?:think|answer|tool_call|tool_response|img|image|IMG_CONTEXT|ref|box|quad)>")


def check_expression(text: str, *, tags: str = "") -> str:
    """Return the expression unchanged if it can be asked, in any script.

    Args:
        text: the referring expression as typed, 1 to 2,000 characters.
        tags: texts whose markers are welcome: the family's own task texts where a whole prompt is given.

    Raises:
        InputError: empty, too long, not text, or with control characters or chat-template markers in it.

    Example:
        >>> check_expression("the red mug left of the kettle")
        'the red mug left of the kettle'
    """
    if not isinstance(text, str):
        raise InputError("the expression as text", type(text).__name__, "pass a str")
    if not text.strip():
        raise InputError("an expression", "empty text", 'say what to find, for example "the red mug"')
    if len(text) > EXPRESSION_MAX_CHARS:
        found = f"{len(text):,} characters"
        raise InputError(f"an expression of at most {EXPRESSION_MAX_CHARS:,} characters", found, "shorten it")
    for position, character in enumerate(text):
        if unicodedata.category(character) in ("Cc", "Cs") and character not in ALLOWED_CONTROLS:
            found = f"U+{ord(character):04X} at character {position}"
            raise InputError("an expression of printable UTF-8 text", found, "remove it")
    if marker := next((m for m in MARKER.finditer(text) if m.group() not in tags), None):
        raise InputError("an expression in plain words", f"the model's own marker {marker.group()}", "remove it")
    return text
