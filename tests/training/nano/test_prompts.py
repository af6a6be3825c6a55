"""Training rows are letter for letter what a runtime sends and parses."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from egm_edge.grounding import Task
from egm_edge.synthetic import Query, layout, sample_scene
from training.nano.prompts import PREFIX, SUFFIX, list_row, number_ids, query_row, tokenizer

MUG = Query(
    "the red mug",
    Task.MODAL,
    "attribute",
    0,
    (121.0, 299.0, 240.2, 481.0),
    "red mug",
    "red mug: 1 small red mug [120, 300, 240, 480]. target 1",
)
NONE = Query("red mug", Task.AMODAL, "negative", None, None, "red mug", "red mug: none")


@pytest.mark.parametrize(
    ("query", "reasoning", "expected"),
    [
        pytest.param(
            MUG, True,
            "Locate the red mug, output its bbox coordinates using JSON format<|im_end|>\n<|im_start|>assistant\n<think>\n"
            "red mug: 1 small red mug [120, 300, 240, 480]. target 1\n</think>\n\n"
            '```json\n[{"bbox_2d": [120, 300, 240, 480], "label": "red mug"}]\n```<|im_end|>',
            id="reasoning",
        ),
        pytest.param(
            MUG, False,
            "Locate the red mug, output its bbox coordinates using JSON format<|im_end|>\n<|im_start|>assistant\n<think>\n"
            '\n</think>\n\n```json\n[{"bbox_2d": [120, 300, 240, 480], "label": "red mug"}]\n```<|im_end|>',
            id="direct",
        ),
        pytest.param(
            NONE, True,
            "Locate red mug amodally, output its bbox coordinates using JSON format<|im_end|>\n<|im_start|>assistant\n<think>\n"
            "red mug: none\n</think>\n\n```json\n[]\n```<|im_end|>",
            id="not there",
        ),
    ],
)  # fmt: skip
def test_row_text(query: Query, reasoning: bool, expected: str) -> None:
    row = query_row(query, reasoning)
    assert tokenizer().decode(list(row.ids), skip_special_tokens=False) == expected
    prompt = tokenizer().decode(list(row.ids[: row.prompt_length]), skip_special_tokens=False)
    assert prompt.endswith(SUFFIX) and expected.startswith(prompt)


def test_coordinates_are_marked_and_nothing_else() -> None:
    row = query_row(MUG)
    marked = [token for token, flag in zip(row.ids, row.coordinate, strict=True) if flag]
    assert [tokenizer().decode([t]) for t in marked] == ["120", "300", "240", "480"] * 2
    scene = sample_scene(3, (5, 5))
    listed = list_row(scene, layout(scene, 640, 480))
    assert sum(listed.coordinate) == 4 * len(scene.objects)
    assert {t for t, flag in zip(listed.ids, listed.coordinate, strict=True) if flag} <= set(number_ids())


def test_the_chat_template_renders_the_same_prompt(nano_folder: Path) -> None:
    from transformers import AutoTokenizer

    loaded = AutoTokenizer.from_pretrained(nano_folder)
    user = {
        "role": "user",
        "content": [
            {"type": "image"},
            {"type": "text", "text": "Locate the red mug, output its bbox coordinates using JSON format"},
        ],
    }
    text = loaded.apply_chat_template([user], tokenize=False, add_generation_prompt=True)
    assert text == f"{PREFIX}<|image_pad|><|vision_end|>{user['content'][1]['text']}{SUFFIX}"  # type: ignore[index]
    assert loaded(text).input_ids == tokenizer().encode(text).ids
    answer = json.loads('[{"bbox_2d": [120, 300, 240, 480], "label": "red mug"}]')
    assert answer[0]["bbox_2d"] == [120, 300, 240, 480]
