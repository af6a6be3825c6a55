"""The host half without NVIDIA's tools: what is refused before work, what a failing tool leaves, what a key depends on."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest

from build_engine.checkpoint import Checkpoint
from build_engine.cli import main
from build_engine.edge_llm import compiler
from build_engine.edge_llm import export as exporting
from build_engine.edge_llm.environment import EdgeLlmEnvironment, run_tool
from build_engine.edge_llm.profile import EngineProfile, fitted_spec
from build_engine.manifest import BundleWriter
from build_engine.memory_table import published_spec
from build_engine.request import BuildRequest
from build_engine.stages import Stages
from build_engine.targets import target_for
from egm_edge.assets import shipped_checkpoint
from egm_edge.errors import BuildError, CheckpointError
from egm_edge.golden.replies import read_golden
from tests.build_engine.edge_llm.conftest import write_tool


def test_the_shipped_checkpoint_has_heads_without_kernels(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="heads of 32"):
        main([str(shipped_checkpoint()), "--target", "jetson-orin-nano", "-o", str(tmp_path / "bundle")])
    assert not (tmp_path / "bundle").exists()


@pytest.mark.parametrize(("text", "vision"), [(128, 64), (64, 72), (256, 128)])
def test_published_head_sizes_have_kernels(text: int, vision: int) -> None:
    exporting.require_kernels(text, vision)


def test_a_missing_environment_says_how_to_make_it(
    jetson_qwen3_vl: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("EGM_EDGELLM_VENV", str(tmp_path / "nothing"))
    with pytest.raises(BuildError, match="egm setup edgellm"):
        main([str(jetson_qwen3_vl), "--target", "jetson-orin-nano", "-o", str(tmp_path / "bundle"), "--quiet"])
    assert not (tmp_path / "bundle").exists()


def test_another_version_of_the_tools_is_refused(fake_environment: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FAKE_VERSION", "0.10.0")
    with pytest.raises(BuildError, match=r"0\.11\.0.*found 0\.10\.0"):
        EdgeLlmEnvironment.find()


def test_the_host_half_stores_golden_replies_for_the_device(
    jetson_qwen3_vl: Path, fake_environment: Path, tmp_path: Path
) -> None:
    request = BuildRequest(
        checkpoint=jetson_qwen3_vl, out_dir=tmp_path / "bundle", target=target_for("jetson-agx-orin"), precision="fp16",
        max_new_tokens=8,
    )  # fmt: skip
    with Checkpoint(jetson_qwen3_vl) as checkpoint, BundleWriter(request.out_dir) as writer:
        plan = compiler._Plan(checkpoint, request)
        manifest = plan.sections(EdgeLlmEnvironment.find(), "key", None, None)
        assert compiler._golden(plan, writer, manifest) == {}
        golden = read_golden(writer.commit(**manifest))
    assert len(golden.replies) == 6 and golden.max_new_tokens == 8


def test_an_export_that_fails_behind_complete_files_is_no_export(fake_environment: Path, tmp_path: Path) -> None:
    files = " ".join(f"llm/{name}" for name in exporting.LLM_FILES)
    script = f'#!/bin/bash\ncd "$2" && mkdir -p llm && for f in {files}; do echo x > $f; done\n'
    script += "echo \"ModuleNotFoundError: No module named 'modelopt'\"; exit 1\n"
    write_tool(fake_environment, "tensorrt-edgellm-export", script)
    (tmp_path / "out").mkdir()
    with pytest.raises(BuildError, match="modelopt"):
        exporting.export(EdgeLlmEnvironment.find(), tmp_path, tmp_path / "out", tmp_path / "log", lambda line: None)


def test_exit_code_0_without_a_vision_graph_is_no_export(fake_environment: Path, tmp_path: Path) -> None:
    files = " ".join(f"llm/{name}" for name in exporting.LLM_FILES)
    script = f'#!/bin/bash\ncd "$2" && mkdir -p llm visual && for f in {files}; do echo x > $f; done\n'
    write_tool(fake_environment, "tensorrt-edgellm-export", script)
    (tmp_path / "out").mkdir()
    with pytest.raises(BuildError, match=r"visual/model\.onnx"):
        exporting.export(EdgeLlmEnvironment.find(), tmp_path, tmp_path / "out", tmp_path / "log", lambda line: None)


@pytest.mark.parametrize(
    ("output", "code", "found"),
    [
        ("OSError: [Errno 28] No space left on device", 1, "no space left on device"),
        ("ValueError: bad shape", 3, "exit code 3: ValueError: bad shape"),
        ("", 2, "exit code 2: no output"),
    ],
)
def test_a_tools_failure_is_told_in_one_line(tmp_path: Path, output: str, code: int, found: str) -> None:
    argv = [sys.executable, "-c", f"import sys; print({output!r}); sys.exit({code})"]
    with pytest.raises(BuildError) as failed:
        run_tool(argv, what="the step", log=tmp_path / "log")
    assert failed.value.found == found


def test_an_interrupted_tool_leaves_no_process(tmp_path: Path) -> None:
    child = tmp_path / "child.pid"
    inner = (
        f"import subprocess, time; p = subprocess.Popen(['sleep', '300']); open({str(child)!r}, 'w').write(str(p.pid))\n"
        "print('up', flush=True); time.sleep(300)"
    )

    def interrupt(line: str) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run_tool([sys.executable, "-c", inner], what="x", log=tmp_path / "log", on_line=interrupt)
    pid = int(child.read_text())
    for _ in range(100):
        if not _alive(pid):
            return
        time.sleep(0.1)
    pytest.fail("the tool's child outlived the interrupt")


def _alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def test_a_stage_is_whole_or_absent_and_found_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    calls: list[str] = []

    def fill(folder: Path) -> None:
        calls.append("fill")
        (folder / "a").write_text("a")
        if len(calls) == 1:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt), Stages.open("key") as stages:
        stages.run("export", fill)
    assert not list((tmp_path / "egm-edge" / "stages" / "key").iterdir())
    with Stages.open("key") as stages:
        first = stages.run("export", fill)
        assert stages.run("export", fill) == first
    assert len(calls) == 2
    with Stages.open("key") as stages:
        assert (stages.run("export", fill) / "a").read_text() == "a"
        assert len(calls) == 2
        stages.remove()


def test_a_full_disk_leaves_no_stage(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))

    def fill(folder: Path) -> None:
        (folder / "half").write_text("x")
        raise OSError(28, "No space left on device")

    with Stages.open("key") as stages, pytest.raises(BuildError, match="XDG_CACHE_HOME"):
        stages.run("export", fill)
    assert not list((tmp_path / "egm-edge" / "stages" / "key").iterdir())


def test_two_builds_of_the_same_do_not_meet(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    code = (
        "from build_engine.stages import Stages\nimport time\n"
        "with Stages.open('k'):\n    print('in', flush=True); time.sleep(60)"
    )
    command = [sys.executable, "-c", code]
    environment = os.environ | {"XDG_CACHE_HOME": str(tmp_path)}
    other = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment)
    try:
        assert other.stdout is not None and other.stdout.readline() == "in\n"
        with pytest.raises(BuildError, match="at a time"), Stages.open("k"):
            pass
    finally:
        other.send_signal(signal.SIGKILL)
        other.wait()


def test_the_profile_holds_every_picture_that_the_pixel_spec_lets_through() -> None:
    spec = fitted_spec(published_spec("EGM-4B"), 1920 * 1088, target_for("jetson-agx-orin"))
    profile = EngineProfile.of(spec, 1024, 2)
    assert profile.max_image_tokens_per_image == 2040
    assert profile.max_image_tokens == 2 * 2040
    assert profile.max_input_len == 2040 + 256
    assert profile.max_kv_cache_capacity >= profile.max_input_len + 1024
    assert profile.max_kv_cache_capacity % 128 == 0
    assert "--max-kv-cache-capacity" in profile.flags()


def test_internvl_limits_are_multiples_of_a_tile() -> None:
    profile = EngineProfile.of(fitted_spec(published_spec("InternVL3-2B"), None, target_for("jetson-thor")), 256, 1)
    assert profile.min_image_tokens == 256
    assert profile.max_image_tokens % 256 == 0 and profile.max_image_tokens <= 2048


def test_more_image_tokens_than_the_device_takes_are_refused() -> None:
    with pytest.raises(BuildError, match="--max-pixels 2097152"):
        fitted_spec(published_spec("EGM-4B"), 1 << 22, target_for("jetson-orin-nano"))
    assert fitted_spec(published_spec("EGM-4B"), 1 << 22, target_for("jetson-thor")).max_pixels == 1 << 22


def test_the_runtimes_pixel_budget_becomes_the_bundles(tmp_path: Path) -> None:
    from build_engine.served_settings import write_pixel_budget

    path = tmp_path / "preprocessor_config.json"
    path.write_text(json.dumps({"size": {"longest_edge": 16777216, "shortest_edge": 65536}, "max_pixels": 16777216}))
    write_pixel_budget(tmp_path, replace(published_spec("EGM-4B"), max_pixels=1 << 20))
    values = json.loads(path.read_text())
    assert values["size"] == {"longest_edge": 1 << 20, "shortest_edge": 65536}
    assert values["max_pixels"] == 1 << 20
