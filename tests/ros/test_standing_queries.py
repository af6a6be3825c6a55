"""Whose turn it is: rounds, priorities, periods, queue and re-grounding policies, with a clock of the test's own."""

from __future__ import annotations

import pytest
from egm_ros.requests import Request
from egm_ros.standing_queries import StandingQueries, StandingQuery, check_ids

from egm_edge.errors import InputError
from egm_edge.grounding import Task


def query(name: str, priority: int = 0, period_s: float | None = None, expression: str = "") -> StandingQuery:
    return StandingQuery(Request(name, expression or f"the {name}", Task.MODAL), priority, period_s)


def play(commands: StandingQueries, frames: int, period_s: float = 0.0, step_s: float = 0.1) -> list[str]:
    """Ids in the order they were started, one start per new frame, each answered at once."""
    order = []
    for number in range(1, frames + 1):
        due = commands.due(number * step_s, number)
        if due is not None:
            order.append(due.request.request_id)
            commands.started(due.request, number, number * step_s, period_s)
            commands.answered(due.request, again=True)
    return order


def test_a_round_gives_everybody_a_turn_the_highest_priority_first() -> None:
    commands = StandingQueries()
    commands.replace([query("low", 1), query("high", 200), query("middle", 50)])
    assert play(commands, 6) == ["high", "middle", "low", "high", "middle", "low"]


def test_a_period_holds_a_query_back_and_leaves_its_turns_to_others() -> None:
    commands = StandingQueries()
    commands.replace([query("slow", 200, period_s=0.35), query("fast", 1)])
    assert play(commands, 8) == ["slow", "fast", "fast", "fast", "slow", "fast", "fast", "fast"]


def test_nothing_is_started_twice_on_one_frame() -> None:
    commands = StandingQueries()
    commands.replace([query("one")])
    first = commands.due(0.0, 1)
    assert first is not None
    commands.started(first.request, 1, 0.0, 0.0)
    commands.answered(first.request, again=True)
    assert commands.due(1.0, 1) is None
    assert commands.due(1.0, 2) is not None


def test_an_unchanged_query_keeps_its_turn_and_a_changed_one_starts_anew() -> None:
    commands = StandingQueries()
    commands.replace([query("a", period_s=10.0), query("b", period_s=10.0)])
    assert play(commands, 3) == ["a", "b"]
    commands.replace([query("a", period_s=10.0), query("b", period_s=10.0, expression="another thing")])
    due = commands.due(1.0, 9)
    assert due is not None
    assert due.request.expression == "another thing"
    assert commands.ids() == {"a", "b"}


def test_after_its_answer_a_query_that_is_not_wanted_again_waits_to_be_asked_for() -> None:
    commands = StandingQueries()
    commands.say(query("cmd-1"))
    due = commands.due(0.0, 1)
    assert due is not None
    commands.started(due.request, 1, 0.0, 0.0)
    commands.answered(due.request, again=False)
    assert commands.due(1.0, 2) is None
    assert commands.want(["cmd-1"])
    assert not commands.want(["cmd-1"]), "no news"
    assert commands.due(1.0, 2) is not None


def starts(commands: StandingQueries, turns: int, first: int = 1) -> list[str]:
    """One start per new frame, each free to go out of turn."""
    order = []
    for number in range(first, first + turns):
        due = commands.due(float(number), number, urgent=True)
        assert due is not None
        order.append(due.request.request_id)
        commands.started(due.request, number, float(number), 0.0)
    return order


@pytest.mark.parametrize(
    ("poor", "order"),
    [
        ([], ["a", "b", "c", "a", "b", "c"]),
        (["c"], ["c", "a", "c", "b", "c", "a"]),
        (["c", "b"], ["c", "b", "a", "c", "b", "a"]),
    ],
    ids=["all are good", "one is poor: every second turn", "two are: the worst first, the others in turn"],
)
def test_the_poorest_track_goes_first_and_starves_nobody(poor: list[str], order: list[str]) -> None:
    commands = StandingQueries()
    commands.replace([query("a"), query("b"), query("c")])
    commands.want(poor)
    assert starts(commands, 6) == order
    assert set(starts(commands, 6, first=7)) == {"a", "b", "c"}


def test_within_a_shared_frame_the_poorest_track_goes_first_but_keeps_its_turn() -> None:
    commands = StandingQueries()
    commands.replace([query("a"), query("b"), query("c")])
    commands.want(["c"])
    assert play(commands, 6) == ["c", "a", "b", "c", "a", "b"]


def test_a_poor_track_does_not_go_before_one_of_higher_priority() -> None:
    commands = StandingQueries()
    commands.replace([query("high", 200), query("low", 1)])
    commands.want(["low"])
    assert starts(commands, 4) == ["high", "low", "high", "low"]


def test_an_interrupted_command_is_due_again_at_once_on_the_same_frame() -> None:
    commands = StandingQueries()
    commands.say(query("cmd-1", period_s=60.0))
    due = commands.due(0.0, 1)
    assert due is not None
    commands.started(due.request, 1, 0.0, 0.0)
    commands.interrupted(due.request)
    assert commands.due(0.1, 1) is not None


def test_queued_commands_are_answered_in_turn_and_the_last_one_stands() -> None:
    commands = StandingQueries()
    for number in range(1, 4):
        commands.say(query(f"cmd-{number}"), queue_limit=2)
    with pytest.raises(InputError, match="2 already waiting"):
        commands.say(query("cmd-4"), queue_limit=2)
    assert play(commands, 5) == ["cmd-1", "cmd-2", "cmd-3", "cmd-3", "cmd-3"]


def test_the_latest_command_takes_the_place_of_the_last_one() -> None:
    commands = StandingQueries()
    first = query("cmd-1")
    commands.say(first)
    commands.say(query("cmd-2"))
    assert not commands.stands(first.request)
    assert commands.ids() == {"cmd-2"}
    commands.say(query("cmd-3", expression="the cmd-2"))
    assert commands.ids() == {"cmd-2"}, "the same words are the same command"


@pytest.mark.parametrize(
    ("ids", "problem"),
    [
        (["a", "a"], "stands there twice"),
        ([""], "is not 1 to 64"),
        (["a b"], "is not 1 to 64"),
        (["x" * 65], "is not 1 to 64"),
        (["cmd-7"], "kept for the command topic"),
        ([str(n) for n in range(65)], "65 queries"),
    ],
)
def test_unusable_sets_of_ids_are_refused(ids: list[str], problem: str) -> None:
    with pytest.raises(InputError, match=problem):
        check_ids(ids)
