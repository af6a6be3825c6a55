"""Code blocks of the documentation: where they stand, what they hold, and what is said to be needed to run them.

A block that this machine cannot run carries a line `<!-- needs: WHAT -->` directly above it; one that asks a running server
`<!-- with: egm serve -->`. Blocks of the latter kind go on from the earlier ones of their page.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
PAGES = ("README.md", "docs/**/*.md", "ros2_ws/src/egm_ros/README.md", "egm_edge/assets/*/README.md")
WITH_SERVER = "<!-- with: egm serve -->"
_NEEDS = re.compile(r"<!-- needs: (?P<what>.+) -->")
_FENCE = re.compile(r"^```(?P<language>\w*)\s*$")


@dataclass(frozen=True)
class Block:
    """One fenced block.

    Attributes:
        page, line: where it begins. language: after the fence. text: between the fences.
        needs: what is said to be needed, "" where it runs here.
        asks_server: whether a server is to run beside it.
        shown: the ```text block that follows it directly: what it prints.
    """

    page: str
    line: int
    language: str
    text: str
    needs: str = ""
    shown: str = ""
    asks_server: bool = False

    @property
    def name(self) -> str:
        return f"{self.page}:{self.line}"

    def commands(self) -> list[list[str]]:
        """Shell lines as words, comments and prompts left out, continued lines joined."""
        found: list[list[str]] = []
        pending = ""
        for line in self.text.replace("\\\n", " ").splitlines():
            pending = f"{pending}\n{line}" if pending else line
            try:
                words = shlex.split(pending, comments=True)
            except ValueError:  # a quote that a later line closes
                continue
            pending = ""
            if words:
                found.append(words)
        return found


def blocks() -> Iterator[Block]:
    """Every fenced block of every page, in order."""
    for pattern in PAGES:
        for path in sorted(ROOT.glob(pattern)):
            yield from _of_page(path)


def _of_page(path: Path) -> Iterator[Block]:
    lines = path.read_text("utf-8").splitlines()
    found: list[Block] = []
    at = 0
    while at < len(lines):
        fence = _FENCE.match(lines[at])
        if not fence:
            at += 1
            continue
        end = next(i for i in range(at + 1, len(lines)) if lines[i].startswith("```"))
        above = next((line for line in reversed(lines[:at]) if line.strip()), "")
        needs = _NEEDS.fullmatch(above.strip())
        text = "\n".join(lines[at + 1 : end])
        name, served = path.relative_to(ROOT).as_posix(), above.strip() == WITH_SERVER
        block = Block(name, at + 1, fence["language"], text, needs["what"] if needs else "", asks_server=served)
        if block.language == "text" and found and not "".join(lines[found[-1].line + found[-1].text.count("\n") + 2 : at]).strip():
            found[-1] = replace(found[-1], shown=text)
        found.append(block)
        at = end + 1
    yield from found


def indented_commands(path: Path) -> list[int]:
    """Lines of commands that stand in an indented block, where no test would see them."""
    lines = path.read_text("utf-8").splitlines()
    fenced = False
    found = []
    for number, line in enumerate(lines, 1):
        fenced ^= line.startswith("```")
        if not fenced and re.match(r"    (egm|python3?|pip|make|curl|ros2|ray|from egm_edge|import) ", line):
            found.append(number)
    return found
