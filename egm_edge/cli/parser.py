"""argparse with one-line usage errors, for every verb."""

from __future__ import annotations

import argparse
import math
import sys
from collections.abc import Callable, Iterable
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

    def refuse(self, arguments: argparse.Namespace, names: Iterable[str], expected: str, found: str = "none") -> None:
        """Refuse options that would do nothing: a usage error for the first that was given, which goes with `expected`."""
        for name in names:
            if getattr(arguments, name) != self.get_default(name):
                option = f"--{name.replace('_', '-')}"
                self.error(f"expected {expected} with {option}, found {found}; leave {option} out")


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


def number_up_to(high: float, *, zero: bool = False) -> Callable[[str], float]:
    """argparse type: a finite number above 0 (with `zero` from 0), of `high` at most."""

    def parse(text: str) -> float:
        try:
            value = float(text)
        except ValueError:
            value = math.nan
        if not (math.isfinite(value) and (0 < value <= high or (zero and value == 0))):
            limit = "" if math.isinf(high) else f" and up to {high:g}"
            raise argparse.ArgumentTypeError(f"expected a number {'from' if zero else 'above'} 0{limit}, found {text[:40]!r}")
        return value

    return parse


positive_float = number_up_to(math.inf)
positive_int = whole_number(1, 2**31 - 1)
MEMORY_MODES = ("auto", "fast", "low")


def add_engine_options(parser: argparse.ArgumentParser) -> None:
    """`--memory` and `--threads`, of every verb that opens a bundle."""
    parser.add_argument("--memory", choices=MEMORY_MODES, default="auto", help="low: smaller and slower; auto: by free RAM")
    parser.add_argument("--threads", type=whole_number(1, 512), metavar="N", help="CPU threads (default: the physical cores)")
