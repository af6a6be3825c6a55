"""A checkpoint directory asked through the same Grounder as a bundle: the same texts and boxes as its fp32 CPU bundle."""

from __future__ import annotations

import json
import logging
import shutil
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from build_engine.compilers.cpu import build_cpu
from egm_edge import Grounder
from egm_edge.assets import shipped_checkpoint
from egm_edge.bundle_from_checkpoint import describe_checkpoint, is_checkpoint, open_directory
from egm_edge.errors import BackendError, CheckpointError, EgmError
from egm_edge.grounding import Grounding

pytest.importorskip("transformers", reason="runs checkpoints; install the train extra")
IMAGE = np.random.default_rng(0).integers(0, 256, (90, 120, 3), np.uint8)
OTHER = np.random.default_rng(1).integers(0, 256, (70, 200, 3), np.uint8)
QUESTIONS = (("the mug", "modal"), ("左边的杯子", "amodal"), ("the second cup from the left", "modal"))


@pytest.fixture(scope="module", params=["qwen3_vl", "internvl3", "egm-nano"])
def pair(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[Grounder, Grounder]]:
    """One checkpoint: as transformers runs it, and its fp32 CPU bundle."""
    checkpoint = (
        shipped_checkpoint() if request.param == "egm-nano" else request.getfixturevalue(f"tiny_{request.param}")
    )
    bundle = build_cpu(checkpoint, tmp_path_factory.mktemp("pair") / "bundle", precision="fp32", gate=False)
    with Grounder.from_checkpoint(checkpoint) as plain, Grounder.from_opened(bundle, threads=1) as built:
        yield plain, built


def same(found: Grounding, expected: Grounding) -> bool:
    return (found.text, found.box, found.outcome, found.tokens, found.cut) == (
        expected.text, expected.box, expected.outcome, expected.tokens, expected.cut,
    )  # fmt: skip


def test_free_and_forced_answers_are_those_of_the_fp32_bundle(pair: tuple[Grounder, Grounder]) -> None:
    for force_syntax in (True, False):
        for expression, task in QUESTIONS:
            found, expected = (
                grounder.ground(IMAGE, expression, task=task, color="rgb", max_new_tokens=24, force_syntax=force_syntax)
                for grounder in pair
            )
            assert same(found, expected)
            assert found.text


def test_frames_keep_their_prefix_while_others_are_asked_about(pair: tuple[Grounder, Grounder]) -> None:
    plain, built = pair
    alone = {e: built.ground(IMAGE, e, color="rgb", max_new_tokens=7) for e, _ in QUESTIONS}
    first, second = plain.frame(IMAGE, color="rgb"), plain.frame(OTHER, color="rgb")
    for expression in alone:
        kept = plain.ground(first, expression, max_new_tokens=7)
        plain.ground(second, expression, max_new_tokens=3)
        # its own earlier answer about the frame is a draft: fewer steps, the same tokens
        tokens = replace(kept.tokens, decode_steps=alone[expression].tokens.decode_steps)
        assert same(replace(kept, tokens=tokens), alone[expression])
    assert plain.ground(first, "the mug", max_new_tokens=1).timings.frame_reused
    assert first.engine_frame is not None and first.engine_frame.vision_ms > 0 < first.engine_frame.prefill_ms


def test_logits_are_those_of_the_fp32_bundle(pair: tuple[Grounder, Grounder]) -> None:
    """Every position, after a rewind, and with one token at a time."""
    ids = pair[0].token_ids("the mug")
    rows = []
    for grounder in pair:
        session = grounder.backend.open_session(grounder.engine_frame(grounder.frame(IMAGE, color="rgb")))
        start = session.length
        whole = session.extend(ids, every_position=True)
        session.truncate(start + 3)
        again = [session.extend([token]) for token in ids[3:]]
        assert session.length == start + len(ids)
        np.testing.assert_allclose(again, whole[3:], atol=2e-3)
        rows.append(whole)
    np.testing.assert_allclose(rows[0], rows[1], atol=2e-3)


def test_the_description_has_the_checkpoints_own_specs(tiny_qwen3_vl: Path, tmp_path: Path) -> None:
    built = build_cpu(tiny_qwen3_vl, tmp_path / "bundle", precision="fp32", gate=False)
    described = describe_checkpoint(tiny_qwen3_vl)
    assert is_checkpoint(tiny_qwen3_vl) and not is_checkpoint(built.root)
    assert open_directory(built.root).hash == built.hash
    mine, theirs = described.manifest, built.manifest
    for name in ("family", "precision", "pixel_spec_hash", "prompt_spec_hash", "limits"):
        assert getattr(mine, name) == getattr(theirs, name), name
    assert {name: theirs.model[name] for name in mine.model} == mine.model
    assert (
        describe_checkpoint(tiny_qwen3_vl, max_pixels=8192).hash != described.hash == open_directory(tiny_qwen3_vl).hash
    )


def test_fewer_pixels_are_asked_for_as_in_a_bundle(tiny_qwen3_vl: Path, tmp_path: Path) -> None:
    bundle = build_cpu(tiny_qwen3_vl, tmp_path / "bundle", precision="fp32", max_pixels=8192, gate=False)
    with (
        Grounder.from_checkpoint(tiny_qwen3_vl, max_pixels=8192) as plain,
        Grounder.from_opened(bundle, threads=1) as built,
    ):
        found, expected = (g.ground(IMAGE, "the mug", color="rgb", max_new_tokens=8) for g in (plain, built))
    assert same(found, expected) and 0 < found.tokens.image <= 8192 // 32**2


def test_a_checkpoint_is_not_suspected_of_other_boxes(tiny_qwen3_vl: Path, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING), Grounder.from_checkpoint(tiny_qwen3_vl) as grounder:
        assert not [record for record in caplog.records if record.name.startswith("egm_edge")]
        assert grounder.facts.runtime.startswith("transformers ")


def test_without_torch_the_message_says_what_to_install(tiny_qwen3_vl: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "torch", None)
    with pytest.raises(BackendError, match=r"pip install 'egm-edge\[verify\]'"):
        Grounder.from_checkpoint(tiny_qwen3_vl)


@pytest.mark.parametrize(
    "missing", ["model.safetensors", "tokenizer.json", "preprocessor_config.json", "chat_template.jinja"]
)
def test_an_incomplete_checkpoint_is_one_line(tiny_qwen3_vl: Path, tmp_path: Path, missing: str) -> None:
    checkpoint = Path(shutil.copytree(tiny_qwen3_vl, tmp_path / "checkpoint"))
    (checkpoint / missing).unlink()
    with pytest.raises(CheckpointError) as raised:
        Grounder.from_checkpoint(checkpoint)
    assert isinstance(raised.value, EgmError) and "\n" not in str(raised.value)


def test_a_setting_in_words_is_one_line(tiny_qwen3_vl: Path, tmp_path: Path) -> None:
    checkpoint = Path(shutil.copytree(tiny_qwen3_vl, tmp_path / "checkpoint"))
    config = json.loads((checkpoint / "config.json").read_text())
    config["text_config"]["attention_bias"] = "x"
    (checkpoint / "config.json").write_text(json.dumps(config))
    with pytest.raises(CheckpointError, match=r"a checkpoint that transformers opens.*attention_bias") as raised:
        Grounder.from_checkpoint(checkpoint)
    assert "\n" not in str(raised.value)


def test_a_closed_one_says_so(tiny_qwen3_vl: Path) -> None:
    grounder = Grounder.from_checkpoint(tiny_qwen3_vl)
    grounder.close()
    with pytest.raises(BackendError, match="closed"):
        grounder.ground(IMAGE, "the mug", color="rgb")
