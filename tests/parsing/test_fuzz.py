"""The parser on damaged answers: never an exception, never a box where none may be, linear time."""

from __future__ import annotations

import random
import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from egm_edge.grounding import Outcome, Task
from egm_edge.parsing import AMODAL_MARGIN, Parsed, parse_answer

LABELS = [
    "the red mug",
    'the "red" mug',
    "mug [2] {x}",
    "[1, 2, 3, 4]",
    "红色的杯子",
    "a <box> </think> b",
    "\\u00e9\\",
    "",
]
THOUGHTS = [
    "It is left of the kettle.",
    "1 mug [12, 30, 400, 500]; 2 cup [1, 2, 3, 4]. target 2",
    "",
    '{"bbox_2d": [1, 2, 3, 4]}',
]
NUMBERS = [
    "0",
    "17",
    "999",
    "1000",
    "1001",
    "-3",
    "4.75",
    "1e3",
    "1e400",
    "NaN",
    "-Infinity",
    "9" * 30,
    "007",
    "",
    "null",
]
SCRAPS = [
    "[",
    "]",
    "{",
    "}",
    '"',
    ",",
    "<think>",
    "</think>",
    "<answer>",
    "<box>",
    "</box>",
    "```",
    "\n",
    "\\",
    "\x00",
    "\ud83d",
    "1",
]
JSON_ANSWER = '{thought}\n</think>\n\n```json\n[\n\t{{"bbox_2d": [{box}], "label": "{label}"}}\n]\n```'
SHAPES = [
    JSON_ANSWER,
    '<think>{thought}</think>{{"bbox_2d": [{box}], "label": "{label}"}}',
    "<think>{thought}</think><answer><ref>{label}</ref><box>[{box}]</box></answer>",
    "<think>{thought}</think><ref>{label}</ref><box>[[{box}]]</box>",
    "{thought}</think>{label}[{box}]",
    '[{{"label": "{label}", "bbox_2d": [{box}]}}, {{"bbox_2d": [{box}], "label": "{label}"}}]',
    "<|object_ref_start|>{label}<|object_ref_end|><|box_start|>({box})<|box_end|>",
    "{thought}</think>[]",
]

RULES = ("json", "json_other", "bbox_2d", "other_key", "box_tag", "other_tag", "bracket_list")


def answer(rng: random.Random) -> str:
    """A real answer shape with odd content, then cut and mangled."""
    common = rng.random() < 0.5
    values = [
        str(rng.randrange(1001)) if common else rng.choice(NUMBERS) for _ in range(4 if common else rng.randrange(6))
    ]
    fill = {
        "thought": rng.choice(THOUGHTS),
        "label": rng.choice(LABELS),
        "box": rng.choice([", ", ",", " "]).join(values),
    }
    text = rng.choice(SHAPES).format(**fill)
    for _ in range(rng.randrange(4)):
        at, to = sorted(rng.randrange(len(text) + 1) for _ in range(2))
        kind = rng.randrange(5)
        if kind == 0:
            text = text[:at]
        elif kind == 1:
            text = text[at:]
        elif kind == 2:
            text = text[:at] + rng.choice(SCRAPS) + text[at:]
        elif kind == 3:
            text = text[:at] + text[to:]
        else:
            text = text[:to] + text[at:to] + text[to:]
    return text


def check(parsed: Parsed, task: Task) -> None:
    low, high = (0.0, 1000.0) if task is Task.MODAL else (-AMODAL_MARGIN, 1000.0 + AMODAL_MARGIN)
    if parsed.outcome is Outcome.FOUND:
        assert parsed.box_norm1000 is not None
        x1, y1, x2, y2 = parsed.box_norm1000
        assert low <= x1 < x2 <= high
        assert low <= y1 < y2 <= high
        assert parsed.rule in RULES
        assert parsed.box_norm1000 in [c.box_norm1000 for c in parsed.candidates]
    else:
        assert parsed.box_norm1000 is None
        assert not parsed.candidates
        assert parsed.outcome in (Outcome.NOT_FOUND, Outcome.UNPARSABLE)
    assert (parsed.reason is None) == (parsed.outcome is not Outcome.UNPARSABLE)


@pytest.mark.parametrize("count", [10_000, pytest.param(200_000, marks=pytest.mark.long)])
def test_mangled_answers(count: int) -> None:
    rng = random.Random(20261121)
    seen = dict.fromkeys(Outcome, 0)
    rules: dict[str, int] = {}
    for i in range(count):
        task = Task.AMODAL if i % 3 == 0 else Task.MODAL
        parsed = parse_answer(answer(rng), task=task, in_thought=i % 2 == 0)
        check(parsed, task)
        seen[parsed.outcome] += 1
        rules[parsed.rule] = rules.get(parsed.rule, 0) + 1
    # The mangling must leave something to find, and break something, or it tests nothing.
    assert min(seen[Outcome.FOUND], seen[Outcome.UNPARSABLE]) > count // 10
    assert seen[Outcome.NOT_FOUND] > count // 100
    assert min(rules.get(rule, 0) for rule in ("json", "bbox_2d", "box_tag", "bracket_list", "empty")) > count // 400


@settings(max_examples=500, deadline=None)
@given(st.text(), st.sampled_from(Task), st.booleans())
def test_any_text(text: str, task: Task, in_thought: bool) -> None:
    check(parse_answer(text, task=task, in_thought=in_thought), task)


@settings(max_examples=500, deadline=None)
@given(
    st.lists(st.sampled_from(["bbox_2d", '"', ":", "1", "23", " ", "e5", "-", ".", *SCRAPS])).map("".join),
    st.sampled_from(Task),
)
def test_any_arrangement_of_the_pieces_of_an_answer(text: str, task: Task) -> None:
    check(parse_answer(text, task=task), task)


finite = st.floats(-1e6, 1e6).map(lambda v: round(v, 3))


@given(finite, finite, finite, finite, st.sampled_from(Task))
def test_four_numbers_give_the_same_box_in_every_syntax(a: float, b: float, c: float, d: float, task: Task) -> None:
    syntaxes = [
        'x</think>[{{"bbox_2d": [{}], "label": "y"}}]',
        "<ref>y</ref><box>[{}]</box>",
        "y [{}]",
        '"bbox_2d": [{}] cut',
    ]
    boxes = {parse_answer(s.format(f"{a:.3f}, {b:.3f}, {c:.3f}, {d:.3f}"), task=task).box_norm1000 for s in syntaxes}
    assert len(boxes) == 1


@pytest.mark.parametrize(
    "piece",
    [
        "[",
        "1",
        " ",
        "[1,2,3,",
        '"bbox_2d": [',
        '{"bbox_2d":',
        '"bbox_2d": [1,2,3,4], "label": "',
        "<box>",
        "<box>[1,2,3,4]</box>",
        "<ref>a<box>[1,2,3,0]",
        "<think>",
        "</think>",
        "<think><answer>",
        "<answer>",
        '\\"',
    ],
)
def test_eight_times_the_text_costs_about_eight_times_as_much(piece: str) -> None:
    def cpu_s(characters: int) -> float:
        """The least of three: a busy machine charges a process for what others push out of its caches."""
        took = []
        for _ in range(3):
            start = time.process_time()
            check(parse_answer(piece * (characters // len(piece))), Task.MODAL)
            took.append(time.process_time() - start)
        return min(took)

    assert cpu_s(1_000_000) < 24 * max(cpu_s(125_000), 0.01)  # 64 times where the cost is quadratic
