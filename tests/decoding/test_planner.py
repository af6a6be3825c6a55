"""What a deadline buys: image tokens first, votes last, and always the answer."""

from __future__ import annotations

import math

import numpy as np
import pytest

from egm_edge.decoding.deadline.latency_model import FIRST_GUESS_STEP_MS, LatencyModel
from egm_edge.decoding.deadline.planner import IMAGE_SHARES, Plan, plan


def machine(step_ms: float = 2.0, frame_ms: float = 40.0, thought: tuple[int, float] = (20, 30.0)) -> LatencyModel:
    """300 image tokens cost `frame_ms`, a prompt of 10 tokens 5 ms; a thought has so many tokens and milliseconds."""
    cost = LatencyModel()
    for _ in range(10):
        cost.record_frame(300, frame_ms)
        cost.record_frame(75, frame_ms / 4)
        cost.record_prompt(10, 5.0)
        cost.record_step(1, step_ms)
        if thought[0]:
            cost.record_thought(*thought)
    return cost


def planned(cost: LatencyModel, remaining_ms: float, *, opened: bool = False, samples: int | None = 1) -> Plan:
    return plan(
        cost, remaining_ms, image_tokens=300, frame_opened=opened, prompt_tokens=10, answer_steps=12, samples=samples
    )


def test_without_a_deadline_nothing_is_cut() -> None:
    assert planned(LatencyModel(), math.inf, samples=None) == Plan(1.0, 1)
    assert planned(machine(), math.inf, samples=5) == Plan(1.0, 5)


def test_image_tokens_fall_with_the_time_left() -> None:
    shares = [planned(machine(), ms).image_share for ms in range(100, 0, -1)]
    assert shares == sorted(shares, reverse=True)
    assert shares[0] == 1.0 and shares[-1] == IMAGE_SHARES[-1]
    # frame 40 + prompt 5 + answer 12 x 2 + 0.5 + one step 2 = 71.5 ms
    assert planned(machine(), 71.6).image_share == 1.0
    assert planned(machine(), 71.4).image_share == 0.5


def test_a_frame_that_is_open_costs_nothing() -> None:
    assert planned(machine(), 40.0, opened=True).image_share == 1.0
    assert planned(machine(), 40.0, opened=False).image_share < 1.0


def test_votes_only_where_the_whole_image_and_the_answer_fit_first() -> None:
    assert planned(machine(), 72.0, samples=None) == Plan(1.0, 1, think=False)
    assert planned(machine(), 50.0, samples=None).samples == 1
    counts = [planned(machine(), ms, samples=None).samples for ms in range(60, 2000, 20)]
    assert counts == sorted(counts) and counts[-1] == 8
    assert planned(machine(thought=(0, 0.0)), 2000.0, samples=None).samples == 1, "no thought was seen: nothing is known"


def test_a_thought_is_begun_only_where_it_will_end() -> None:
    """Frame 40, prompt 5, thought 30, answer 24.5, one step 2: 101.5 ms."""
    assert planned(machine(), 101.6).think and not planned(machine(), 101.4).think
    assert planned(machine(), 62.0, opened=True).think and not planned(machine(), 61.0, opened=True).think
    assert planned(LatencyModel(), 400.0).think, "nothing is known yet"
    assert not planned(machine(), 50.0).think, "no thought about a smaller picture"


def test_thoughts_that_are_cut_count_as_longer_ones() -> None:
    cost = machine(thought=(20, 30.0))
    for _ in range(20):
        cost.record_thought(20, 40.0, cut=True)
    assert cost.thought_ms == 60.0


def test_a_step_is_priced_at_its_slow_end_and_the_price_follows_the_machine() -> None:
    assert LatencyModel().step_ms == FIRST_GUESS_STEP_MS
    cost = LatencyModel()
    for i in range(64):
        cost.record_step(1, 10.0 if i % 5 == 0 else 1.0)
    assert cost.step_ms == 10.0
    for _ in range(64):
        cost.record_step(1, 3.0)
    assert cost.step_ms == 3.0
    assert cost.answer_ms(10) == (30.5, 3.0)
    for ms in range(11):
        cost.record_finish(float(ms))
    assert cost.answer_ms(10) == (39.0, 3.0), "what comes after the last token is learned, too"


@pytest.mark.parametrize("count", [1, 2, 9, 64])
def test_the_high_end_is_numpys_percentile(count: int) -> None:
    cost, seen = LatencyModel(), np.random.default_rng(count).exponential(size=count)
    for ms in seen:
        cost.record_interruption(ms)
    assert cost.interruption_ms == pytest.approx(np.percentile(seen, 95))


def test_a_frame_between_two_sizes_costs_in_between_and_a_larger_one_more_than_in_proportion() -> None:
    cost = machine()
    assert cost.frame_ms(75) == 10.0 and cost.frame_ms(300) == 40.0
    assert 10.0 < cost.frame_ms(150) < 40.0
    assert cost.frame_ms(600) > 80.0


def test_one_long_thought_is_no_reason_to_leave_out_all_that_follow() -> None:
    """A cap of 96 tokens, of which the very first thought has more."""
    cost = LatencyModel()
    assert cost.long_thought_tokens == 96
    cost.record_thought(96, 100.0, cut=True)
    assert cost.long_thought_tokens == 96
    for _ in range(19):
        cost.record_thought(50, 50.0)
    assert cost.long_thought_tokens == 50
    for _ in range(5):
        cost.record_thought(96, 100.0, cut=True)
    assert cost.long_thought_tokens == 144
