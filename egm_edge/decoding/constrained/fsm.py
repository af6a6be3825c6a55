"""FiniteStateMachine: which bytes may follow, for small patterns with box coordinates in them. Knows nothing of tokens.

A pattern is made of parts (`literal`, `either`, `optional`, `spaces`, `text`, `number`) and stepped through byte by byte. The
one thing no regular expression has: the four numbers of a box are whole, 0 to 1000, and the third and fourth must exceed
the first and second (x1 < x2, y1 < y2).
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import NamedTuple

NUMBER_MAX = 1000
BOX_NUMBERS = 4
MAX_SPACES = 8
_DIGITS = range(ord("0"), ord("9") + 1)

Part = Callable[["FiniteStateMachine", int], int]


class State(NamedTuple):
    """A place in a pattern.

    Attributes:
        nodes: where it may be.
        digits: the number being written, "" outside one.
        numbers: the numbers finished so far.
    """

    nodes: frozenset[int]
    digits: str = ""
    numbers: tuple[int, ...] = ()


class FiniteStateMachine:
    """A pattern, compiled.

    Args:
        pattern: what to accept, from beginning to end.
    """

    def __init__(self, pattern: Part) -> None:
        self._edges: list[list[tuple[frozenset[int], int]]] = []
        self._empty: list[list[int]] = []
        self._number_exit: dict[int, int] = {}
        self._text_nodes: set[int] = set()
        self._closures: dict[int, frozenset[int]] = {}
        entry = self.node()
        self._end = pattern(self, entry)
        self.start = State(self._closure([entry]))

    def node(self) -> int:
        self._edges.append([])
        self._empty.append([])
        return len(self._edges) - 1

    def edge(self, start: int, allowed: frozenset[int], end: int) -> None:
        self._edges[start].append((allowed, end))

    def skip(self, start: int, end: int) -> None:
        self._empty[start].append(end)

    def number_node(self, start: int) -> int:
        inside, after = self.node(), self.node()
        self.skip(start, inside)
        self._number_exit[inside] = after
        return after

    def text_node(self, node: int) -> None:
        self._text_nodes.add(node)

    def branch(self, state: State, part: Part) -> State:
        """`state`, where `part` may come instead; the pattern has no end behind it."""
        entry = self.node()
        part(self, entry)
        return state._replace(nodes=state.nodes | self._closure([entry]))

    def advance(self, state: State, byte: int) -> State | None:
        """The state after one more byte; None where the pattern forbids it."""
        if state.digits:
            if byte in _DIGITS:
                digits = state.digits + chr(byte)
                return state._replace(digits=digits) if fits(digits, state.numbers) else None
            left = self.leave_number(state)
            return None if left is None else self.advance(left, byte)
        if byte in _DIGITS:
            for node in state.nodes:
                if node in self._number_exit and fits(chr(byte), state.numbers):
                    return State(frozenset([node]), chr(byte), state.numbers)
        reached = [end for node in state.nodes for allowed, end in self._edges[node] if byte in allowed]
        return State(self._closure(reached), "", state.numbers) if reached else None

    def leave_number(self, state: State) -> State | None:
        """The state after the number being written, None while it is not a whole coordinate that fits."""
        if not complete(state.digits, state.numbers):
            return None
        (node,) = state.nodes
        return State(self._closure([self._number_exit[node]]), "", (*state.numbers, int(state.digits)))

    def accepts(self, state: State) -> bool:
        """Whether the pattern may end here."""
        if state.digits:
            left = self.leave_number(state)
            return left is not None and self.accepts(left)
        return self._end in state.nodes

    def ends(self, state: State) -> bool:
        """Whether the pattern must end here."""
        return self.accepts(state) and not self.options(state)

    def in_number(self, state: State) -> bool:
        """Whether a digit may come next."""
        return bool(state.digits) or any(node in self._number_exit for node in state.nodes)

    def in_text(self, state: State) -> bool:
        """Whether any plain text may come next."""
        return not state.digits and not self._text_nodes.isdisjoint(state.nodes)

    def options(self, state: State) -> list[int]:
        """The bytes that may come next, in order."""
        if state.digits:
            left = self.leave_number(state)
            more = [byte for byte in _DIGITS if fits(state.digits + chr(byte), state.numbers)]
            return sorted({*more, *(self.options(left) if left else ())})
        digits = [byte for byte in _DIGITS if self.in_number(state) and fits(chr(byte), state.numbers)]
        return sorted({*digits, *(b for node in state.nodes for allowed, _ in self._edges[node] for b in allowed)})

    def shortest_ending(self, state: State) -> bytes | None:
        """The shortest text that ends the pattern without writing another number; None when there is none."""
        if state.digits:
            left = self.leave_number(state)
            if left is None:
                return None
            state = left
        queue, seen = deque([(state, b"")]), {state.nodes}
        while queue:
            here, text = queue.popleft()
            if self._end in here.nodes:
                return text
            for node in here.nodes:
                for allowed, end in self._edges[node]:
                    nodes = self._closure([end])
                    if nodes not in seen:
                        seen.add(nodes)
                        queue.append((here._replace(nodes=nodes), text + bytes([min(allowed)])))
        return None

    def _closure(self, nodes: list[int]) -> frozenset[int]:
        if len(nodes) != 1:
            return frozenset().union(*(self._closure([node]) for node in nodes))
        (first,) = nodes
        if first not in self._closures:
            found, todo = {first}, [first]
            while todo:
                for after in self._empty[todo.pop()]:
                    if after not in found:
                        found.add(after)
                        todo.append(after)
            self._closures[first] = frozenset(found)
        return self._closures[first]


def bounds(numbers: tuple[int, ...]) -> tuple[int, int]:
    """Smallest and largest value of the next number, both included: x1 < x2, y1 < y2, and room for the larger one."""
    if len(numbers) < BOX_NUMBERS // 2:
        return 0, NUMBER_MAX - 1
    return numbers[len(numbers) - BOX_NUMBERS // 2] + 1, NUMBER_MAX


def completions(digits: str, numbers: tuple[int, ...]) -> list[range]:
    """The values that begin with `digits` and are allowed as the next number."""
    if len(numbers) >= BOX_NUMBERS or (digits[0] == "0" and len(digits) > 1):
        return []
    low, high = bounds(numbers)
    found, first, count = [], int(digits), 1
    while first <= high:
        values = range(max(first, low), min(first + count - 1, high) + 1)
        found += [values] if values else []
        if digits == "0":
            break
        first, count = first * 10, count * 10
    return found


def fits(digits: str, numbers: tuple[int, ...]) -> bool:
    """Whether an allowed next number begins with `digits`."""
    return bool(completions(digits, numbers))


def complete(digits: str, numbers: tuple[int, ...]) -> bool:
    """Whether `digits` is an allowed next number as it stands."""
    low, high = bounds(numbers)
    return bool(digits) and fits(digits, numbers) and low <= int(digits) <= high


def literal(words: bytes) -> Part:
    def add(pattern: FiniteStateMachine, at: int) -> int:
        for byte in words:
            after = pattern.node()
            pattern.edge(at, frozenset([byte]), after)
            at = after
        return at

    return add


def sequence(*parts: Part) -> Part:
    def add(pattern: FiniteStateMachine, at: int) -> int:
        for part in parts:
            at = part(pattern, at)
        return at

    return add


def either(*parts: Part) -> Part:
    def add(pattern: FiniteStateMachine, at: int) -> int:
        after = pattern.node()
        for part in parts:
            pattern.skip(part(pattern, at), after)
        return after

    return add


def optional(part: Part) -> Part:
    return either(part, literal(b""))


def spaces() -> Part:
    """Up to eight blanks: enough for any indentation, and never a model that indents for ever."""

    def add(pattern: FiniteStateMachine, at: int) -> int:
        end = pattern.node()
        for _ in range(MAX_SPACES):
            pattern.skip(at, end)
            after = pattern.node()
            pattern.edge(at, frozenset(b" \n\t\r"), after)
            at = after
        pattern.skip(at, end)
        return end

    return add


def text(forbidden: bytes, escape: bytes = b"") -> Part:
    """Any UTF-8 text without control characters and without `forbidden`; `escape` and one printable character pass too."""
    plain = frozenset(b for b in range(0x20, 0xFF) if b not in forbidden + escape)

    def add(pattern: FiniteStateMachine, at: int) -> int:
        inside = pattern.node()
        pattern.skip(at, inside)
        pattern.edge(inside, plain, inside)
        pattern.text_node(inside)
        if escape:
            escaped = pattern.node()
            pattern.edge(inside, frozenset(escape), escaped)
            pattern.edge(escaped, frozenset(range(0x20, 0x7F)), inside)
        after = pattern.node()
        pattern.skip(inside, after)
        return after

    return add


def number() -> Part:
    """The next of a box's four numbers."""
    return lambda pattern, at: pattern.number_node(at)
