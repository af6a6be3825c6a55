"""open_grounder: every kind of bundle, and a checkpoint, with the class that runs it; the runtimes are stand-ins."""

from __future__ import annotations

import json
import sys
import types
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from build_engine.compilers.cpu import build_cpu
from build_engine.compilers.serving import compile_server
from build_engine.request import BuildRequest
from build_engine.targets import target_for
from egm_edge import Grounder, open_grounder
from egm_edge.backends import RuntimeFacts, load_backend
from egm_edge.backends.text_runtime.edge_llm import EdgeLlmGrounder
from egm_edge.backends.text_runtime.tensorrt_llm import TensorRtLlmGrounder
from egm_edge.bundle import Bundle
from egm_edge.bundle_from_checkpoint import describe_checkpoint
from egm_edge.cli import main
from egm_edge.draw import save_image
from egm_edge.errors import BackendError, BundleError, InputError
from tests.backends import tensorrt_llm_stand_in as stand_in

IMAGE = np.random.default_rng(0).integers(0, 256, (90, 120, 3), np.uint8)


def described(checkpoint: Path, **fields: Any) -> Bundle:
    """A bundle whose manifest says so; only what opening looks at is there."""
    bundle = describe_checkpoint(checkpoint)
    return Bundle(bundle.root, replace(bundle.manifest, **fields))


@pytest.mark.parametrize(
    ("target", "runtime", "kind"),
    [("jetson-agx-orin", "edge_llm", EdgeLlmGrounder), ("tensorrt-llm", "tensorrt_llm", TensorRtLlmGrounder)],
)
def test_runtimes_that_answer_whole_requests(
    tiny_qwen3_vl: Path, monkeypatch: pytest.MonkeyPatch, target: str, runtime: str, kind: type
) -> None:
    bundle = described(tiny_qwen3_vl, target=target, text_runtime=runtime)
    opened = SimpleNamespace(facts=RuntimeFacts("a stand-in"))
    monkeypatch.setattr(kind, "from_opened", lambda given: opened if given is bundle else None)
    assert open_grounder(bundle) is opened
    with pytest.raises(BackendError, match=rf"open_grounder.*{kind.__name__}") as raised:
        load_backend(bundle)
    assert ("serve.sh" in str(raised.value)) is (target == "tensorrt-llm")


def test_a_server_bundle_names_its_server(tiny_qwen3_vl: Path) -> None:
    with pytest.raises(BackendError, match=r"serve\.sh.*RemoteGrounder"):
        open_grounder(described(tiny_qwen3_vl, target="vllm", text_runtime="http"))


def test_a_cpu_bundle_and_its_checkpoint_answer_alike(tiny_qwen3_vl: Path, tmp_path: Path) -> None:
    built = build_cpu(tiny_qwen3_vl, tmp_path / "bundle", precision="fp32", gate=False)
    texts = []
    for path in (built.root, tiny_qwen3_vl):
        with open_grounder(path, threads=1) as grounder:
            assert isinstance(grounder, Grounder)
            frame = grounder.frame(IMAGE, color="rgb")
            found = grounder.ground(frame, "the mug", max_new_tokens=8)
            assert frame.charged_to(found).timings.preprocess_ms == frame.preprocess_ms
            texts.append(found.text)
    assert texts[0] == texts[1]


def test_nothing_there_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(BundleError, match="egm build"):
        open_grounder(tmp_path / "none")


@pytest.fixture
def datacentre(tiny_qwen3_vl: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A real tensorrt-llm bundle beside frame.png; only the SDK is a stand-in."""
    package, llmapi = types.ModuleType("tensorrt_llm"), types.ModuleType("tensorrt_llm.llmapi")
    package.__dict__.update(
        __version__="1.3.0", LLM=stand_in.LLM, SamplingParams=stand_in.SamplingParams, llmapi=llmapi
    )
    monkeypatch.setitem(sys.modules, "tensorrt_llm", package)
    monkeypatch.setitem(sys.modules, "tensorrt_llm.llmapi", llmapi)
    out, target = tmp_path / "bundle", target_for("tensorrt-llm")
    compile_server(BuildRequest(checkpoint=tiny_qwen3_vl, out_dir=out, target=target, precision="bf16"))
    save_image(tmp_path / "frame.png", IMAGE)
    return out


def test_egm_ground_asks_a_datacentre_bundle(datacentre: Path, capsys: pytest.CaptureFixture[str]) -> None:
    ask = ["ground", str(datacentre.parent / "frame.png"), "the mug", "the cup", "--bundle", str(datacentre)]
    assert main([*ask, "--timings"]) == 0
    shown = capsys.readouterr()
    rows = {line.split()[0]: line.split()[1:] for line in shown.out.splitlines()}
    assert "1.3.0," in rows["engine"] and shown.out.count("FOUND") == 2
    assert rows["prefill_ms"] == ["41.0", "41.0"] and float(rows["preprocess_ms"][0]) > 0.0
    assert stand_in.LLM.latest.shut_down
    assert main([*ask, "--deadline-ms", "60000"]) == 0
    assert main([*ask, "--samples", "3"]) == InputError.exit_code
    assert "samples" in capsys.readouterr().err


def test_egm_evaluate_asks_a_datacentre_bundle(datacentre: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rows = [{"image": "frame.png", "expression": text, "box": [30, 22, 90, 45]} for text in ("the mug", "the cup")]
    data, out = datacentre.parent / "rows.jsonl", datacentre.parent / "out"
    data.write_text("".join(json.dumps(row) + "\n" for row in rows))
    assert main(["evaluate", str(datacentre), "--data", str(data), "--out", str(out), "--json"]) == 0
    report = json.loads((out / "report.json").read_text())
    assert report == json.loads(capsys.readouterr().out)
    records = [json.loads(line) for line in (out / "records.jsonl").read_text().splitlines()]
    assert [record["iou"] > 0.9 for record in records if "iou" in record] == [True, True]


def test_every_grounder_names_what_produced_its_answers(datacentre: Path, tiny_qwen3_vl: Path) -> None:
    for path in (datacentre, tiny_qwen3_vl):
        with open_grounder(path) as grounder:
            found = grounder.ground(IMAGE, "the mug", color="rgb", max_new_tokens=8)
            hashes = (grounder.bundle_hash, grounder.pixel_spec_hash, grounder.prompt_spec_hash)
            assert (found.bundle_hash, found.pixel_spec_hash, found.prompt_spec_hash) == hashes
            assert grounder.bundle_hash == grounder.bundle.hash and all(hashes)
