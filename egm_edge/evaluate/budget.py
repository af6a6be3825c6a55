"""Budgets: what a request may spend, and how a run varies it. Accuracy against any of them is a curve."""

from __future__ import annotations

from dataclasses import dataclass

from egm_edge.errors import InputError


@dataclass(frozen=True, slots=True)
class BudgetKind:
    """One quantity that can be limited.

    Attributes:
        name: the keyword of `Grounder.ground`.
        label: of a curve's axis and a table's column.
        least: the smallest value that makes sense.
        shares_frames: whether consecutive rows of one picture may share its frame. A deadline counts from the camera's
            frame, so each of its requests gets a frame of its own.
    """

    name: str
    label: str
    least: int
    shares_frames: bool = True


BUDGET_KINDS = {
    kind.name: kind
    for kind in (
        BudgetKind("max_new_tokens", "maximum new tokens", least=1),
        BudgetKind("max_think_tokens", "maximum tokens of thought", least=0),
        BudgetKind("deadline_ms", "deadline, milliseconds", least=1, shares_frames=False),
    )
}


@dataclass(frozen=True, slots=True)
class Budgets:
    """Every row is asked once with each of `values`, ascending, of one kind."""

    kind: BudgetKind
    values: tuple[int, ...]

    @classmethod
    def of(cls, name: str, values: list[int] | tuple[int, ...]) -> Budgets:
        """Checked, sorted, each once.

        Raises:
            InputError: an unknown kind, no value, or one below the kind's least.
        """
        if name not in BUDGET_KINDS:
            raise InputError(f"a budget of {', '.join(BUDGET_KINDS)}", repr(name), "pass one of these")
        kind = BUDGET_KINDS[name]
        if not values or min(values) < kind.least:
            raise InputError(f"budgets of {name} from {kind.least} up", repr(values)[:60], "raise them")
        return cls(kind, tuple(sorted(set(values))))
