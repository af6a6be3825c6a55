"""The parser on written-out answers: real shapes, empty, partial, malformed, out of range."""

from __future__ import annotations

import pytest

from egm_edge.boxes import Coordinates
from egm_edge.grounding import Outcome, Task
from egm_edge.parsing import AMODAL_MARGIN, Parsed, parse_answer

QWEN = (
    "The man on the left wears a red cap; the one asked for stands right of him.\n</think>\n\n"
    '```json\n[\n\t{"bbox_2d": [512, 87, 689, 934], "label": "man right of the red cap"}\n]\n```'
)
INTERNVL = "<think>Two dogs; the brown one lies.</think><answer><ref>the brown dog</ref><box>[12, 340, 498, 905]</box></answer>"
INTERNVL_AMODAL = "<think>The sofa hides its legs.</think><ref>the cat</ref><box>[100, 200, 300, 1000]</box>"
NANO = '<think>1 small red mug [40, 55, 90, 120]; target 1</think>{"bbox_2d": [40, 55, 90, 120], "label": "red mug"}'

FOUND_ROWS = [
    pytest.param(
        QWEN, (512, 87, 689, 934), "man right of the red cap", "json", id="Qwen: fenced JSON after the thought"
    ),
    pytest.param(INTERNVL, (12, 340, 498, 905), "the brown dog", "box_tag", id="InternVL: answer tag"),
    pytest.param(INTERNVL_AMODAL, (100, 200, 300, 1000), "the cat", "box_tag", id="InternVL amodal: no answer tag"),
    pytest.param(NANO, (40, 55, 90, 120), "red mug", "json", id="EGM-Nano"),
    pytest.param('{"bbox_2d": [1, 2, 3, 4]}', (1, 2, 3, 4), "", "json", id="one object, no label, no thought"),
    pytest.param('[{"label": "a", "bbox_2d": [1, 2, 3, 4]}]', (1, 2, 3, 4), "a", "json", id="label first"),
    pytest.param('[{"bbox_2d": [[1, 2, 3, 4]], "label": "a"}]', (1, 2, 3, 4), "a", "json", id="nested list"),
    pytest.param(
        '[{"bbox_2d": [1, 2, 3, 4], "label": "a"}, {"bbox_2d": [5, 6, 7, 8], "label": "b"}]',
        (5, 6, 7, 8),
        "b",
        "json",
        id="two boxes: the last",
    ),
    pytest.param(
        '{"bbox_2d": [1.5, 2e1, "30", 40.25]}', (1.5, 20, 30, 40.25), "", "json", id="decimals, exponent, quoted"
    ),
    pytest.param('{"bbox_2d": [300, 400, 100, 200]}', (100, 200, 300, 400), "", "json", id="corners swapped"),
    pytest.param('{"bbox_2d": [-5, -1, 900, 1000]}', (0, 0, 900, 1000), "", "json", id="modal box a little outside"),
    pytest.param(
        'not [9, 9, 99, 99] but</think>{"bbox_2d": [1, 2, 3, 4]}', (1, 2, 3, 4), "", "json", id="box in thought differs"
    ),
    pytest.param(
        '<think>maybe {"bbox_2d": [9, 9, 99, 99]}</think>[1, 2, 3, 4]',
        (1, 2, 3, 4),
        "",
        "bracket_list",
        id="explicit box in thought, plain list in answer",
    ),
    pytest.param(
        '[{"bbox_2d": [1, 2, 3, 4], "label": "book [5, 6, 7, 8]"}]',
        (1, 2, 3, 4),
        "book [5, 6, 7, 8]",
        "json",
        id="brackets in label",
    ),
    pytest.param(
        '[{"bbox_2d": [1, 2, 3, 4], "label": "a \\"bbox_2d\\": [5, 6, 7, 8]"',
        (1, 2, 3, 4),
        'a "bbox_2d": [5, 6, 7, 8]',
        "bbox_2d",
        id="a box spelled out in the label of broken JSON",
    ),
    pytest.param(
        "<ref>sign [5, 6, 7, 8]</ref><box>[1, 2, 3, 4]</box>",
        (1, 2, 3, 4),
        "sign [5, 6, 7, 8]",
        "box_tag",
        id="brackets in ref",
    ),
    pytest.param(
        '[{"bbox_2d": [1, 2, 3, 4], "label": "the "red" mug"}]',
        (1, 2, 3, 4),
        'the "red" mug',
        "bbox_2d",
        id="bare quotes",
    ),
    pytest.param('[{"bbox_2d": [1, 2, 3, 4], "label": "mu', (1, 2, 3, 4), "mu", "bbox_2d", id="cut in the label"),
    pytest.param('[{"bbox_2d": [1, 2, 3, 4]', (1, 2, 3, 4), "", "bbox_2d", id="cut after the box"),
    pytest.param(
        '[{"bbox_2d": [1, 2, 3, 4]}, {"bbox_2d": [5, 6, 7, 8',
        (1, 2, 3, 4),
        "",
        "bbox_2d",
        id="second box cut: the first",
    ),
    pytest.param(
        '{"label": "a \\u00e9", "bbox_2d": [1, 2, 3, 4]', (1, 2, 3, 4), "a é", "bbox_2d", id="label before, cut"
    ),
    pytest.param("{'bbox_2d': [1, 2, 3, 4]}", (1, 2, 3, 4), "", "bbox_2d", id="single quotes"),
    pytest.param('"bbox_2d": "[1, 2, 3, 4]"', (1, 2, 3, 4), "", "bbox_2d", id="list inside a string"),
    pytest.param("bbox_2d = (1,2),(3,4)", (1, 2, 3, 4), "", "bbox_2d", id="corner pairs"),
    pytest.param("<box>[[1, 2, 3, 4]]</box>", (1, 2, 3, 4), "", "box_tag", id="InternVL double brackets"),
    pytest.param("<box>1, 2, 3, 4</box>", (1, 2, 3, 4), "", "box_tag", id="tag without brackets"),
    pytest.param(
        "<|object_ref_start|>mug<|object_ref_end|><|box_start|>(1,2),(3,4)<|box_end|>",
        (1, 2, 3, 4),
        "mug",
        "box_tag",
        id="Qwen2-VL special tokens",
    ),
    pytest.param("the mug[[10, 20, 30, 40]]", (10, 20, 30, 40), "", "bracket_list", id="special tokens stripped"),
    pytest.param("[1, 2, 3, 4] or rather [5 6 7 8]", (5, 6, 7, 8), "", "bracket_list", id="last list of four"),
    pytest.param("[1, 2, 3, 4] at [5, 6]", (1, 2, 3, 4), "", "bracket_list", id="a shorter list does not count"),
    pytest.param(
        "<answer>[1, 2, 3, 4]</answer> as in [5, 6, 7, 8]", (5, 6, 7, 8), "", "bracket_list", id="after the answer tag"
    ),
    pytest.param(
        "[9, 9, 99, 99]<answer>[1, 2, 3, 4]", (1, 2, 3, 4), "", "bracket_list", id="the answer tag goes first"
    ),
    pytest.param("[9, 9, 99, 99]<answer>that one", (9, 9, 99, 99), "", "bracket_list", id="nothing in the answer tag"),
    pytest.param('a</think>b</think>{"bbox_2d": [1, 2, 3, 4]}', (1, 2, 3, 4), "", "json", id="thought closed twice"),
    pytest.param(
        '{"bbox_2d": [1, 2, 3, 4]}<think>[5, 6, 7, 8]', (1, 2, 3, 4), "", "json", id="thinks again after the answer"
    ),
    pytest.param('{"bbox_2d": [0, 0, 1000, 1000]}', (0, 0, 1000, 1000), "", "json", id="the whole image"),
]

NOTHING_ROWS = [
    pytest.param("none there</think>[]", id="empty list"),
    pytest.param("```json\n[]\n```", id="fenced empty list"),
    pytest.param('[{"bbox_2d": [], "label": "mug [1, 2, 3, 4]"}]', id="empty box with brackets in the label"),
    pytest.param('{"bbox_2d": null}', id="null box"),
    pytest.param("<ref>a unicorn</ref><box></box>", id="empty box tag"),
    pytest.param("<ref>a unicorn</ref><box>[]</box>", id="empty list in the box tag"),
    pytest.param("it is [1, 2, 3, 4]<answer>[]</answer>", id="empty answer after a list"),
    pytest.param("None.", id="the word none"),
    pytest.param("not found", id="the words not found"),
]

UNPARSABLE_ROWS = [
    pytest.param("", id="empty text"),
    pytest.param("   \n\t ", id="blanks"),
    pytest.param("It stands on the left", id="prose"),
    pytest.param('{"bbox_2d": [-5, -1, 1200, 1000.5]}', id="modal box beyond the grid"),
    pytest.param('"bbox_2d": [1, 2, 3, 45', id="cut inside the last number"),
    pytest.param("[1, 2, 3]", id="three numbers"),
    pytest.param("[1, 2, 3, 4, 5]", id="five numbers"),
    pytest.param('{"bbox_2d": [1, 2, 3, 4, 0.9]}', id="box with a score"),
    pytest.param('{"bbox_2d": [1, 2, 3], "label": "mug [1, 2, 3, 4]"}', id="unusable box, list in the label"),
    pytest.param('{"bbox_2d": [NaN, 2, 3, 4]}', id="not a number"),
    pytest.param('{"bbox_2d": [1, 2, Infinity, 4]}', id="infinite"),
    pytest.param("[1, 2, 1e999, 4]", id="overflowing exponent"),
    pytest.param('{"bbox_2d": [1, 2, ' + "9" * 5000 + ", 4]}", id="a number of 5000 digits"),
    pytest.param('{"bbox_2d": [1, 2, ' + "9" * 400 + ", 4]}", id="a number beyond any float"),
    pytest.param("hm <answer>[9, 9, 99, 99]</think>", id="answer tag inside a thought that is closed later"),
    pytest.param('{"bbox_2d": [true, 2, 3, 4]}', id="a truth value"),
    pytest.param('{"bbox_2d": [10, 20, 10, 40]}', id="no width"),
    pytest.param('{"bbox_2d": [10, 20, 30, 20]}', id="no height"),
    pytest.param('{"bbox_2d": [1100, 20, 1300, 40]}', id="wholly outside"),
    pytest.param("[１, ２, ３, ４]", id="full-width digits"),
    pytest.param("1 2 3 4", id="numbers without brackets"),
    pytest.param("12345678", id="a run of digits"),
    pytest.param("<think>it is at [1, 2, 3, 4]", id="cut while thinking"),
    pytest.param("[1, 2, 3, 4]</think>", id="box only in the thought"),
    pytest.param("\ud800\x00\uffff[", id="broken characters"),
]


@pytest.mark.parametrize(("text", "box", "label", "rule"), FOUND_ROWS)
def test_answers_with_a_box(text: str, box: tuple[float, ...], label: str, rule: str) -> None:
    parsed = parse_answer(text)
    assert (parsed.outcome, parsed.box_norm1000, parsed.label, parsed.rule) == (Outcome.FOUND, box, label, rule)


@pytest.mark.parametrize("text", NOTHING_ROWS)
def test_explicitly_empty_answers(text: str) -> None:
    parsed = parse_answer(text)
    assert (parsed.outcome, parsed.box_norm1000, parsed.rule) == (Outcome.NOT_FOUND, None, "empty")


@pytest.mark.parametrize("text", UNPARSABLE_ROWS)
def test_answers_without_a_usable_box(text: str) -> None:
    parsed = parse_answer(text)
    assert (parsed.outcome, parsed.box_norm1000, parsed.rule) == (Outcome.UNPARSABLE, None, "")


@pytest.mark.parametrize(
    ("text", "reasoning"),
    [
        pytest.param(QWEN, "The man on the left wears a red cap; the one asked for stands right of him.", id="Qwen"),
        pytest.param(INTERNVL, "Two dogs; the brown one lies.", id="InternVL"),
        pytest.param("<think>one</think>x<think>two</think>y", "one\ntwo", id="two thoughts"),
        pytest.param("no thought [1, 2, 3, 4]", "", id="none"),
    ],
)
def test_reasoning_is_the_thought_without_its_tags(text: str, reasoning: str) -> None:
    assert parse_answer(text).reasoning == reasoning


@pytest.mark.parametrize(
    ("text", "outcome", "reasoning"),
    [
        pytest.param("at [1, 2, 3, 4] or", Outcome.UNPARSABLE, "at [1, 2, 3, 4] or", id="never closed: all thought"),
        pytest.param("hm</think>[1, 2, 3, 4]", Outcome.FOUND, "hm", id="closed"),
        pytest.param("hm<answer>[1, 2, 3, 4]</answer>", Outcome.FOUND, "hm", id="ended by the answer tag"),
        pytest.param("<think>hm</think>[1, 2, 3, 4]", Outcome.FOUND, "hm", id="opened once more by the model"),
        pytest.param("<think>hm [1, 2, 3, 4]", Outcome.UNPARSABLE, "hm [1, 2, 3, 4]", id="opened again, never closed"),
    ],
)
def test_a_thought_that_the_prompt_opened(text: str, outcome: Outcome, reasoning: str) -> None:
    parsed = parse_answer(text, in_thought=True)
    assert (parsed.outcome, parsed.reasoning) == (outcome, reasoning)


def test_amodal_boxes_may_leave_the_image_by_one_frame_a_side() -> None:
    assert AMODAL_MARGIN == 1000.0
    text = '{"bbox_2d": [-120, 40, 2500, 1300]}'
    assert parse_answer(text, task=Task.AMODAL).box_norm1000 == (-120, 40, 2000, 1300)
    assert parse_answer('{"bbox_2d": [-99999, -99999, 0, 1]}', task=Task.AMODAL).box_norm1000 == (-1000, -1000, 0, 1)


def test_minus_zero_is_zero() -> None:
    parsed = parse_answer("[-0, -0.0, 3, 4]")
    assert str(parsed.box_norm1000) == "(0.0, 0.0, 3.0, 4.0)"


def test_parsed_values_compare_by_content() -> None:
    assert parse_answer(QWEN) == parse_answer(QWEN) != Parsed(Outcome.UNPARSABLE)


def test_other_units_of_coordinates() -> None:
    text = '{"bbox_2d": [0.1, 0.2, 0.5, 0.75]}'
    assert parse_answer(text, coordinates=Coordinates.NORM1).box_norm1000 == (100, 200, 500, 750)
    text = '{"bbox_2d": [64, 48, 1280, 480]}'
    parsed = parse_answer(text, coordinates=Coordinates.PIXELS, image_wh=(1280, 480))
    assert parsed.box_norm1000 == (50, 100, 1000, 1000)
    assert parse_answer(text, coordinates=Coordinates.PIXELS, image_wh=(640, 480)).outcome is Outcome.UNPARSABLE


def test_candidates_carry_every_box_with_its_label() -> None:
    text = (
        '[{"bbox_2d": [1, 2, 3, 4], "label": "a"}, {"bbox_2d": [9, 9, 9, 9]}, {"bbox_2d": [5, 6, 7, 8], "label": "b"}]'
    )
    assert [(c.box_norm1000, c.label) for c in parse_answer(text).candidates] == [
        ((1, 2, 3, 4), "a"),
        ((5, 6, 7, 8), "b"),
    ]
