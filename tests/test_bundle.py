"""Bundles on disk: what the writer leaves, what opening refuses, and that every refusal is one helpful line."""

from __future__ import annotations

import errno
import json
import multiprocessing
import os
import resource
import shutil
import signal
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from build_engine.manifest import BundleWriter
from egm_edge.bundle import MANIFEST_MAX_BYTES, MANIFEST_NAME, Bundle, Manifest, is_safe_name
from egm_edge.errors import BuildError, BundleError

SECTIONS: dict[str, Any] = {
    "target": "cpu",
    "precision": "fp32",
    "family": "qwen3_vl",
    "model": {"layers": 2},
    "limits": {"max_tokens": 4096},
    "pixel_spec": {"patch": 16},
    "pixel_spec_hash": "a" * 64,
    "prompt_spec": {"modal": "Locate {expression}"},
    "prompt_spec_hash": "b" * 64,
    "parity": {"status": "unverified"},
    "versions": {"onnx": "1.0"},
    "licences": {"code": "Apache-2.0"},
}


def write_bundle(out_dir: Path, *, weights: bytes = b"w" * 5000, force: bool = False, **sections: Any) -> Bundle:
    with BundleWriter(out_dir, force=force) as writer:
        writer.path("tokenizer.json").write_text("{}")
        writer.path("graphs/vision.onnx").write_bytes(b"graph")
        writer.path("graphs/vision.data").write_bytes(weights)
        return writer.commit(**(SECTIONS | sections))


def edit_manifest(bundle_dir: Path, **changes: Any) -> None:
    path = bundle_dir / MANIFEST_NAME
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


@pytest.fixture
def bundle_dir(tmp_path: Path) -> Path:
    write_bundle(tmp_path / "bundle")
    return tmp_path / "bundle"


def test_a_written_bundle_opens_with_the_same_manifest(bundle_dir: Path) -> None:
    bundle = Bundle.open(bundle_dir)
    assert bundle.manifest.model == {"layers": 2}
    assert bundle.path("graphs/vision.data").read_bytes() == b"w" * 5000
    assert bundle.hash == json.loads((bundle_dir / MANIFEST_NAME).read_text())["hash"]
    assert Manifest.from_json(bundle.manifest.to_json()) == bundle.manifest


def test_same_inputs_give_the_same_bytes(tmp_path: Path) -> None:
    first, second = write_bundle(tmp_path / "one"), write_bundle(tmp_path / "two")
    assert first.hash == second.hash
    assert (tmp_path / "one" / MANIFEST_NAME).read_bytes() == (tmp_path / "two" / MANIFEST_NAME).read_bytes()


def test_any_changed_byte_changes_the_hash(tmp_path: Path) -> None:
    assert write_bundle(tmp_path / "one").hash != write_bundle(tmp_path / "two", weights=b"v" * 5000).hash


def test_portable_graphs_may_be_left_out_and_are_no_part_of_the_name(tmp_path: Path) -> None:
    def built(graph: bytes) -> Bundle:
        with BundleWriter(tmp_path / "bundle") as writer:
            writer.path("engines/vision.engine").write_bytes(b"engine")
            writer.path("portable/vision.onnx").write_bytes(graph)
            return writer.commit(**SECTIONS)

    first, second = built(b"graph"), built(b"other")
    assert first.hash == second.hash and first.manifest.seal != second.manifest.seal
    graph = second.path("portable/vision.onnx")
    graph.unlink()
    assert Bundle.open(second.root).left_out == ["portable/vision.onnx"]
    graph.write_bytes(b"forge")
    with pytest.raises(BundleError, match=r"portable/vision\.onnx.*altered"):
        Bundle.open(second.root)
    graph.unlink()
    assert not built(b"other").left_out and graph.read_bytes() == b"other", "a build of the same bundle brings them back"


def test_a_file_that_the_manifest_does_not_list_is_not_input(bundle_dir: Path) -> None:
    (bundle_dir / "graphs" / "extra.onnx").write_bytes(b"x")
    with pytest.raises(BundleError, match="no such entry"):
        Bundle.open(bundle_dir).path("graphs/extra.onnx")


def _truncate(root: Path) -> None:
    os.truncate(root / "graphs/vision.data", 100)


def _flip_one_byte(root: Path) -> None:
    (root / "graphs/vision.data").write_bytes(b"w" * 4999 + b"v")


def _remove_file(root: Path) -> None:
    (root / "tokenizer.json").unlink()


def _link_outside(root: Path) -> None:
    outside = root.parent / "outside"
    outside.write_text("{}")
    (root / "tokenizer.json").unlink()
    (root / "tokenizer.json").symlink_to(outside)


def _cut_manifest(root: Path) -> None:
    os.truncate(root / MANIFEST_NAME, 200)


def _huge_manifest(root: Path) -> None:
    os.truncate(root / MANIFEST_NAME, MANIFEST_MAX_BYTES + 1)


def _binary_manifest(root: Path) -> None:
    (root / MANIFEST_NAME).write_bytes(b"\xff\xfe\x00")


def _deep_manifest(root: Path) -> None:
    (root / MANIFEST_NAME).write_text("[" * 100_000)


def _traversal(root: Path) -> None:
    edit_manifest(root, files={"../outside": {"sha256": "a" * 64, "bytes": 1}})


@pytest.mark.parametrize(
    ("damage", "names"),
    [
        pytest.param(shutil.rmtree, "nothing there", id="directory missing"),
        pytest.param(lambda root: (root / MANIFEST_NAME).unlink(), "without bundle.json", id="not a bundle"),
        pytest.param(_truncate, "5,000 bytes.*found 100 bytes", id="weights truncated"),
        pytest.param(_flip_one_byte, "sha256.*it was altered", id="one byte altered"),
        pytest.param(_remove_file, "tokenizer.json.*no such file", id="file missing"),
        pytest.param(_link_outside, "a link to", id="link that leaves the bundle"),
        pytest.param(_cut_manifest, "does not parse", id="manifest truncated"),
        pytest.param(_huge_manifest, "at most", id="manifest too large"),
        pytest.param(_binary_manifest, "UTF-8", id="manifest not text"),
        pytest.param(_deep_manifest, "does not parse", id="manifest nested too deep"),
        pytest.param(_traversal, "unsafe file name '../outside'", id="file name outside the bundle"),
        pytest.param(lambda root: edit_manifest(root, precision="int8"), "it was edited", id="manifest edited"),
        pytest.param(lambda root: edit_manifest(root, precision=8), "'precision' is int, not str", id="mistyped key"),
        pytest.param(lambda root: edit_manifest(root, files=[]), "'files'.*list", id="files not an object"),
        pytest.param(
            lambda root: edit_manifest(root, files={"x": {"sha256": "A", "bytes": -1}}), "bad records of x", id="bad record"
        ),
        pytest.param(
            lambda root: edit_manifest(root, schema_version=9, egm_edge_version="9.9"),
            "expected a bundle of schema 2; found schema 9, written by egm-edge 9.9; rebuild it",
            id="another version",
        ),
        pytest.param(lambda root: edit_manifest(root, schema_version="1"), "integer 'schema_version'", id="odd version"),
        pytest.param(lambda root: edit_manifest(root, nonsense=1), "unknown key 'nonsense'", id="unknown key"),
    ],
)
def test_damage_is_refused_in_one_line(bundle_dir: Path, damage: Any, names: str) -> None:
    damage(bundle_dir)
    with pytest.raises(BundleError, match=names) as caught:
        Bundle.open(bundle_dir)
    assert "\n" not in str(caught.value)
    assert caught.value.hint


def test_every_missing_key_is_named_at_once(bundle_dir: Path) -> None:
    values = json.loads((bundle_dir / MANIFEST_NAME).read_text())
    del values["model"], values["limits"]
    (bundle_dir / MANIFEST_NAME).write_text(json.dumps(values))
    with pytest.raises(BundleError, match="missing key 'limits'; missing key 'model'"):
        Bundle.open(bundle_dir)


def test_sizes_only_opening_does_not_read_the_weights(bundle_dir: Path) -> None:
    _flip_one_byte(bundle_dir)
    assert Bundle.open(bundle_dir, verify="sizes").manifest.precision == "fp32"


@pytest.mark.parametrize(
    ("name", "safe"),
    [
        ("graphs/vision.onnx", True),
        ("", False),
        (".", False),
        ("/etc/passwd", False),
        ("a/../b", False),
        ("a//b", False),
        ("a/", False),
        ("a\\b", False),
        ("c:x", False),
        ("a\nb", False),
        (MANIFEST_NAME, False),
    ],
)
def test_safe_names(name: str, safe: bool) -> None:
    assert is_safe_name(name) is safe


# --- writing ---------------------------------------------------------------------------------------------------------


def leftovers(parent: Path) -> list[str]:
    return sorted(p.name for p in parent.iterdir())


@pytest.mark.parametrize("error", [RuntimeError("boom"), KeyboardInterrupt(), SystemExit(143)])
def test_a_failed_build_leaves_nothing_behind(tmp_path: Path, error: BaseException) -> None:
    with pytest.raises(type(error)), BundleWriter(tmp_path / "new" / "bundle") as writer:
        writer.path("graphs/vision.onnx").write_bytes(b"x")
        raise error
    assert leftovers(tmp_path) == []


def test_a_failed_rebuild_keeps_the_old_bundle(bundle_dir: Path) -> None:
    before = Bundle.open(bundle_dir).hash
    with pytest.raises(RuntimeError), BundleWriter(bundle_dir) as writer:
        writer.path("tokenizer.json").write_text("new")
        raise RuntimeError("boom")
    assert Bundle.open(bundle_dir).hash == before
    assert leftovers(bundle_dir.parent) == ["bundle"]


def test_a_differing_bundle_is_replaced_and_an_equal_one_left_alone(bundle_dir: Path) -> None:
    inode = bundle_dir.stat().st_ino
    write_bundle(bundle_dir)
    assert bundle_dir.stat().st_ino == inode
    replaced = write_bundle(bundle_dir, weights=b"new")
    assert bundle_dir.stat().st_ino != inode
    assert Bundle.open(bundle_dir).hash == replaced.hash
    assert leftovers(bundle_dir.parent) == ["bundle"]


def test_replacing_works_where_the_kernel_cannot_exchange(bundle_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("egm_edge.files._exchange", lambda first, second: False)
    replaced = write_bundle(bundle_dir, weights=b"new")
    assert Bundle.open(bundle_dir).hash == replaced.hash
    assert leftovers(bundle_dir.parent) == ["bundle"]


@pytest.mark.parametrize("force", [False, True])
def test_a_directory_that_is_not_a_bundle_is_never_deleted(tmp_path: Path, force: bool) -> None:
    (tmp_path / "thesis").mkdir()
    (tmp_path / "thesis" / "chapter.tex").write_text("years of work")
    with pytest.raises(BuildError, match="not a bundle"):
        write_bundle(tmp_path / "thesis", force=force)
    assert (tmp_path / "thesis" / "chapter.tex").read_text() == "years of work"


def test_a_file_in_the_way_is_refused(tmp_path: Path) -> None:
    (tmp_path / "bundle").write_text("x")
    with pytest.raises(BuildError, match="a link or a file"):
        write_bundle(tmp_path / "bundle", force=True)


@pytest.mark.parametrize("damage", [_cut_manifest, lambda root: (root / "notes.txt").write_text("mine")])
def test_a_damaged_bundle_or_one_with_foreign_files_needs_force(bundle_dir: Path, damage: Any) -> None:
    damage(bundle_dir)
    with pytest.raises(BuildError, match="--force"):
        write_bundle(bundle_dir)
    write_bundle(bundle_dir, force=True)
    Bundle.open(bundle_dir)


def test_a_truncated_bundle_is_rebuilt_without_force(bundle_dir: Path) -> None:
    _truncate(bundle_dir)
    write_bundle(bundle_dir)
    Bundle.open(bundle_dir)


def test_too_little_free_space_is_said_before_work_starts(tmp_path: Path) -> None:
    message = r"expected 1,000,000,000,000,000 free bytes.*no space left.*free"
    with pytest.raises(BuildError, match=message), BundleWriter(tmp_path / "bundle") as writer:
        writer.require_free(10**15)
    assert leftovers(tmp_path) == []


@pytest.mark.parametrize(
    "error",
    [
        OSError(errno.ENOSPC, "No space left on device", "x"),
        OSError(errno.EDQUOT, "Disk quota exceeded", "x"),
        OSError("1000 requested and 10 written"),
    ],
    ids=["full disk", "quota", "short write of numpy.tofile"],
)
def test_a_full_disk_is_named(tmp_path: Path, error: OSError) -> None:
    with pytest.raises(BuildError, match="no space left"), BundleWriter(tmp_path / "bundle"):
        raise error
    assert leftovers(tmp_path) == []


def test_a_real_write_limit_leaves_nothing(tmp_path: Path) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, hard))
    try:
        with pytest.raises(BuildError, match="no space left"), BundleWriter(tmp_path / "bundle") as writer:
            np.zeros(1_000_000, np.uint8).tofile(writer.path("embedding.npy"))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert leftovers(tmp_path) == []


def _build_until_killed(out_dir: str, started: Any) -> None:
    with BundleWriter(out_dir) as writer:
        writer.path("graphs/vision.onnx").write_bytes(b"x" * 100)
        started.set()
        signal.pause()


def test_what_a_killed_build_left_is_removed_by_the_next_but_a_running_one_is_not(tmp_path: Path) -> None:
    context = multiprocessing.get_context("spawn")
    builds = []
    for _ in range(2):
        started = context.Event()
        build = context.Process(target=_build_until_killed, args=(str(tmp_path / "bundle"), started))
        build.start()
        assert started.wait(60)
        builds.append(build)
    builds[0].kill()
    builds[0].join()
    assert len(leftovers(tmp_path)) == 2
    write_bundle(tmp_path / "bundle")
    names = leftovers(tmp_path)
    builds[1].kill()
    builds[1].join()
    assert len(names) == 2
    assert "bundle" in names
    write_bundle(tmp_path / "bundle")
    assert leftovers(tmp_path) == ["bundle"]


def test_names_that_leave_the_bundle_cannot_be_written(tmp_path: Path) -> None:
    with pytest.raises(BuildError, match="relative path"), BundleWriter(tmp_path / "bundle") as writer:
        writer.path("../escape")
