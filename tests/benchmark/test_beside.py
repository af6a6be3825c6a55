"""Peers beside: the same work on both sides, in turns; transformers in this process, servers over real HTTP, and refusals."""

from __future__ import annotations

import json
import os
import stat
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from egm_edge.benchmark.comparison import PeerChoice, measure_beside, varied
from egm_edge.benchmark.peer import PeerSample
from egm_edge.benchmark.peer_server import ServerPeer
from egm_edge.benchmark.peer_transformers import TransformersPeer
from egm_edge.benchmark.workload import read_workload
from egm_edge.bundle import Bundle
from egm_edge.cli.measure import main
from egm_edge.errors import BackendError, CheckpointError, InputError
from egm_edge.grounder import Grounder
from tests.evaluate.servers import Reply, serving

ROOT = Path(__file__).resolve().parents[2]


def test_a_turns_times_worked_by_hand() -> None:
    found = PeerSample.of(10.0, [10.5, 10.6, 10.9], 11.0, new_tokens=5, prompt_tokens=7)
    assert (found.total_ms, found.ttft_ms, found.tpot_ms) == pytest.approx((1000.0, 500.0, 100.0))
    silent = PeerSample.of(10.0, [], 11.0, new_tokens=0)
    assert (silent.total_ms, silent.ttft_ms, silent.tpot_ms) == (1000.0, 1000.0, None)
    assert PeerSample.of(10.0, [10.9], 11.0, new_tokens=40).tpot_ms is None  # all of it came in one piece
    assert PeerSample.of(10.0, [10.5, 10.9], 11.0, new_tokens=2, counted=False).tpot_ms is None  # two pieces, not tokens


def test_transformers_beside_does_the_same_work(tiny_cpu_bundle: Bundle, tiny_qwen3_vl: Path, frames_dir: Path) -> None:
    pytest.importorskip("transformers")
    peer = TransformersPeer(tiny_qwen3_vl, dtype="float32", threads=1)
    generate, made = peer._model.generate, []
    peer._model.generate = lambda **inputs: made.append(generate(**inputs)) or made[-1]
    workload = read_workload(frames_dir)
    with Grounder.from_opened(tiny_cpu_bundle, threads=1) as grounder:
        found = measure_beside(grounder, peer, workload, 2, 6)
        assert grounder.stop_ids  # put back
        (question,) = workload.take(1)
        picture = varied(question, 2)
        text = grounder.ground(picture, question.expression, color="rgb", max_new_tokens=6, force_syntax=False).text
        ids = made[2][0, -6:].tolist()  # after the warm-up of both questions
        assert grounder.tokenizer.decode(ids, skip_special_tokens=True).startswith(text)
    lengths = [len(ids[0]) - 6 for ids in made[2:]]
    assert found.prompt_tokens == found.their_prompt_tokens == (min(lengths), max(lengths))
    assert [t.new_tokens for t in (*found.ours, *found.theirs)] == [6] * 4
    assert (found.new_tokens, found.starts_at) == ((6, 6), "patches")
    assert set(found.ratios) == {"total_ms", "ttft_ms", "tpot_ms"}
    assert all(0 < t.ttft_ms < t.total_ms for t in (*found.ours, *found.theirs))


def test_no_two_turns_have_one_picture(frames_dir: Path) -> None:
    (question,) = read_workload(frames_dir).take(1)
    first, second = varied(question, 0), varied(question, 1)
    assert np.argwhere(first != second).tolist() == [[0, 0, 0]]


def test_a_server_beside_gets_as_many_tokens_as_ours(
    tiny_cpu_bundle: Bundle, frames_dir: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The server stops after 12 tokens, whatever is asked; it refuses `ignore_eos` as one that knows only its own fields."""
    pictures: list[str] = []

    def reply_to(body: dict[str, Any], before: int) -> Reply:
        if "ignore_eos" in body:
            return Reply(status=400)
        pictures.append(body["messages"][0]["content"][0]["image_url"]["url"])
        return Reply(pause_s=0.05)

    with serving(reply_to) as served:
        options = ["--frames", frames_dir, "--requests", 1, "--warm-up", 1, "--max-new-tokens", 20, "--no-roofline"]
        given = [tiny_cpu_bundle.root, *options, "--threads", 1, "--beside", served.url, "--pairs", 3, "--json"]
        assert main([*map(str, given), "--out", str(tmp_path)]) == 0
    beside = json.loads(capsys.readouterr().out)["beside"]
    assert beside["peer"] == f"egm-test at {served.url}"
    assert beside["starts_at"] == "picture"
    assert [t["new_tokens"] for t in (*beside["ours"], *beside["theirs"])] == [12] * 6
    assert beside["their_prompt_tokens"] == [40, 40]
    assert all(turn["total_ms"] >= 50.0 for turn in beside["theirs"])
    assert len(set(pictures)) == len(pictures) == 5  # two warm-ups, three pairs: nothing to answer from a cache
    assert (tmp_path / "measure.md").read_text().startswith("# Latency on this machine\n\n**")


def test_a_server_that_sends_everything_at_once_has_no_time_per_token(
    tiny_cpu_bundle: Bundle, frames_dir: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with serving(lambda body, before: Reply(pieces=1)) as served:
        options = ["--frames", frames_dir, "--requests", 1, "--warm-up", 1, "--max-new-tokens", 20, "--no-roofline"]
        given = [tiny_cpu_bundle.root, *options, "--threads", 1, "--beside", served.url, "--pairs", 1]
        assert main([*map(str, given)]) == 0
    assert "| per token | not known | - | - |" in capsys.readouterr().out


def test_llama_cpps_server_is_started_and_stopped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With a stand-in that takes llama-server's options and answers as it does."""
    program = tmp_path / "llama-server"
    program.write_text(
        f"#!{sys.executable}\nimport sys, time\nsys.path.insert(0, {str(ROOT)!r})\n"
        "from tests.evaluate import servers\n"
        "port = int(sys.argv[sys.argv.index('--port') + 1])\n"
        "server = servers.ThreadingHTTPServer\n"
        "servers.ThreadingHTTPServer = lambda address, handler: server(('127.0.0.1', port), handler)\n"
        "with servers.serving(lambda body, before: servers.Reply()):\n    time.sleep(300)\n"
    )
    program.chmod(program.stat().st_mode | stat.S_IEXEC)
    for name in ("model.gguf", "model-mmproj.gguf"):
        (tmp_path / name).write_bytes(b"")
    monkeypatch.setenv("PATH", f"{tmp_path}{os.pathsep}{os.environ['PATH']}")
    peer = PeerChoice("llama.cpp", tmp_path / "model.gguf").open(1)
    assert isinstance(peer, ServerPeer)
    assert (peer.name, peer.threads) == ("llama.cpp, model.gguf", 1)
    peer.close()
    assert peer._process.returncode is not None  # type: ignore[attr-defined]
    with pytest.raises(BackendError, match="mmproj"):
        PeerChoice("llama.cpp", tmp_path / "none" / "model.gguf").open(1)


def test_openvino_refuses_what_it_cannot_load(tmp_path: Path) -> None:
    pytest.importorskip("openvino_genai", reason="OpenVINO GenAI is no dependency of this project")
    with pytest.raises(BackendError, match="optimum-cli export"):
        PeerChoice("openvino", tmp_path).open(1)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--beside", "transformers"], "--checkpoint DIR"),
        (["--beside", "openvino"], "--peer-model PATH"),
        (["--beside", "llama.cpp"], "--peer-model PATH"),
        (["--beside", "vllm"], "a server's address"),
    ],
)
def test_a_peer_without_its_model_is_refused_before_anything_is_loaded(options: list[str], words: str) -> None:
    with pytest.raises(InputError, match=words):
        main(["no-bundle", *options])


def test_a_peer_that_cannot_run_is_refused_in_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(CheckpointError, match="--checkpoint"):
        TransformersPeer(tmp_path, dtype="bfloat16", threads=1)
    (tmp_path / "config.json").write_text("{}")
    for module in ("peer_transformers", "peer_openvino"):
        monkeypatch.setattr(f"egm_edge.benchmark.{module}.import_module", _missing)
    with pytest.raises(BackendError, match="pip install"):
        TransformersPeer(tmp_path, dtype="bfloat16", threads=1)
    with pytest.raises(BackendError, match="pip install openvino-genai"):
        PeerChoice("openvino", tmp_path).open(1)
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(BackendError, match=r"install llama\.cpp"):
        PeerChoice("llama.cpp", tmp_path / "model.gguf").open(1)


def _missing(name: str) -> Any:
    raise ImportError(f"No module named {name!r}")
