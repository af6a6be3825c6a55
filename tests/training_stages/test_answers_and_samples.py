"""What a row teaches reads back as the row; loss falls on the answer only; unusable rows are found before training."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from egm_edge.boxes import Box
from egm_edge.data.problems import DataError
from egm_edge.data.readers import load_rows
from egm_edge.data.rows import Row
from egm_edge.grounding import Outcome, Task
from egm_edge.parsing import parse_answer
from tests.training_stages.runs import write_data
from training.stages.answers import answer_text, box_numbers
from training.stages.processor import EgmProcessor
from training.stages.samples import IGNORED, SftCollator, grpo_dataset, require_usable, sft_dataset

ROW = Row("r", "a.png", (640, 480), "the red [mug]", Box(160.0, 120.0, 320.0, 240.0), reasoning="It is red.")


@pytest.fixture(params=["tiny_qwen3_vl", "tiny_internvl3"])
def processor(request: pytest.FixtureRequest) -> EgmProcessor:
    return EgmProcessor(request.getfixturevalue(request.param))


@pytest.mark.parametrize(
    "row",
    [
        pytest.param(ROW, id="modal"),
        pytest.param(replace(ROW, reasoning=""), id="no reasoning"),
        pytest.param(
            replace(ROW, task=Task.AMODAL, box=Box(-64.0, 120.0, 700.0, 240.0)), id="amodal, beyond the frame"
        ),
        pytest.param(
            replace(ROW, expression='a "quoted" one, [1, 2, 3, 4]'), id="brackets and quotes in the expression"
        ),
        pytest.param(replace(ROW, box=Box(639.9, 479.9, 640.0, 480.0)), id="thinner than half a unit"),
        pytest.param(replace(ROW, box=Box(0.0, 0.0, 2.0, 0.1)), id="thin at the origin"),
        pytest.param(replace(ROW, reasoning="Not the one at [5, 6, 7, 8]."), id="a list in the thought"),
    ],
)
def test_answers_read_back_by_the_strict_rule(processor: EgmProcessor, row: Row) -> None:
    spec = processor.prompt_spec
    parsed = parse_answer(answer_text(row, spec), task=row.task, in_thought=spec.in_thought)
    assert parsed.box_norm1000 == tuple(box_numbers(row) or ())
    assert parsed.rule == {"bbox_2d_json": "json", "ref_box": "box_tag"}[spec.answer_syntax]
    assert (parsed.label, parsed.reasoning) == (row.expression, row.reasoning)


def test_a_thing_that_is_not_there_reads_back_as_not_found(processor: EgmProcessor) -> None:
    spec = processor.prompt_spec
    parsed = parse_answer(answer_text(replace(ROW, box=None), spec), in_thought=spec.in_thought)
    assert parsed.outcome is Outcome.NOT_FOUND


def test_qwen_answers_are_the_recipes_to_the_letter(tiny_qwen3_vl: Path) -> None:
    text = answer_text(replace(ROW, expression="mug"), EgmProcessor(tiny_qwen3_vl).prompt_spec)
    assert text == 'It is red.\n</think>\n\n```json\n[\n\t{"bbox_2d": [250, 250, 500, 500], "label": "mug"}\n]\n```'


def test_internvl_answers_are_the_recipes_to_the_letter(tiny_internvl3: Path) -> None:
    text = answer_text(replace(ROW, expression="mug"), EgmProcessor(tiny_internvl3).prompt_spec)
    assert text == "<think>It is red.</think><answer><ref>mug</ref><box>[250, 250, 500, 500]</box></answer>"


def test_loss_falls_on_the_answer_and_the_end_of_the_turn_only(processor: EgmProcessor, tmp_path: Path) -> None:
    rows = load_rows([write_data(tmp_path, 4)])
    batch = SftCollator(processor, tmp_path / "images")(list(sft_dataset(rows)))
    for i, row in enumerate(rows):
        taught = [t for t in batch["labels"][i].tolist() if t != IGNORED]
        assert taught[-1] == processor.tokenizer.eos_token_id
        assert processor.decode_answer(taught) == answer_text(row, processor.prompt_spec)
        seen = batch["input_ids"][i][batch["attention_mask"][i].bool()].tolist()
        prompt = seen[: len(seen) - len(taught)]
        assert seen[-len(taught) :] == taught and processor.image_token_id in prompt
        text = processor.tokenizer.decode([t for t in prompt if t != processor.image_token_id])
        assert row.expression in text and text.endswith(processor.prompt_spec.suffix)


def test_grpo_items_hold_prompt_picture_and_target(processor: EgmProcessor, tmp_path: Path) -> None:
    rows = load_rows([write_data(tmp_path, 4)])
    items = list(grpo_dataset(rows, processor, tmp_path / "images"))
    first = items[0]
    assert first["prompt"] == [{"role": "user", "content": processor.prompt_spec.task_text("the red one", Task.MODAL)}]
    assert first["images"][0].size == rows[0].image_wh
    assert rows[0].box is not None
    assert first["target_norm1000"] == pytest.approx(rows[0].box.to_norm1000(*rows[0].image_wh))
    assert items[3]["target_norm1000"] is None and [i["row_id"] for i in items] == [r.id for r in rows]


def test_unusable_rows_are_all_found_before_training(processor: EgmProcessor, tmp_path: Path) -> None:
    rows = load_rows([write_data(tmp_path, 4)])
    rows[1] = replace(rows[1], image="gone.png")
    rows[2] = replace(rows[2], task=Task.AMODAL)
    rows[3] = replace(rows[3], reasoning="so " * 600)
    with pytest.raises(DataError) as caught:
        require_usable(rows, processor, tmp_path / "images", limit=900, with_answer=True, task=Task.MODAL)
    found = [(p.line, p.expected) for p in caught.value.problems]
    assert found == [
        (2, f"the picture gone.png in {tmp_path / 'images'}"),
        (3, "modal rows"),
        (4, "at most 900 tokens"),
    ]
