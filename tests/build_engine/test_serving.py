"""Bundles for servers: what they load, the pixel budget in it, versions that shift boxes left out, the command."""

from __future__ import annotations

import json
import shlex
from pathlib import Path

import pytest
import yaml
from packaging.requirements import Requirement

from build_engine.compilers.serving import SERVERS, compile_server
from build_engine.request import BuildRequest
from build_engine.targets import target_for
from egm_edge.backends import load_backend
from egm_edge.backends.openai_http.contract import Contract
from egm_edge.bundle import Bundle
from egm_edge.errors import BackendError, BuildError
from egm_edge.pixels import PixelSpec


def _build(checkpoint: Path, out_dir: Path, target: str, **options: object) -> Bundle:
    return compile_server(
        BuildRequest(checkpoint=checkpoint, out_dir=out_dir, target=target_for(target), precision="bf16", **options)  # type: ignore[arg-type]
    )


@pytest.mark.parametrize("target", list(SERVERS))
def test_the_checkpoint_that_is_served_has_the_bundles_pixel_budget(
    tiny_qwen3_vl: Path, tmp_path: Path, target: str
) -> None:
    bundle = _build(tiny_qwen3_vl, tmp_path / "bundle", target, max_pixels=16384)
    served = PixelSpec.from_checkpoint(bundle.root / "checkpoint")
    assert served == PixelSpec.from_dict(bundle.manifest.pixel_spec)
    assert served.max_pixels == 16384
    assert Contract.read(bundle.root).pixel_spec == served
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
    ("target", "shifted", "sound"),
    [
        ("vllm", ("0.11.1", "0.11.2", "0.12.0"), ("0.11.0", "0.13.0")),
        ("sglang", ("0.5.17",), ("0.5.18",)),
        ("tensorrt-llm", ("1.2.1", "1.3.0rc6"), ("1.3.0rc7", "1.3.0")),
    ],
)
def test_versions_that_shift_boxes_are_not_installed(
    target: str, shifted: tuple[str, ...], sound: tuple[str, ...]
) -> None:
    allowed = Requirement(SERVERS[target].requirement).specifier
    assert not [v for v in shifted if allowed.contains(v, prereleases=True)]
    assert all(allowed.contains(v, prereleases=True) for v in sound)


def test_a_family_that_the_server_lacks_names_the_servers_that_have_it(tiny_internvl3: Path, tmp_path: Path) -> None:
    with pytest.raises(BuildError, match="vllm or sglang"):
        _build(tiny_internvl3, tmp_path / "bundle", "tensorrt-llm")
    assert not list(tmp_path.iterdir())


def test_equal_inputs_give_equal_bundles(tiny_internvl3: Path, tmp_path: Path) -> None:
    first, second = (_build(tiny_internvl3, tmp_path / name, "sglang") for name in "ab")
    assert first.hash == second.hash
