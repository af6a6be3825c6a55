"""Quantized checkpoints for servers, with the real ModelOpt: what the bundle holds, and that damage is seen.

Needs `.venv-edgellm` (`make edgellm`). No server loads them here.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from build_engine.checkpoint import Checkpoint
from build_engine.cli import main
from build_engine.compilers.quantized_checkpoint import COMPANIONS
from build_engine.edge_llm.environment import EdgeLlmEnvironment
from build_engine.manifest import BundleWriter
from build_engine.modelopt import quantize
from build_engine.modelopt.quantize import SAVED, Quantization
from build_engine.modelopt.recipe import SERVER_NUMBERS
from build_engine.modelopt.verify_saved import DESCRIPTION, require_quantized
from build_engine.precisions import PRECISIONS
from egm_edge.backends.text_runtime.served_model import ServedModel
from egm_edge.bundle import Bundle
from egm_edge.errors import BuildError
from egm_edge.families.chat_template import read_prompt_spec
from egm_edge.pixels import PixelSpec
from egm_edge.reporting.progress import ProgressBar

ALGORITHMS = {"int4": "W4A16_AWQ", "fp8": "FP8", "nvfp4": "NVFP4"}
TARGETS = {"int4": "tensorrt-llm", "fp8": "tensorrt-llm-sm90", "nvfp4": "tensorrt-llm-sm100"}
SM = {"int4": ["sm80", "sm89", "sm90"], "fp8": ["sm90"], "nvfp4": ["sm100", "sm103"]}

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]


def build(checkpoint: Path, target: str, precision: str, rows: Path, out: Path) -> Bundle:
    flags = ["--precision", precision, "--calibration", str(rows), "--max-pixels", "16384", "--quiet"]
    assert main([str(checkpoint), "--target", target, *flags, "-o", str(out)]) == 0
    return Bundle.open(out)


@pytest.mark.parametrize("precision", ["int4", "fp8", "nvfp4"])
def test_the_bundle_holds_what_the_server_reads_and_damage_is_seen(
    edge_llm: EdgeLlmEnvironment, jetson_qwen3_vl: Path, precision: str, calibration_rows: Path, tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    bundle = build(jetson_qwen3_vl, TARGETS[precision], precision, calibration_rows, tmp_path / "bundle")
    served = bundle.root / "checkpoint"
    _check_files(served, jetson_qwen3_vl, precision)
    _check_manifest(bundle, precision)
    assert ServedModel.read(bundle.root).pixel_spec == PixelSpec.from_checkpoint(served)
    assert not list((tmp_path / "cache" / "egm-edge" / "stages").iterdir())

    monkeypatch.setattr(quantize, "run_tool", _refuse)
    assert (
        build(jetson_qwen3_vl, TARGETS[precision], precision, calibration_rows, tmp_path / "bundle").hash == bundle.hash
    )
    monkeypatch.undo()

    damaged = Path(shutil.copytree(served, tmp_path / "damaged" / SAVED))
    _damage(damaged, precision)
    with Checkpoint(jetson_qwen3_vl) as checkpoint:
        measured = Quantization(
            checkpoint=checkpoint, pixel_spec=PixelSpec.from_checkpoint(served), prompt_spec=read_prompt_spec(served),
            recipe=PRECISIONS[precision].recipe, numbers=SERVER_NUMBERS, rows=calibration_rows,
        )  # fmt: skip
        log = tmp_path / "damaged" / "log"
        measured.run(edge_llm, tmp_path / "damaged", log, ProgressBar("build", None, 1), 1, COMPANIONS)
        found = measured.checked(tmp_path / "damaged", precision, edge_llm.versions)
    assert (found.failed, found.worst_layer) == ("layer_error", 1), found
    with pytest.raises(BuildError, match="layer error of decoder layer 1 within"):
        found.require_passed()
    _check_descriptions(served, precision, tmp_path / "described")


def test_an_interrupted_build_takes_up_the_quantized_checkpoint(
    edge_llm: EdgeLlmEnvironment,
    jetson_internvl3: Path,
    calibration_rows: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """InternVL3, which vLLM serves: Ctrl-C while the bundle is written leaves the stage and no bundle."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    with monkeypatch.context() as broken:
        broken.setattr(BundleWriter, "commit", _interrupt)
        with pytest.raises(KeyboardInterrupt):
            build(jetson_internvl3, "vllm", "fp8", calibration_rows, tmp_path / "bundle")
    assert [path.name for path in tmp_path.iterdir()] == ["cache"]
    monkeypatch.setattr(quantize, "run_tool", _refuse)
    bundle = build(jetson_internvl3, "vllm", "fp8", calibration_rows, tmp_path / "bundle")
    stated = json.loads(bundle.path(f"checkpoint/{DESCRIPTION}").read_text("utf-8"))["quantization"]
    assert any("vision_tower" in name for name in stated["exclude_modules"])
    assert bundle.manifest.parity["quantization"]["passed"]


def _refuse(*args: object, **kwargs: object) -> None:
    raise AssertionError("a tool ran for what is there")


def _interrupt(*args: object, **kwargs: object) -> None:
    raise KeyboardInterrupt


def _check_files(served: Path, source: Path, precision: str) -> None:
    stated = json.loads((served / DESCRIPTION).read_text("utf-8"))["quantization"]
    assert stated["quant_algo"] == ALGORITHMS[precision]
    assert {"lm_head", "model.visual*"} <= set(stated["exclude_modules"])
    config, original = (json.loads((folder / "config.json").read_text("utf-8")) for folder in (served, source))
    added = config.pop("quantization_config")
    assert (added["quant_method"], added["quant_algo"]) == ("modelopt", ALGORITHMS[precision])
    for older in ("rope_theta", "rope_scaling"):  # as transformers 4.x reads them, beside rope_parameters
        assert config["text_config"].pop(older)
        original["text_config"].pop(older, None)
    assert config == original
    for name in ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja", "generation_config.json"):
        assert (served / name).read_bytes() == (source / name).read_bytes()
    assert PixelSpec.from_checkpoint(served).max_pixels == 16384
    new, old = (load_file(str(folder / "model.safetensors")) for folder in (served, source))
    tower = [name for name in old if ".visual." in name]
    assert len(tower) > 20 and all(torch.equal(new[name], old[name]) for name in tower)


def _check_manifest(bundle: Bundle, precision: str) -> None:
    manifest = bundle.manifest
    assert (manifest.target, manifest.precision, manifest.model["sm"]) == ("tensorrt-llm", precision, SM[precision])
    quantized: dict[str, Any] = manifest.model["quantization"]
    assert (quantized["algorithm"], quantized["vision"]) == (ALGORITHMS[precision], "bf16")
    assert quantized["calibration"] == {"requests": 2, "data": "rows.jsonl"}
    assert manifest.licences["calibration data"] == "the user's own"
    assert manifest.versions["nvidia-modelopt"].startswith("0.45")
    parity = manifest.parity
    assert parity["status"] == "unverified" and "unverified on target" in parity["why"]
    found = parity["quantization"]
    assert found["passed"] and found["vision_error"] == 0
    assert 0.02 < found["layer_error"] < found["bounds"]["layer_error"]
    assert 0.2 < found["argmax_agreement"] < 1 and 0.9 < found["cosine"] < 1
    assert {"llm_args.yaml", "serve.sh", "requirements.txt", "tokenizer.json"} <= set(manifest.files)


def _damage(folder: Path, precision: str) -> None:
    """A scale of twice its size, for one projection in the second of two layers."""
    name = "model.language_model.layers.1.self_attn.o_proj." + (
        "weight_scale_2" if precision == "nvfp4" else "weight_scale"
    )
    tensors = load_file(str(folder / "model.safetensors"))
    tensors[name] = tensors[name] * 2
    save_file(tensors, str(folder / "model.safetensors"), metadata={"format": "pt"})


def _store_unpacked(file: Path) -> None:
    """One projection that the recipe matched no more."""
    tensors = load_file(str(file))
    name = "model.language_model.layers.0.mlp.up_proj"
    kept = {key: value for key, value in tensors.items() if not key.startswith(name)}
    save_file(
        kept | {f"{name}.weight": torch.zeros(512, 256, dtype=torch.bfloat16)}, str(file), metadata={"format": "pt"}
    )


def _check_descriptions(served: Path, precision: str, copy: Path) -> None:
    """Every way in which the description may not fit the tensors is refused."""
    recipe = PRECISIONS[precision].recipe
    assert recipe is not None
    require_quantized(served, recipe, vision=False, int4_tile=1)
    shutil.copytree(served, copy)
    whole = (copy / DESCRIPTION).read_text("utf-8")
    for field, value, message in (
        ("quant_algo", "FP8" if precision != "fp8" else "NVFP4", "quant_algo"),
        ("exclude_modules", ["lm_head", "model.language_model.embed_tokens"], "visual.*among exclude_modules"),
        ("exclude_modules", ["model.language_model.embed_tokens", "model.visual*"], "lm_head among exclude_modules"),
        ("exclude_modules", ["lm_head", "model.*"], "described as quantized"),
    ):
        stated = json.loads(whole)
        stated["quantization"][field] = value
        (copy / DESCRIPTION).write_text(json.dumps(stated), encoding="utf-8")
        with pytest.raises(BuildError, match=message):
            require_quantized(copy, recipe, vision=False, int4_tile=1)
    (copy / DESCRIPTION).write_text(whole, encoding="utf-8")
    with pytest.raises(BuildError, match=r"all of it in high precision|MIXED_PRECISION"):
        require_quantized(copy, recipe, vision=True, int4_tile=1)
    _store_unpacked(copy / "model.safetensors")
    with pytest.raises(BuildError, match=r"layers\.0\.mlp\.up_proj"):
        require_quantized(copy, recipe, vision=False, int4_tile=1)
