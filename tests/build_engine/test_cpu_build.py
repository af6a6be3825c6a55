"""Building CPU bundles: reproducible, atomic, refused in one line when the input will not do."""

from __future__ import annotations

import io
import json
import shutil
from pathlib import Path

import pytest

from build_engine.cli import main
from build_engine.compilers import cpu
from build_engine.compilers.cpu import build_cpu
from egm_edge.bundle import Bundle
from egm_edge.errors import BuildError, CheckpointError


def test_equal_inputs_give_equal_bytes(tiny_qwen3_vl: Path, tmp_path: Path) -> None:
    first, second = (build_cpu(tiny_qwen3_vl, tmp_path / name, precision="int4", gate=name == "a") for name in "ab")
    assert first.hash == second.hash


def test_a_bundle_needs_nothing_of_the_checkpoint(tiny_internvl3: Path, tmp_path: Path) -> None:
    checkpoint = Path(shutil.copytree(tiny_internvl3, tmp_path / "checkpoint"))
    build_cpu(checkpoint, tmp_path / "bundle", precision="fp32", gate=False)
    shutil.rmtree(checkpoint)
    assert Bundle.open(tmp_path / "bundle").manifest.family == "internvl3"


def test_progress_names_the_stages_and_reaches_the_end(tiny_qwen3_vl: Path, tmp_path: Path) -> None:
    stream = io.StringIO()
    build_cpu(tiny_qwen3_vl, tmp_path / "bundle", precision="int4", gate=False, progress_stream=stream)
    lines = stream.getvalue().splitlines()
    stages = ["vision (w8a8)", "decoder (int4)", "prefill (w8a8)", "head (int4)", "hashing", "done"]
    assert [line for stage in stages for line in lines if stage in line][-1].split()[2] == "100%"
    assert all(any(stage in line for line in lines) for stage in stages)


def test_a_failure_in_mid_build_leaves_nothing(
    tiny_qwen3_vl: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full_disk(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(cpu.text_decoder, "write_head", full_disk)
    with pytest.raises(BuildError, match="space"):
        build_cpu(tiny_qwen3_vl, tmp_path / "bundle", precision="fp32")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("remove", "mentions"),
    [
        ("tokenizer.json", "tokenizer.json"),
        ("preprocessor_config.json", "preprocessor_config.json"),
        ("chat_template.jinja", "chat template"),
    ],
)
def test_a_checkpoint_without_its_companions_is_refused(
    tiny_qwen3_vl: Path, tmp_path: Path, remove: str, mentions: str
) -> None:
    checkpoint = Path(shutil.copytree(tiny_qwen3_vl, tmp_path / "checkpoint"))
    (checkpoint / remove).unlink()
    with pytest.raises(CheckpointError, match=mentions):
        build_cpu(checkpoint, tmp_path / "bundle", precision="fp32")
    assert not (tmp_path / "bundle").exists()


@pytest.mark.parametrize(
    ("file", "change", "mentions"),
    [
        pytest.param("config.json", {"image_token_id": 3}, "image_token_id", id="another image token"),
        pytest.param("preprocessor_config.json", {"patch_size": 14}, "patch_size", id="another patch size"),
        pytest.param("preprocessor_config.json", {"merge_size": 1}, "spatial_merge_size", id="another merge size"),
    ],
)
def test_parts_of_different_checkpoints_are_refused(
    tiny_qwen3_vl: Path, tmp_path: Path, file: str, change: dict[str, int], mentions: str
) -> None:
    checkpoint = Path(shutil.copytree(tiny_qwen3_vl, tmp_path / "checkpoint"))
    values = json.loads((checkpoint / file).read_text())
    (checkpoint / file).write_text(json.dumps(values | change))
    with pytest.raises(CheckpointError, match=mentions):
        build_cpu(checkpoint, tmp_path / "bundle", precision="fp32")


def test_a_damaged_tokenizer_is_refused(tiny_qwen3_vl: Path, tmp_path: Path) -> None:
    checkpoint = Path(shutil.copytree(tiny_qwen3_vl, tmp_path / "checkpoint"))
    (checkpoint / "tokenizer.json").write_text("{")
    with pytest.raises(CheckpointError, match="a tokenizer in"):
        build_cpu(checkpoint, tmp_path / "bundle", precision="fp32")


def test_a_checkpoint_without_end_tokens_ends_at_the_limit(tiny_qwen3_vl: Path, tmp_path: Path) -> None:
    checkpoint = Path(shutil.copytree(tiny_qwen3_vl, tmp_path / "checkpoint"))
    (checkpoint / "generation_config.json").unlink()
    config = json.loads((checkpoint / "config.json").read_text())
    del config["text_config"]["eos_token_id"]
    (checkpoint / "config.json").write_text(json.dumps(config))
    assert build_cpu(checkpoint, tmp_path / "bundle", precision="fp32").manifest.model["stop_token_ids"] == []


def test_an_unknown_precision_lists_the_known(tiny_qwen3_vl: Path, tmp_path: Path) -> None:
    with pytest.raises(BuildError, match="fp32, int8, int4"):
        build_cpu(tiny_qwen3_vl, tmp_path / "bundle", precision="int3")


def test_the_verb_prints_one_json_object(
    tiny_qwen3_vl: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([str(tiny_qwen3_vl), "--precision", "fp32", "-o", str(tmp_path / "bundle"), "--json"]) == 0
    summary = json.loads(capsys.readouterr().out)
    assert summary["hash"] == Bundle.open(tmp_path / "bundle").hash
    assert summary["precision"] == "fp32"


def test_a_layer_that_lacks_a_norm_is_a_damaged_checkpoint(tiny_qwen3_vl: Path, tmp_path: Path) -> None:
    from safetensors.numpy import load_file, save_file

    checkpoint = Path(shutil.copytree(tiny_qwen3_vl, tmp_path / "checkpoint"))
    tensors = load_file(checkpoint / "model.safetensors")
    dropped = next(name for name in tensors if name.endswith("layers.1.self_attn.q_norm.weight"))
    del tensors[dropped]
    save_file(tensors, checkpoint / "model.safetensors")
    with pytest.raises(CheckpointError, match=r"text\.layers\.1\.self_attn\.q_norm"):
        build_cpu(checkpoint, tmp_path / "bundle", precision="fp32")


def test_penalties_that_the_engine_does_not_apply_are_refused(tiny_qwen3_vl: Path, tmp_path: Path) -> None:
    checkpoint = Path(shutil.copytree(tiny_qwen3_vl, tmp_path / "checkpoint"))
    path = checkpoint / "generation_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"repetition_penalty": 1.2}))
    with pytest.raises(CheckpointError, match=r"repetition_penalty 1\.2"):
        build_cpu(checkpoint, tmp_path / "bundle", precision="fp32")
