"""Reading checkpoints: both key layouts, safetensors only, errors that name the hint."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from build_engine.checkpoint import Checkpoint
from egm_edge.errors import CheckpointError
from egm_edge.families.weight_names import canonical_name


@pytest.mark.parametrize(
    ("key", "name"),
    [
        pytest.param(
            "model.language_model.layers.0.mlp.up_proj.weight", "text.layers.0.mlp.up_proj.weight", id="qwen3-vl text"
        ),
        pytest.param("language_model.model.norm.weight", "text.norm.weight", id="older internvl text"),
        pytest.param("language_model.lm_head.weight", "head.weight", id="older internvl head"),
        pytest.param("lm_head.weight", "head.weight", id="head"),
        pytest.param("model.visual.merger.norm.bias", "vision.merger.norm.bias", id="qwen3-vl vision"),
        pytest.param(
            "vision_tower.encoder.layer.1.lambda_1", "vision.encoder.layer.1.lambda_1", id="older internvl vision"
        ),
        pytest.param("model.multi_modal_projector.linear_1.weight", "projector.linear_1.weight", id="projector"),
        pytest.param("something.else", "something.else", id="unknown key"),
    ],
)
def test_both_key_layouts_have_one_canonical_name(key: str, name: str) -> None:
    assert canonical_name(key) == name


def test_bfloat16_reads_as_the_same_numbers(tmp_path: Path) -> None:
    from tests.support.tiny_checkpoints import write_tiny_qwen3_vl

    with Checkpoint(write_tiny_qwen3_vl(tmp_path, dtype="bfloat16")) as checkpoint:
        name = "text.embed_tokens.weight"
        bits = checkpoint.bfloat16_bits(name)
        assert checkpoint.dtype(name) == "BF16"
        np.testing.assert_array_equal((bits.astype(np.uint32) << 16).view(np.float32), checkpoint.float32(name))
        np.testing.assert_array_equal(checkpoint.rows_float32(name, 3, 9), checkpoint.float32(name)[3:9])


def _broken(source: Path, target: Path, what: str) -> Path:
    shutil.copytree(source, target)
    weights, config = target / "model.safetensors", target / "config.json"
    if what == "no config":
        config.unlink()
    elif what == "config is not JSON":
        config.write_text("{")
    elif what == "config is a list":
        config.write_text("[]")
    elif what == "other architecture":
        config.write_text(json.dumps(json.loads(config.read_text()) | {"model_type": "llava"}))
    elif what == "pickle only":
        weights.rename(target / "pytorch_model.bin")
    elif what == "no weights":
        weights.unlink()
    elif what == "truncated weights":
        weights.write_bytes(weights.read_bytes()[:-1000])
    elif what == "garbage weights":
        weights.write_bytes(b"\xff" * 4096)
    elif what == "missing shard":
        weights.rename(target / "model-00001-of-00002.safetensors")
        (target / "model.safetensors.index.json").write_text(
            json.dumps({"weight_map": {"a": "model-00002-of-00002.safetensors"}})
        )
    return target


@pytest.mark.parametrize(
    ("what", "mentions"),
    [
        ("no config", "config.json"),
        ("config is not JSON", "JSON"),
        ("config is a list", "JSON object"),
        ("other architecture", "llava"),
        ("pickle only", "pytorch_model.bin"),
        ("no weights", "safetensors"),
        ("truncated weights", "model.safetensors"),
        ("garbage weights", "model.safetensors"),
        ("missing shard", "model-00002-of-00002"),
    ],
)
def test_a_broken_checkpoint_is_refused_with_its_reason(
    tiny_qwen3_vl: Path, tmp_path: Path, what: str, mentions: str
) -> None:
    with pytest.raises(CheckpointError, match=mentions) as caught:
        Checkpoint(_broken(tiny_qwen3_vl, tmp_path / "broken", what))
    assert "\n" not in str(caught.value)


def test_weights_that_transformers_would_not_load_are_left_alone(tiny_qwen3_vl: Path, tmp_path: Path) -> None:
    from safetensors.numpy import load_file, save_file

    directory = shutil.copytree(tiny_qwen3_vl, tmp_path / "c")
    values = load_file(directory / "model.safetensors")
    save_file({name: np.zeros_like(value) for name, value in values.items()}, directory / "zz_adapter.safetensors")
    with Checkpoint(directory) as checkpoint, Checkpoint(tiny_qwen3_vl) as alone:
        name = "text.embed_tokens.weight"
        np.testing.assert_array_equal(checkpoint.float32(name), alone.float32(name))


def test_weights_quantized_already_are_refused(tiny_qwen3_vl: Path, tmp_path: Path) -> None:
    from safetensors.numpy import load_file, save_file

    directory = shutil.copytree(tiny_qwen3_vl, tmp_path / "c")
    values = load_file(directory / "model.safetensors")
    name = next(key for key in values if key.endswith("q_proj.weight"))
    save_file(values | {name: values[name].astype(np.int8)}, directory / "model.safetensors")
    with pytest.raises(CheckpointError, match=r"q_proj.*as I8"):
        Checkpoint(directory)


@pytest.mark.parametrize("section", ["text_config", "vision_config"])
def test_a_key_missing_from_the_config_is_named(tiny_qwen3_vl: Path, section: str) -> None:
    with Checkpoint(tiny_qwen3_vl) as checkpoint, pytest.raises(CheckpointError, match=f"no_such in {section} of"):
        getattr(checkpoint, section)["no_such"]


def test_a_missing_directory_is_refused(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="nothing at"):
        Checkpoint(tmp_path / "nowhere")


def test_a_missing_tensor_is_named(tiny_qwen3_vl: Path) -> None:
    with Checkpoint(tiny_qwen3_vl) as checkpoint, pytest.raises(CheckpointError, match=r"text\.layers\.99"):
        checkpoint.float32("text.layers.99.mlp.up_proj.weight")
