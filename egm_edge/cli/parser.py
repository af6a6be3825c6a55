"""argparse with one-line usage errors, for every verb."""

from __future__ import annotations

import argparse
import math
import sys
from collections.abc import Callable
from typing import Any, NoReturn


class Parser(argparse.ArgumentParser):
    """An ArgumentParser whose errors are one line on stderr and exit code 2; options are never abbreviated."""

    def __init__(self, **options: Any) -> None:
        defaults: dict[str, Any] = {"allow_abbrev": False, "formatter_class": argparse.RawDescriptionHelpFormatter}
        super().__init__(**(defaults | options))

    def error(self, message: str) -> NoReturn:
        line = " ".join(message.split())  # what was typed may hold line breaks
        sys.stderr.write(f"egm: {line}; see {self.prog} --help\n")
        raise SystemExit(2)


def whole_number(low: int, high: int) -> Callable[[str], int]:
    """argparse type: a whole number from `low` to `high`."""

    def parse(text: str) -> int:
        try:
            value = int(text)
        except ValueError:
            value = low - 1
        if not low <= value <= high:
            raise argparse.ArgumentTypeError(f"expected a whole number from {low:,} to {high:,}, found {text[:40]!r}")
        return value

    return parse


def number_up_to(high: float) -> Callable[[str], float]:
    """argparse type: a finite number above 0, of `high` at most."""

    def parse(text: str) -> float:
        try:
            value = float(text)
        except ValueError:
            value = math.nan
        if not (math.isfinite(value) and 0 < value <= high):
            limit = "" if math.isinf(high) else f" and up to {high:g}"
            raise argparse.ArgumentTypeError(f"expected a number above 0{limit}, found {text[:40]!r}")
        return value

    return parse


positive_float = number_up_to(math.inf)
positive_int = whole_number(1, 2**31 - 1)
MEMORY_MODES = ("auto", "fast", "low")


def add_engine_options(parser: argparse.ArgumentParser) -> None:
    """`--memory` and `--threads`, of every verb that opens a bundle."""
    parser.add_argument("--memory", choices=MEMORY_MODES, default="auto", help="low: smaller and slower; auto: by free RAM")
    parser.add_argument("--threads", type=whole_number(1, 512), metavar="N", help="CPU threads (default: the physical cores)")
