"""TokenBytes: what every token of a vocabulary writes, as bytes, searchable by prefix. Knows nothing of syntax.

Special tokens (the ones a decoder may leave out) start with a byte that UTF-8 never has, so that the text `<box>` and the
token `<box>` are told apart.
"""

from __future__ import annotations

import numpy as np
from tokenizers import Tokenizer

SPECIAL = b"\xff"
COORDINATE_DIGITS = 4  # of 1000
_PRINTABLE = (*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(ord("®"), ord("ÿ") + 1))
_HIDDEN = [b for b in range(256) if b not in set(_PRINTABLE)]
# GPT-2's printable stand-in for every byte, undone (openai/gpt-2, encoder.py: bytes_to_unicode).
BYTE_OF = {chr(b): b for b in _PRINTABLE} | {chr(256 + i): b for i, b in enumerate(_HIDDEN)}


class TokenBytes:
    """The bytes of every token.

    Attributes:
        of: bytes by token id, b"" for ids that write nothing or are not in the vocabulary.
        plain: [n] int64 ids of tokens that may stand anywhere inside a JSON string or a tag's text.
        digits: [n] int64 ids of tokens that are nothing but digits, at most four of them.
        digit_ids: the same ids as a set.
        digit_values: [n] float64, their values; NaN with leading zeros.
        sorted_digits, sorted_values: those without leading zeros, by value.
        whole_numbers: some of them have several digits, so that one token is one coordinate. number_tokens: of the longest one.
    """

    def __init__(self, tokenizer: Tokenizer) -> None:
        vocabulary = tokenizer.get_vocab(with_added_tokens=True)
        added = tokenizer.get_added_tokens_decoder()
        byte_level = "ByteLevel" in repr(tokenizer.decoder)
        self.of: list[bytes] = [b""] * (max(vocabulary.values()) + 1)
        for text, token in vocabulary.items():
            if token in added:
                self.of[token] = (SPECIAL if added[token].special else b"") + added[token].content.encode()
            elif byte_level and all(char in BYTE_OF for char in text):
                self.of[token] = bytes(BYTE_OF[char] for char in text)
            else:
                self.of[token] = tokenizer.decode([token], skip_special_tokens=False).encode()
            if token not in added and SPECIAL in self.of[token]:
                self.of[token] = b""  # never part of a text, and it must not pass for the mark
        plain = [bool(text) and _is_plain(text) for text in self.of]
        self.plain = np.flatnonzero(plain)
        self.digits = np.array([i for i, text in enumerate(self.of) if text.isdigit() and len(text) <= 4], np.int64)
        self.digit_ids = frozenset(self.digits.tolist())
        texts = [self.of[i].decode() for i in self.digits]
        self.digit_values = np.array([float(t) if t == str(int(t)) else np.nan for t in texts])
        self.whole_numbers = any(len(self.of[i]) > 1 for i in self.digits)
        self.number_tokens = 1 if self.whole_numbers else COORDINATE_DIGITS
        plain_order = np.argsort(self.digit_values)[: int(np.isfinite(self.digit_values).sum())]  # NaN comes last
        self.sorted_digits, self.sorted_values = self.digits[plain_order], self.digit_values[plain_order]
        self._sorted = sorted((text, i) for i, text in enumerate(self.of) if text)
        self._marked = [(text, i) for text, i in self._sorted if not plain[i]]

    def index(self, *, plain: bool) -> list[tuple[bytes, int]]:
        """(bytes, id) in byte order: all tokens, or without `plain` those that are not plain."""
        return self._sorted if plain else self._marked


def _is_plain(text: bytes) -> bool:
    return not any(byte < 0x20 or byte in b'"\\<' or byte == SPECIAL[0] for byte in text)
