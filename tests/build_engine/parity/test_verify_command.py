"""`egm verify`: what it stores, what it says, and what an unverified bundle says when it is opened."""

from __future__ import annotations

import json
import logging
from pathlib import Path

import pytest

from build_engine.parity.report import BoxAgreement, BoxPair
from build_engine.verify_cli import main
from egm_edge.backends import load_backend, open_backend
from egm_edge.boxes import Box
from egm_edge.bundle import Bundle
from egm_edge.errors import EgmError
from tests.build_engine.parity.conftest import Verify
from tests.build_engine.parity.tampering import copy_of, edit_manifest

KEY = ("qwen3_vl", "fp32")


def test_the_report_goes_into_the_bundle_and_only_there(
    bundles: dict[tuple[str, str], Path], tmp_path: Path, verify: Verify
) -> None:
    root = copy_of(bundles[KEY], tmp_path / "bundle")
    before = Bundle.open(root)
    _, report = verify(root)
    after = Bundle.open(root)  # every hash is checked
    assert after.manifest.parity == report
    assert (after.manifest.files, after.hash) == (before.manifest.files, before.hash)
    verify(root)
    assert Bundle.open(root).manifest.seal == after.manifest.seal  # the report holds no time and no chance


def test_no_store_leaves_the_bundle_alone(
    bundles: dict[tuple[str, str], Path],
    checkpoints: dict[str, Path],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    root = copy_of(bundles[KEY], tmp_path / "bundle")
    text = (root / "bundle.json").read_bytes()
    assert main([str(root), "--reference", str(checkpoints["qwen3_vl"]), "--no-store", "--max-new-tokens", "4"]) == 0
    assert (root / "bundle.json").read_bytes() == text
    shown = capsys.readouterr()
    assert "parity: verified" in shown.out and "vision embedding" in shown.out
    assert "comparing" in shown.err


def test_another_checkpoint_of_the_same_shape_is_not_its_reference(
    bundles: dict[tuple[str, str], Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from tests.support.tiny_checkpoints import write_tiny_qwen3_vl

    other = write_tiny_qwen3_vl(tmp_path / "other", seed=6)
    root = copy_of(bundles[KEY], tmp_path / "bundle")
    assert main([str(root), "--reference", str(other), "--json", "--max-new-tokens", "4"]) == 1
    assert json.loads(capsys.readouterr().out)["first_divergence"] == "vision embedding"


def test_grounding_rows_give_accuracy_beside_agreement(
    bundles: dict[tuple[str, str], Path],
    checkpoints: dict[str, Path],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    from build_engine.parity.cases import probes

    (tmp_path / "a.png").write_bytes(probes()[0].picture)
    row = {"image": "a.png", "expression": "the red mug", "box": [10, 20, 100, 200]}
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row | {"id": str(i)}) + "\n" for i in range(3)))
    arguments = ["--reference", str(checkpoints["qwen3_vl"]), "--data", str(tmp_path / "rows.jsonl"), "--limit", "2"]
    root = copy_of(bundles[KEY], tmp_path / "bundle")
    assert main([str(root), *arguments, "--json", "--max-new-tokens", "4"]) == 0
    boxes = json.loads(capsys.readouterr().out)["boxes"]
    assert (boxes["cases"], boxes["truths"], boxes["accuracy_points"]) == (2, 2, 0.0)


@pytest.mark.parametrize(
    ("status", "words"),
    [
        pytest.param("unverified", "never compared", id="unverified"),
        pytest.param("failed", "FAILED", id="failed"),
        pytest.param("changed", "changed after", id="changed since"),
        pytest.param("verified", "", id="verified"),
    ],
)
def test_opening_a_doubtful_bundle_warns_once(
    bundles: dict[tuple[str, str], Path], tmp_path: Path, verify: Verify, caplog: pytest.LogCaptureFixture, status: str, words: str
) -> None:  # fmt: skip
    root = copy_of(bundles[KEY], tmp_path / "bundle")
    if status in ("verified", "changed"):
        verify(root)
    if status == "changed":
        edit_manifest(root, lambda values: values["limits"].update(max_new_tokens=7))
    if status == "failed":
        edit_manifest(root, lambda values: values.update(parity={"status": "failed", "first_divergence": "pixels"}))
    with caplog.at_level(logging.WARNING):
        load_backend(Bundle.open(root), threads=1).close()
        assert not caplog.messages
        open_backend(Bundle.open(root), threads=1).close()
    assert len(caplog.messages) == bool(words)
    assert all(words in message and "egm verify" in message for message in caplog.messages)


def test_a_precision_without_bounds_is_refused(bundles: dict[tuple[str, str], Path], tmp_path: Path) -> None:
    root = copy_of(bundles[KEY], tmp_path / "bundle")
    edit_manifest(root, lambda values: values.update(precision="int3"))
    with pytest.raises(EgmError, match="int3"):
        main([str(root), "--reference", "egm-nano"])


def test_box_agreement_counts_what_it_says() -> None:
    box, near, far = Box(0, 0, 100, 100), Box(0, 0, 100, 95), Box(500, 500, 600, 600)
    pairs = [
        BoxPair(box, box, box, True),
        BoxPair(box, near, box, False),
        BoxPair(box, far, far, False),
        BoxPair(box, None, None, False),
        BoxPair(None, box, box, False),
    ]
    agreement = BoxAgreement.of(pairs)
    assert (agreement.cases, agreement.boxes, agreement.truths) == (5, 4, 4)
    assert (agreement.no_box_reference, agreement.no_box_backend, agreement.same_text) == (1, 1, 0.2)
    assert agreement.iou_mean == pytest.approx((1 + 0.95 + 0 + 0) / 4)
    assert (agreement.iou_close, agreement.iou_half) == (0.5, 0.5)
    assert (agreement.accuracy_reference, agreement.accuracy_backend, agreement.accuracy_points) == (0.5, 1.0, 50.0)
