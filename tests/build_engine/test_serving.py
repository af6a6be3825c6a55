"""Bundles for servers: what they load, the pixel budget in it, versions that shift boxes left out, the command."""

from __future__ import annotations

import json
import shlex
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from packaging.requirements import Requirement
from safetensors.numpy import save_file

from build_engine.checkpoint import Checkpoint
from build_engine.compilers.quantized_checkpoint import take_original_settings
from build_engine.compilers.serving import SERVERS, compile_server
from build_engine.request import BuildRequest
from build_engine.targets import target_for
from egm_edge.backends import load_backend
from egm_edge.backends.text_runtime.served_model import ServedModel
from egm_edge.bundle import Bundle
from egm_edge.errors import BackendError, BuildError, BundleError, CheckpointError
from egm_edge.golden.replies import read_golden
from egm_edge.pixels import PixelSpec


def _build(checkpoint: Path, out_dir: Path, target: str, precision: str = "bf16", **options: Any) -> Bundle:
    """Without golden replies unless `gate` is asked for."""
    row = target_for(target)
    return compile_server(
        BuildRequest(
            checkpoint=checkpoint, out_dir=out_dir, target=row, precision=precision, **{"gate": False} | options
        )
    )


@pytest.mark.parametrize("target", list(SERVERS))
def test_the_checkpoint_that_is_served_has_the_bundles_pixel_budget(
    tiny_qwen3_vl: Path, tmp_path: Path, target: str
) -> None:
    bundle = _build(tiny_qwen3_vl, tmp_path / "bundle", target, max_pixels=16384)
    served = PixelSpec.from_checkpoint(bundle.root / "checkpoint")
    assert served == PixelSpec.from_dict(bundle.manifest.pixel_spec)
    assert served.max_pixels == 16384
    assert ServedModel.read(bundle.root).pixel_spec == served
    weights = "model.safetensors"
    assert (bundle.root / "checkpoint" / weights).read_bytes() == (tiny_qwen3_vl / weights).read_bytes()
    assert bundle.manifest.parity["status"] == "unverified"
    with pytest.raises(BackendError, match="RemoteGrounder"):
        load_backend(bundle)


def test_vllm_is_told_the_budget_and_the_length(tiny_qwen3_vl: Path, tmp_path: Path) -> None:
    bundle = _build(tiny_qwen3_vl, tmp_path / "bundle", "vllm", max_new_tokens=100)
    words = shlex.split((bundle.root / "serve.sh").read_text().splitlines()[-1])
    size = json.loads(words[words.index("--mm-processor-kwargs") + 1])["size"]
    assert size == {"shortest_edge": 64 * 64, "longest_edge": 256 * 256}
    assert int(words[words.index("--max-model-len") + 1]) == bundle.manifest.limits["context_tokens"] == 64 + 1024 + 100


def test_tensorrt_llm_gets_arguments_that_hold_the_largest_prompt(tiny_qwen3_vl: Path, tmp_path: Path) -> None:
    bundle = _build(tiny_qwen3_vl, tmp_path / "bundle", "tensorrt-llm", batch=4)
    values = yaml.safe_load((bundle.root / "llm_args.yaml").read_text())
    assert values["max_batch_size"] == values["cuda_graph_config"]["max_batch_size"] == 4
    assert values["max_num_tokens"] >= values["max_seq_len"] == bundle.manifest.limits["context_tokens"]


@pytest.mark.parametrize(
    ("target", "refused", "sound"),
    [
        ("vllm", ("0.10.2", "0.11.1", "0.11.2", "0.12.0", "0.34.0"), ("0.11.0", "0.13.0", "0.33.0")),
        ("sglang", ("0.5.4", "0.5.17", "0.5.24"), ("0.5.5", "0.5.18", "0.5.23")),
        ("tensorrt-llm", ("1.2.1", "1.3.0rc6", "1.4.0"), ("1.3.0rc7", "1.3.0")),
    ],
)
def test_versions_that_shift_boxes_or_were_never_read_are_not_installed(
    target: str, refused: tuple[str, ...], sound: tuple[str, ...]
) -> None:
    allowed = Requirement(SERVERS[target].requirements["qwen3_vl"]).specifier
    assert not [v for v in refused if allowed.contains(v, prereleases=True)]
    assert all(allowed.contains(v, prereleases=True) for v in sound)


@pytest.mark.parametrize("target", ["vllm", "sglang"])
@pytest.mark.parametrize("family", ["tiny_qwen3_vl", "tiny_internvl3"])
def test_the_served_config_says_the_rotary_settings_in_the_words_of_transformers_4_and_5(
    request: pytest.FixtureRequest, tmp_path: Path, family: str, target: str
) -> None:
    """4.57: `config.rope_theta`, and `config.rope_scaling["mrope_section"]` of Qwen3-VL (Qwen3VLTextRotaryEmbedding)."""
    transformers = pytest.importorskip("transformers")
    checkpoint = request.getfixturevalue(family)
    bundle = _build(checkpoint, tmp_path / "bundle", target)
    theirs, ours = (
        transformers.AutoConfig.from_pretrained(root).text_config.rope_parameters
        for root in (checkpoint, bundle.root / "checkpoint")
    )
    assert ours == theirs  # as 5.x reads it
    stated = json.loads((bundle.root / "checkpoint/config.json").read_text())["text_config"]
    assert stated["rope_theta"] == theirs["rope_theta"]
    assert stated.get("rope_scaling", {}).get("mrope_section") == theirs.get("mrope_section")
    assert "rope_theta" not in stated.get("rope_scaling", {})  # 4.57 warns of keys that it does not know


@pytest.mark.parametrize("target", ["vllm", "sglang"])
def test_a_budget_reaches_settings_as_transformers_5_saves_them_and_4_reads_them(
    tiny_qwen3_vl: Path, tmp_path: Path, target: str
) -> None:
    checkpoint = Path(shutil.copytree(tiny_qwen3_vl, tmp_path / "checkpoint"))
    settings = json.loads((checkpoint / "preprocessor_config.json").read_text())
    (checkpoint / "preprocessor_config.json").unlink()
    (checkpoint / "processor_config.json").write_text(json.dumps({"image_processor": settings}))
    bundle = _build(checkpoint, tmp_path / "bundle", target, max_pixels=16384)
    served = bundle.root / "checkpoint"
    for read in (
        json.loads((served / "processor_config.json").read_text())["image_processor"],
        json.loads((served / "preprocessor_config.json").read_text()),
    ):
        spec = PixelSpec.from_dict(bundle.manifest.pixel_spec)
        assert read["size"] == spec.area_limits
        assert (read["min_pixels"], read["max_pixels"]) == (spec.min_pixels, spec.max_pixels)
    assert PixelSpec.from_checkpoint(served).max_pixels == 16384


def test_sglang_says_that_internvl3_runs_through_transformers(
    tiny_qwen3_vl: Path, tiny_internvl3: Path, tmp_path: Path
) -> None:
    commands = [
        (_build(checkpoint, tmp_path / name, "sglang").root / "serve.sh").read_text()
        for name, checkpoint in (("q", tiny_qwen3_vl), ("i", tiny_internvl3))
    ]
    assert all("exec sglang serve --model-path checkpoint" in command for command in commands)
    assert ["--model-impl transformers" in command for command in commands] == [False, True]
    assert (tmp_path / "i/requirements.txt").read_text().startswith("sglang>=0.5.10")
    assert any("transformers fallback" in note for note in target_for("sglang").notes)


def test_a_family_that_the_server_lacks_names_the_servers_that_have_it(tiny_internvl3: Path, tmp_path: Path) -> None:
    with pytest.raises(BuildError, match="vllm or sglang"):
        _build(tiny_internvl3, tmp_path / "bundle", "tensorrt-llm")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("family", ["tiny_qwen3_vl", "tiny_internvl3"])
def test_golden_replies_are_the_references_at_the_bundles_budget(
    request: pytest.FixtureRequest, tmp_path: Path, family: str
) -> None:
    pytest.importorskip("transformers", reason="the reference; install the verify extra")
    checkpoint = request.getfixturevalue(family)
    bundle = _build(checkpoint, tmp_path / "bundle", "vllm", gate=True, max_new_tokens=12, max_pixels=16384)
    golden = read_golden(bundle)
    assert len(golden.replies) == 6 and golden.max_new_tokens == 12
    assert {reply.task.value for reply in golden.replies} == {"modal", "amodal"}
    assert "--url" in bundle.manifest.parity["verify_with"]
    assert _build(checkpoint, tmp_path / "bundle", "vllm", max_new_tokens=12, max_pixels=16384).hash == bundle.hash


def test_too_large_a_reference_is_told_and_the_bundle_made(
    tiny_qwen3_vl: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("build_engine.parity.build_gate.memory_gb", lambda: (1e-6, 1e-6))
    bundle = _build(tiny_qwen3_vl, tmp_path / "bundle", "vllm", gate=True)
    assert "GB in float32" in bundle.manifest.parity["golden"]
    with pytest.raises(BundleError, match="golden replies in the bundle"):
        read_golden(bundle)


def test_equal_inputs_give_equal_bundles(tiny_internvl3: Path, tmp_path: Path) -> None:
    first, second = (_build(tiny_internvl3, tmp_path / name, "sglang") for name in "ab")
    assert first.hash == second.hash


@pytest.mark.parametrize(
    ("target", "sm"), [("tensorrt-llm-sm90", ["sm90"]), ("tensorrt-llm-sm100", ["sm100", "sm103"])]
)
def test_a_row_of_one_gpu_generation_makes_tensorrt_llms_bundle(
    tiny_qwen3_vl: Path, tmp_path: Path, target: str, sm: list[str]
) -> None:
    manifest = _build(tiny_qwen3_vl, tmp_path / "bundle", target).manifest
    assert (manifest.target, manifest.model["sm"]) == ("tensorrt-llm", sm)
    assert {"llm_args.yaml", "serve.sh", "checkpoint/config.json"} <= set(manifest.files)


@pytest.mark.parametrize(
    ("target", "precision", "found"),
    [
        ("tensorrt-llm", "int4", "hidden_size 64.*--precision bf16 or fp8"),
        ("tensorrt-llm", "nvfp4", "intermediate_size 168"),
        ("tensorrt-llm-sm80", "int4", "hidden_size 64.*--precision bf16$"),
    ],
)
def test_widths_that_share_no_scale_are_refused_before_any_tool_runs(
    tmp_path_factory: pytest.TempPathFactory,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    target: str,
    precision: str,
    found: str,
) -> None:
    from tests.support.tiny_checkpoints import write_tiny_qwen3_vl

    monkeypatch.setenv("EGM_EDGELLM_VENV", str(tmp_path / "nothing"))
    checkpoint = write_tiny_qwen3_vl(tmp_path_factory.mktemp("odd"), intermediate_size=168)
    with pytest.raises(CheckpointError, match=found):
        _build(checkpoint, tmp_path / "bundle", target, precision)
    assert not list(tmp_path.iterdir())


def test_quantizing_without_its_tools_says_how_to_get_them(
    tiny_qwen3_vl: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("EGM_EDGELLM_VENV", str(tmp_path / "nothing"))
    with pytest.raises(BuildError, match="egm setup edgellm"):
        _build(tiny_qwen3_vl, tmp_path / "bundle", "tensorrt-llm", "fp8")
    assert not list(tmp_path.iterdir())


def test_the_quantized_checkpoint_keeps_the_originals_config(tmp_path: Path, tiny_qwen3_vl: Path) -> None:
    """ModelOpt's transformers words config.json anew; an older server would not find the rotary settings in it."""
    out = tmp_path / "out"
    out.mkdir()
    (out / "config.json").write_text(
        json.dumps({"quantization_config": {"quant_method": "modelopt"}, "text_config": {}})
    )
    (out / "model.safetensors.index.json").write_text(json.dumps({"weight_map": {"a": "model-1.safetensors"}}))
    (out / "model.safetensors").write_bytes((tiny_qwen3_vl / "model.safetensors").read_bytes())
    with Checkpoint(tiny_qwen3_vl) as checkpoint:
        take_original_settings(checkpoint, out)
        config, original = (json.loads((folder / "config.json").read_text()) for folder in (out, tiny_qwen3_vl))
        assert config["text_config"]["rope_parameters"] == original["text_config"]["rope_parameters"]
        assert config["dtype"] == "bfloat16" and config["quantization_config"] == {"quant_method": "modelopt"}
        assert not (out / "model.safetensors.index.json").exists()
        save_file({"model.visual.pos_embed.weight": np.zeros((1, 1), np.float32)}, str(out / "model.safetensors"))
        (out / "config.json").write_text(json.dumps(config))
        with pytest.raises(BuildError, match=r"every tensor of the original.*no head|no text\."):
            take_original_settings(checkpoint, out)
