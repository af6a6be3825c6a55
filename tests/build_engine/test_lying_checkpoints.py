"""Checkpoints whose parts contradict each other: one line that names the key, for engines that build and servers that copy."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import suppress
from functools import reduce
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from build_engine import local_build
from build_engine.cli import main
from build_engine.inspect_cli import inspect_checkpoint
from egm_edge.bundle_from_checkpoint import describe_checkpoint
from egm_edge.errors import CheckpointError, EgmError

Lie = Callable[[Path], None]


def _config(section: str, **values: Any) -> Lie:
    def lie(root: Path) -> None:
        config = json.loads((root / "config.json").read_text())
        target = config[section] if section else config
        target.update(values)
        (root / "config.json").write_text(json.dumps(config))

    return lie


def _tensors(change: Callable[[dict[str, np.ndarray]], None]) -> Lie:
    def lie(root: Path) -> None:
        from safetensors.numpy import load_file, save_file

        tensors = load_file(root / "model.safetensors")
        change(tensors)
        save_file(tensors, root / "model.safetensors", {"format": "pt"})

    return lie


def _with_lora(tensors: dict[str, np.ndarray]) -> None:
    for name in [name for name in tensors if name.endswith("q_proj.weight")]:
        tensors[name.replace("weight", "lora_A.default.weight")] = np.zeros((4, tensors[name].shape[1]), np.float32)
        tensors[name.replace("weight", "lora_B.default.weight")] = np.zeros((tensors[name].shape[0], 4), np.float32)


def _set(ending: str, value: float) -> Callable[[dict[str, np.ndarray]], None]:
    def change(tensors: dict[str, np.ndarray]) -> None:
        name = next(name for name in tensors if name.endswith(ending))
        tensors[name] = tensors[name].copy()
        tensors[name].flat[7] = value

    return change


def _cut(tensors: dict[str, np.ndarray]) -> None:
    name = next(name for name in tensors if name.endswith("layers.1.mlp.up_proj.weight"))
    tensors[name] = np.ascontiguousarray(tensors[name][:-1])


def _contradictory_index(root: Path) -> None:
    from safetensors.numpy import load_file, save_file

    tensors = load_file(root / "model.safetensors")
    (root / "model.safetensors").unlink()
    names = sorted(tensors)
    for file, part in (("a.safetensors", names[::2]), ("b.safetensors", names[1::2])):
        save_file({name: tensors[name] for name in part}, root / file)
    weight_map = dict.fromkeys(names[::2], "a.safetensors") | dict.fromkeys(names[1::2], "b.safetensors")
    weight_map[names[0]] = "b.safetensors"
    (root / "model.safetensors.index.json").write_text(json.dumps({"weight_map": weight_map}))


def _adapter_alone(root: Path) -> None:
    (root / "config.json").unlink()
    (root / "adapter_config.json").write_text("{}")


def _rotary(**values: Any) -> Lie:
    return _config("text_config", rope_parameters=values)


def _generation(root: Path) -> None:
    (root / "generation_config.json").write_text('{"eos_token_id": "x"}')


def _generation_end_beyond(root: Path) -> None:
    (root / "generation_config.json").write_text('{"eos_token_id": [999999999]}')


def _without(part: str) -> Callable[[dict[str, np.ndarray]], None]:
    def change(tensors: dict[str, np.ndarray]) -> None:
        for name in [name for name in tensors if part in name]:
            del tensors[name]

    return change


def _other_head(tensors: dict[str, np.ndarray]) -> None:
    table = next(values for name, values in tensors.items() if name.endswith("embed_tokens.weight"))
    tensors["lm_head.weight"] = table * 2


def _shorter_positions(tensors: dict[str, np.ndarray]) -> None:
    name = next(name for name in tensors if name.endswith("position_embeddings"))
    tensors[name] = np.ascontiguousarray(tensors[name][:, :-1])


def _pipe(path: Path) -> None:
    path.unlink()
    os.mkfifo(path)


LIES = [
    pytest.param(_tensors(_with_lora), "lora_A.*merge_and_unload", id="unmerged adapters in every layer"),
    pytest.param(_config("", tie_word_embeddings=False), r"head\.weight", id="no head though untied"),
    pytest.param(_config("text_config", num_hidden_layers=2), "num_hidden_layers", id="more layers than stated"),
    pytest.param(_config("text_config", num_hidden_layers=4), "num_hidden_layers", id="fewer layers than stated"),
    pytest.param(_config("vision_config", depth=2), "depth", id="more vision layers than stated"),
    pytest.param(_tensors(_set("layers.1.mlp.up_proj.weight", np.nan)), r"text\.layers\.1\.mlp\.up_proj", id="a NaN"),
    pytest.param(_tensors(_set("embed_tokens.weight", np.inf)), "embed_tokens", id="an infinity"),
    pytest.param(_tensors(_cut), r"layers\.1\.mlp\.up_proj.*shape", id="a row is missing"),
    pytest.param(_contradictory_index, "index", id="contradictory index"),
    pytest.param(_config("", quantization_config={"quant_method": "fp8"}), "quantization_config", id="a quantization config"),
    pytest.param(_config("text_config", num_attention_heads=0), "num_attention_heads", id="no heads"),
    pytest.param(_config("text_config", num_key_value_heads="two"), "num_key_value_heads", id="heads in words"),
    pytest.param(lambda root: (root / "config.json").write_text("[" * 100_000), "JSON", id="deep JSON"),
    pytest.param(_adapter_alone, "merge_and_unload", id="an adapter's directory"),
    pytest.param(lambda root: (root / "adapter_config.json").write_text("{}"), "beside.*merge_and_unload", id="an adapter beside"),
    pytest.param(_config("text_config", num_hidden_layers=10**12), "num_hidden_layers", id="layers beyond counting"),
    pytest.param(_config("text_config", rms_norm_eps=float("nan")), "rms_norm_eps", id="an epsilon that is none"),
    pytest.param(_config("text_config", rope_parameters=[1]), "rope_parameters", id="rotary settings as a list"),
    pytest.param(_rotary(rope_theta="big", mrope_section=[6, 5, 5]), "rope_theta", id="a base in words"),
    pytest.param(_rotary(rope_theta=1e4, mrope_section=[60, 5, 5]), "mrope_section", id="M-RoPE beyond a head"),
    pytest.param(_config("text_config", eos_token_id="end"), "eos_token_id", id="an end token in words"),
    pytest.param(_config("", tie_word_embeddings="yes"), "tie_word_embeddings", id="a flag in words"),
    pytest.param(_config("vision_config", patch_size=0), "patch_size", id="patches of nothing"),
    pytest.param(_config("vision_config", num_heads="four"), "num_heads", id="vision heads in words"),
    pytest.param(_config("vision_config", deepstack_visual_indexes=[0, 0, 0]), "deepstack_visual", id="one deep-stack thrice"),
    pytest.param(_config("vision_config", quantization_config={"bits": 8}), "quantization_config", id="a quantized tower"),
    pytest.param(_generation, "eos_token_id of generation_config", id="generation's end token in words"),
    pytest.param(_generation_end_beyond, "eos_token_id of generation_config", id="an end token beyond the vocabulary"),
    pytest.param(_rotary(rope_theta=1e4, partial_rotary_factor=0.5), "partial_rotary_factor", id="half a head turned"),
    pytest.param(_rotary(rope_theta=1e4, mrope_interleaved=False), "mrope_interleaved", id="M-RoPE in blocks"),
    pytest.param(_config("", compression_config={"bits": 8}), "compression_config", id="a compression config"),
    pytest.param(_config("vision_config", num_heads=3), "hidden_size of vision_config", id="vision heads that divide nothing"),
    pytest.param(_config("text_config", attention_bias=True), r"q_proj\.bias", id="biases that are not there"),
    pytest.param(_tensors(_without("q_norm")), r"q_norm", id="query norms missing in every layer"),
    pytest.param(_tensors(_without("blocks.1.norm2.bias")), r"blocks\.1\.norm2\.bias", id="one vision norm's bias missing"),
    pytest.param(_tensors(_other_head), r"head\.weight.*tie_word_embeddings", id="another head though tied"),
    pytest.param(lambda root: _pipe(root / "config.json"), "a pipe", id="a pipe for a file"),
    pytest.param(_tensors(lambda t: t.update({"extra.weight": np.ones(3, np.float32)})), r"extra\.weight", id="an unknown tensor"),
]  # fmt: skip


@pytest.mark.parametrize("target", ["cpu", "vllm"])
@pytest.mark.parametrize(("lie", "names"), LIES)
def test_a_checkpoint_that_lies_is_refused_in_one_line(
    tiny_qwen3_vl: Path, tmp_path: Path, lie: Lie, names: str, target: str
) -> None:
    checkpoint = Path(shutil.copytree(tiny_qwen3_vl, tmp_path / "checkpoint"))
    lie(checkpoint)
    with pytest.raises(CheckpointError, match=names) as caught:
        main([str(checkpoint), "--target", target, "--quiet", "--no-gate", "-o", str(tmp_path / "bundle")])
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "bundle").exists()


@pytest.mark.parametrize(
    ("lie", "names"),
    [
        pytest.param(_tensors(_without("layers.0.self_attn.k_proj.bias")), "k_proj.bias", id="a bias missing in the first layer"),
        pytest.param(_config("vision_config", use_qk_norm=True), "q_norm", id="norms that are not there"),
        pytest.param(_config("vision_config", norm_type="rms_norm"), r"layernorm_after\.bias", id="biases of another norm"),
        pytest.param(_config("vision_config", num_attention_heads=5), "hidden_size of vision_config", id="heads dividing nothing"),
        pytest.param(_config("vision_config", layer_norm_eps="x"), "layer_norm_eps", id="an epsilon in words"),
        pytest.param(_config("text_config", model_type="qwen3"), "q_norm", id="another decoder's name"),
        pytest.param(_tensors(_shorter_positions), "position_embeddings", id="a position missing"),
    ],
)
def test_an_internvl3_checkpoint_that_lies_is_refused_in_one_line(
    tiny_internvl3: Path, tmp_path: Path, lie: Lie, names: str
) -> None:
    test_a_checkpoint_that_lies_is_refused_in_one_line(tiny_internvl3, tmp_path, lie, names, "cpu")


@pytest.mark.parametrize("family", ["tiny_qwen3_vl", "tiny_internvl3"])
def test_no_value_that_is_missing_or_in_words_is_an_unexpected_error(
    family: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest
) -> None:
    checkpoint = Path(shutil.copytree(request.getfixturevalue(family), tmp_path / "checkpoint"))
    # A hub's settings without its weights: they come when the plan fits.
    fetched = {False: checkpoint, True: tmp_path}
    monkeypatch.setattr(local_build, "resolve_checkpoint", lambda given, weights=True: fetched[weights])
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    doors = (describe_checkpoint, inspect_checkpoint, lambda _: local_build.bundle_of_hub_id("acme/tiny"))
    for name in ("config.json", "generation_config.json"):
        text = (checkpoint / name).read_text()
        for path in _places(json.loads(text)):
            for changed in (None, "x"):
                values = json.loads(text)
                *above, key = path
                section = reduce(dict.__getitem__, above, values)
                section.pop(key) if changed is None else section.update({key: changed})
                (checkpoint / name).write_text(json.dumps(values))
                for door in doors:
                    with suppress(EgmError):
                        door(checkpoint)
        (checkpoint / name).write_text(text)


@pytest.mark.parametrize(
    ("lie", "told"),
    [
        pytest.param(_config("text_config", num_hidden_layers="x"), "num_hidden_layers as a whole number", id="layers in words"),
        pytest.param(lambda root: (root / "config.json").write_text('{"model_type": "qwen3_vl"}'), "text_config", id="no decoder"),
        pytest.param(_config("", quantization_config={"bits": 8}), "no quantization_config beside", id="quantized already"),
        pytest.param(_config("", model_type="llava"), "model_type qwen3_vl or internvl", id="another architecture"),
    ],
)
def test_a_hub_model_that_lies_is_refused_before_its_weights_are_fetched(
    tiny_qwen3_vl: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, lie: Lie, told: str
) -> None:
    shutil.copytree(tiny_qwen3_vl, tmp_path / "c", ignore=shutil.ignore_patterns("*.safetensors"))
    lie(tmp_path / "c")
    monkeypatch.setattr(local_build, "resolve_checkpoint", lambda given, *, weights: tmp_path / "c")
    with pytest.raises(CheckpointError, match=told):
        local_build.bundle_of_hub_id("acme/tiny")


def _places(values: dict[str, Any]) -> Iterator[tuple[str, ...]]:
    for key, value in values.items():
        yield (key,)
        if isinstance(value, dict):
            yield from ((key, *rest) for rest in _places(value))
