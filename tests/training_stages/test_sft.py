"""Real SFTTrainer steps on tiny checkpoints of both families, with pictures."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForImageTextToText

from egm_edge.cli import main as egm
from egm_edge.errors import BackendError, CheckpointError, InputError
from egm_edge.families.chat_template import read_prompt_spec
from egm_edge.pixels import PixelSpec
from tests.training_stages.runs import sft_yaml, write_data
from training import sft
from training.stage_config import SftConfig, load_sft
from training.stages import samples, session
from training.stages.model import PARTS, choose_attention, freeze, load_model
from training.stages.resume import MARK


@pytest.fixture(params=["tiny_qwen3_vl", "tiny_internvl3"])
def checkpoint(request: pytest.FixtureRequest) -> Path:
    found: Path = request.getfixturevalue(request.param)
    return found


def _config(tmp_path: Path, checkpoint: Path, name: str = "out", **changes: str) -> SftConfig:
    data = write_data(tmp_path)
    return load_sft(str(sft_yaml(tmp_path / f"{name}.yaml", checkpoint, data, tmp_path / name, **changes)))


def _part(name: str) -> str:
    return next(part for part, pattern in PARTS if pattern.search(name))


def _moved(before: Path, after: Path) -> dict[str, bool]:
    old, new = (load_file(d / "model.safetensors") for d in (before, after))
    assert old.keys() == new.keys()
    moved: dict[str, bool] = {}
    for name in old:
        moved[_part(name)] = moved.get(_part(name), False) or not torch.equal(old[name].to(new[name].dtype), new[name])
    return moved


def test_sft_moves_what_it_should_and_leaves_a_checkpoint(checkpoint: Path, tmp_path: Path) -> None:
    validation = write_data(tmp_path, 3, split="val", first=100)
    changes = {"gradient_checkpointing": "true", "eval_steps": "1"}
    final = sft.run_sft(_config(tmp_path, checkpoint, validation=f"[{validation}]", **changes))
    state = json.loads((tmp_path / "out" / "checkpoint-2" / "trainer_state.json").read_text())
    assert sum("eval_loss" in entry for entry in state["log_history"]) == 2
    assert _moved(checkpoint, final) == {"language_model": True, "projector": True, "vision": False}
    AutoModelForImageTextToText.from_pretrained(final)
    record = json.loads((final / "egm_training.json").read_text())
    assert (
        record["pixel_spec_hash"] == PixelSpec.from_checkpoint(checkpoint).hash == PixelSpec.from_checkpoint(final).hash
    )
    assert record["prompt_spec_hash"] == read_prompt_spec(checkpoint).hash == read_prompt_spec(final).hash
    assert record["steps"] == 2 and record["measured"]["count"] == 3
    card = (final / "README.md").read_text()
    assert record["pixel_spec_hash"] in card and "Acc@0.5" in card and "| 3 | " in card
    same = {"tokenizer.json", "preprocessor_config.json", "chat_template.jinja", "generation_config.json"}
    assert all((final / name).read_bytes() == (checkpoint / name).read_bytes() for name in same)


@pytest.mark.slow
def test_sft_learns(tiny_qwen3_vl: Path, tmp_path: Path) -> None:
    sft.run_sft(_config(tmp_path, tiny_qwen3_vl, max_steps="30", save_steps="30", learning_rate="5.0e-3"))
    state = json.loads((tmp_path / "out" / "checkpoint-30" / "trainer_state.json").read_text())
    losses = [entry["loss"] for entry in state["log_history"] if "loss" in entry]
    assert losses[-1] < 0.6 * losses[0]


def test_interrupted_run_goes_on_to_the_same_weights(
    tiny_qwen3_vl: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    straight = sft.run_sft(_config(tmp_path, tiny_qwen3_vl, "straight", max_steps="4"))
    config = _config(tmp_path, tiny_qwen3_vl, "broken", max_steps="4")
    collate, calls = samples.SftCollator.__call__, []

    def cut(self: samples.SftCollator, items: list) -> dict:
        calls.append(len(items))
        if len(calls) == 4:
            raise KeyboardInterrupt
        return collate(self, items)

    with monkeypatch.context() as patched:
        patched.setattr(samples.SftCollator, "__call__", cut)
        with pytest.raises(KeyboardInterrupt):
            sft.run_sft(config)
    output = tmp_path / "broken"
    done = sorted(p.name for p in output.glob("checkpoint-*"))
    assert done and not (output / "final").exists()
    # What a kill in the middle of saving leaves: a newer folder without its mark.
    torn = output / "checkpoint-3"
    torn.mkdir(exist_ok=True)
    (torn / MARK).unlink(missing_ok=True)
    (torn / "model.safetensors").write_bytes(b"half")
    final = sft.run_sft(config)
    ours, theirs = (load_file(d / "model.safetensors") for d in (final, straight))
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)


def test_a_finished_run_is_not_run_again_and_other_settings_are_noticed(
    tiny_qwen3_vl: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = _config(tmp_path, tiny_qwen3_vl)
    final = sft.run_sft(config)
    stamp = (final / "model.safetensors").stat().st_mtime_ns
    monkeypatch.setattr(session, "load_model", lambda *_: pytest.fail("trained again"))
    assert sft.run_sft(config) == final and (final / "model.safetensors").stat().st_mtime_ns == stamp
    with pytest.raises(CheckpointError, match="under the same settings"):
        sft.run_sft(_config(tmp_path, tiny_qwen3_vl, learning_rate="2.0e-3"))
    assert (final / "model.safetensors").stat().st_mtime_ns == stamp


def test_a_kill_while_the_result_is_written_leaves_the_old_one(
    tiny_qwen3_vl: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    final = sft.run_sft(_config(tmp_path, tiny_qwen3_vl))
    old = {p.name: p.read_bytes() for p in final.iterdir()}
    for checkpoint in (tmp_path / "out").glob("checkpoint-*"):
        (checkpoint / MARK).unlink()
    other = _config(tmp_path, tiny_qwen3_vl, learning_rate="2.0e-3")
    with monkeypatch.context() as patched:
        patched.setattr(session, "write_record", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            sft.run_sft(other)
    assert {p.name: p.read_bytes() for p in final.iterdir()} == old
    sft.run_sft(other)
    assert (final / "model.safetensors").read_bytes() != old["model.safetensors"]
    assert sorted(p.name for p in (tmp_path / "out").iterdir() if not p.name.startswith("checkpoint")) == ["final"]


def test_sixteen_bit_runs_keep_float32_weights_while_they_learn(tiny_qwen3_vl: Path, tmp_path: Path) -> None:
    # A step of 1e-5 vanishes in a bfloat16 weight of 1.
    changes = {"dtype": "bfloat16", "max_steps": "3", "learning_rate": "1.0e-5"}
    final = sft.run_sft(_config(tmp_path, tiny_qwen3_vl, **changes))
    assert load_file(final / "model.safetensors")["model.language_model.norm.weight"].dtype == torch.bfloat16
    kept = load_file(tmp_path / "out" / "checkpoint-3" / "model.safetensors")
    start = load_file(tiny_qwen3_vl / "model.safetensors")
    name = "model.language_model.norm.weight"
    assert kept[name].dtype == torch.float32 and 0 < (kept[name] - start[name]).abs().max() < 1e-4


def test_a_missing_report_package_is_named(
    tiny_qwen3_vl: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = _config(tmp_path, tiny_qwen3_vl)
    config = replace(config, run=replace(config.run, reports=("wandb",)))
    monkeypatch.setattr(session.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(BackendError, match="pip install wandb"):
        sft.run_sft(config)


def test_lora_is_merged_into_a_plain_checkpoint(tiny_qwen3_vl: Path, tmp_path: Path) -> None:
    final = sft.run_sft(_config(tmp_path, tiny_qwen3_vl, lora="4", learning_rate="1.0e-2"))
    assert _moved(tiny_qwen3_vl, final) == {"language_model": True, "projector": True, "vision": False}


def test_step_zero_findings_are_shown_and_training_goes_on(
    tiny_internvl3: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    sft.run_sft(_config(tmp_path, tiny_internvl3, step0_checks="true"))
    shown = " ".join(record.getMessage() for record in caplog.records)
    for name in ("specs", "tokenizer", "target", "image tokens", "log-probabilities"):
        assert f"step-0 {name}: ok" in shown
    assert "step-0 parse rate: warning" in shown


def test_bad_data_is_refused_before_the_model_is_opened(tiny_qwen3_vl: Path, tmp_path: Path) -> None:
    test_split = write_data(tmp_path, 3, split="testA", first=50)
    with pytest.raises(InputError, match="`val` splits only"):
        sft.run_sft(_config(tmp_path, tiny_qwen3_vl, validation=f"[{test_split}]"))
    with pytest.raises(InputError, match=r"`train` splits only in data\.train; found 3 of testA"):
        path = sft_yaml(tmp_path / "a.yaml", tiny_qwen3_vl, test_split, tmp_path / "out")
        sft.run_sft(load_sft(str(path)))
    leaking = write_data(tmp_path, 3, split="val")
    with pytest.raises(InputError, match="no validation picture among the training rows"):
        sft.run_sft(_config(tmp_path, tiny_qwen3_vl, validation=f"[{leaking}]"))


def test_a_missing_base_says_where_it_comes_from() -> None:
    with pytest.raises(CheckpointError, match="hf download Qwen/Qwen3-VL-2B-Thinking --local-dir models/"):
        session.checkpoint_directory(load_sft("qwen3-vl-2b-modal-sft").model)


def test_command_line_is_one_line_an_error(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    assert egm(["train", "sft", "qwen9"]) == 2
    assert capsys.readouterr().err.count("\n") == 1


def test_attention_is_sdpa_where_flash_attention_cannot_run() -> None:
    if not torch.cuda.is_available():
        assert choose_attention("auto", "bfloat16") == "sdpa"
        with pytest.raises(Exception, match=r"model\.attention: auto"):
            choose_attention("flash_attention_2", "bfloat16")
    assert choose_attention("eager", "float32") == "eager"


def test_deep_stack_mergers_stay_frozen_with_the_tower(tiny_qwen3_vl: Path, tmp_path: Path) -> None:
    model = load_model(tiny_qwen3_vl, _config(tmp_path, tiny_qwen3_vl).model)
    learning = {name for name, p in model.named_parameters() if p.requires_grad}
    assert any("visual.merger." in name for name in learning)
    assert not any("deepstack" in name or "visual.blocks" in name for name in learning)
    assert freeze(model, ("vision",))["language_model"][0] == 0
