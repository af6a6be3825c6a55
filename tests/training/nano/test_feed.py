"""Drawing ahead gives the batches that drawing on demand gives."""

from __future__ import annotations

from training.nano.feed import Feed


def make(name: str, factor: int, step: int, share: float) -> tuple[str, int, float]:
    return name, factor * step, share


def test_workers_give_what_one_process_gives() -> None:
    alone, ahead = Feed[tuple[str, int, float]](0), Feed[tuple[str, int, float]](1)
    try:
        for step in (3, 4, 5):
            assert ahead.get(make, ("a", 2), step, 0.5) == alone.get(make, ("a", 2), step, 0.5) == ("a", 2 * step, 0.5)
        assert ahead.get(make, ("b", 3), 6, 0.5) == ("b", 18, 0.5), "what was drawn ahead for another setting is stale"
        assert ahead.get(make, ("b", 3), 2, 0.5) == ("b", 6, 0.5), "a step that is not the next one"
    finally:
        ahead.close()
