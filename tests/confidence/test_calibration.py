"""Calibration: the figures against independent arithmetic, the fit against known odds, the map in the bundle's manifest."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from egm_edge.bundle import CONFIDENCE_MAP, Bundle
from egm_edge.cli import calibrate
from egm_edge.confidence.features import FEATURES, label_contradicts
from egm_edge.confidence.logistic_calibration import MIN_ROWS, LogisticCalibration, fit
from egm_edge.confidence.quality import area_under_risk_coverage, expected_calibration_error, risk_coverage
from egm_edge.confidence.store import keep_with, store
from egm_edge.errors import BundleError, InputError

FRAME = Path(__file__).resolve().parents[2] / "examples" / "frames" / "tabletop_1.png"


def rows_of(values: np.ndarray) -> list[dict[str, float]]:
    """Evidence whose first feature is `values`; the others are noise."""
    noise = np.random.default_rng(1).normal(size=(len(values), len(FEATURES)))
    return [dict(zip(FEATURES, [v, *row[1:]], strict=True)) for v, row in zip(values.tolist(), noise.tolist(), strict=True)]


def drawn(count: int, seed: int = 0) -> tuple[list[dict[str, float]], np.ndarray, np.ndarray]:
    """Evidence, right or wrong, and the true probability, sigmoid(1 + 2 v)."""
    rng = np.random.default_rng(seed)
    values = rng.normal(size=count)
    p = 1 / (1 + np.exp(-(1 + 2 * values)))
    return rows_of(values), rng.random(count) < p, p


@pytest.fixture(scope="module")
def fitted() -> LogisticCalibration:
    rows, right, _ = drawn(4000)
    return fit(rows, right, samples=1, fitted_on={"answers": 4000})


def test_known_odds_are_found_again(fitted: LogisticCalibration) -> None:
    rows, right, p = drawn(4000, seed=5)
    found = np.array([fitted(row) for row in rows])
    assert np.abs(found - p).mean() < 0.02
    assert expected_calibration_error(found, right) < 0.03
    assert np.argmax(np.abs(fitted.weights)) == 0


def test_confidence_rises_with_the_evidence_for_it_and_stays_a_probability(fitted: LogisticCalibration) -> None:
    rows = [dict.fromkeys(FEATURES, 0.0) | {FEATURES[0]: float(v)} for v in np.linspace(-1e9, 1e9, 9)]
    values = [fitted(row) for row in rows]
    assert values == sorted(values)
    assert 0.0 <= values[0] < values[-1] <= 1.0


def test_ece_and_risk_coverage_equal_plain_loops() -> None:
    rng = np.random.default_rng(3)
    confidence, right = rng.random(777), rng.random(777) < 0.6
    gap = 0.0
    for low in range(10):
        inside = [i for i in range(777) if low / 10 <= confidence[i] < (low + 1) / 10]
        if inside:
            gap += abs(sum(confidence[i] - right[i] for i in inside))
    assert expected_calibration_error(confidence, right) == pytest.approx(gap / 777)
    order = sorted(range(777), key=lambda i: -confidence[i])
    risks = [sum(not right[i] for i in order[:kept]) / kept for kept in range(1, 778)]
    coverage, risk = risk_coverage(confidence, right)
    assert risk.tolist() == pytest.approx(risks) and coverage[-1] == 1.0
    assert area_under_risk_coverage(confidence, right) == pytest.approx(sum(risks) / 777)


def test_a_perfect_order_has_the_least_risk() -> None:
    right = np.arange(100) < 70
    best, worst = (area_under_risk_coverage(score, right) for score in (-np.arange(100), np.arange(100)))
    assert best < worst
    assert risk_coverage(-np.arange(100), right)[1][:70].max() == 0.0


@pytest.mark.parametrize("right", [[True] * 200, [False] * 200, [True, False] * (MIN_ROWS // 2 - 1)])
def test_too_little_to_fit_on_is_said(right: list[bool]) -> None:
    with pytest.raises(InputError, match=f"at least {MIN_ROWS}"):
        fit(rows_of(np.zeros(len(right))), right, samples=1, fitted_on={})


def test_the_operating_point_gives_up_one_right_box_in_a_hundred(fitted: LogisticCalibration) -> None:
    rows, right, _ = drawn(4000)
    p = np.array([fitted(row) for row in rows])
    refused = p < fitted.accept_from
    assert 0.0 < fitted.accept_from <= 0.5
    assert (refused & right).sum() / right.sum() == pytest.approx(0.01, abs=0.003)
    assert refused[~right].mean() > 0.1


def test_the_operating_point_gives_up_no_more_of_a_split_that_is_less_sure() -> None:
    rows, right, _ = drawn(4000)
    less_sure = np.array([row[FEATURES[0]] for row in rows]) < -0.7
    splits = ["hidden" if low else "plain" for low in less_sure]
    together, apart = (fit(rows, right, samples=1, fitted_on={}, splits=names) for names in ((), splits))
    hidden = [row for row, low, good in zip(rows, less_sure, right, strict=True) if low and good]
    shares = [np.mean([m(row) < m.accept_from for row in hidden]) for m in (together, apart)]
    assert shares[0] > 0.03 and shares[1] == pytest.approx(0.01, abs=0.005)
    assert apart.weights == together.weights


@pytest.mark.parametrize(
    ("label", "expression", "expected"),
    [
        pytest.param("red mug", "the Red mug left of the ball", False, id="what was asked for"),
        pytest.param("red mug", "the largest mug", False, id="a colour that was not asked for"),
        pytest.param("red mug", "the blue mug", True, id="another colour"),
        pytest.param("blue star", "the blue mug", True, id="another thing"),
        pytest.param("red mug", "the leftmost object", False, id="anything"),
        pytest.param(None, "the mug", False, id="no label"),
    ],
)
def test_a_label_that_was_not_asked_for_is_evidence(label: str | None, expression: str, expected: bool) -> None:
    assert label_contradicts(label, expression) is expected


def test_a_box_below_the_operating_point_is_not_found(fitted: LogisticCalibration, own_bundle: Bundle) -> None:
    from egm_edge.grounder import Grounder
    from egm_edge.grounding import Outcome

    frames = np.random.default_rng(0).integers(0, 255, (20, 64, 64, 3), np.uint8)
    answers = {}
    for bias in (50.0, -50.0):
        store(own_bundle, replace(fitted, bias=bias, weights=(0.0,) * len(FEATURES), accept_from=0.2))
        with Grounder.from_bundle(own_bundle.root) as grounder:
            answers[bias] = [grounder.ground(frame, "the mug", color="rgb", max_think_tokens=0) for frame in frames]
    boxed = [i for i, answer in enumerate(answers[50.0]) if answer.outcome is Outcome.FOUND]
    assert boxed
    for index in boxed:
        refused = answers[-50.0][index]
        assert refused.outcome is Outcome.NOT_FOUND and refused.box is None
        assert refused.confidence is not None and refused.confidence < 0.2
        assert refused.candidates == answers[50.0][index].candidates


def test_a_checkpoints_own_map_goes_into_its_bundles(fitted: LogisticCalibration, tiny_qwen3_vl: Path, tmp_path: Path) -> None:
    from build_engine.compilers.cpu import build_cpu

    checkpoint = Path(shutil.copytree(tiny_qwen3_vl, tmp_path / "checkpoint"))
    keep_with(checkpoint, fitted)
    bundle = build_cpu(checkpoint, tmp_path / "bundle", precision="fp32", gate=False)
    assert LogisticCalibration.from_dict(bundle.manifest.calibration or {}) == fitted


def test_a_dry_run_writes_no_map(
    fitted: LogisticCalibration, own_bundle: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    row = {"image": FRAME.name, "expression": "the mug", "box": [1, 1, 9, 9]}
    (tmp_path / "rows.jsonl").write_text(json.dumps(row) + "\n")
    monkeypatch.setattr(calibrate, "_fitted", lambda *_: fitted)
    monkeypatch.setattr(calibrate, "_parts", lambda *_, shifted: [])
    given = [str(own_bundle.root), "--data", str(tmp_path / "rows.jsonl"), "--images", str(FRAME.parent)]
    given += ["--keep-in", str(tmp_path)]
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    assert calibrate.main([*given, "--dry-run"]) == 0
    assert {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()} == before
    assert calibrate.main(given) == 0
    assert LogisticCalibration.from_dict(json.loads((tmp_path / CONFIDENCE_MAP).read_text())) == fitted


def test_a_map_goes_into_the_manifest_and_out_again(fitted: LogisticCalibration, own_bundle: Bundle) -> None:
    bundle = own_bundle
    calibrated = store(bundle, fitted)
    assert calibrated.hash == bundle.hash and calibrated.manifest.seal != bundle.manifest.seal
    assert LogisticCalibration.from_dict(Bundle.open(bundle.root).manifest.calibration or {}) == fitted
    assert sorted(p.name for p in bundle.root.iterdir()) == sorted(p.name for p in calibrated.root.iterdir())
    assert store(calibrated, None).manifest.seal == bundle.manifest.seal


def test_a_changed_weight_is_no_calibrated_bundle(fitted: LogisticCalibration, own_bundle: Bundle, tmp_path: Path) -> None:
    root = store(own_bundle, fitted).root
    copy = Path(shutil.copytree(root, tmp_path / "copy"))
    manifest = json.loads((copy / "bundle.json").read_text())
    manifest["calibration"]["bias"] += 1
    (copy / "bundle.json").write_text(json.dumps(manifest))
    with pytest.raises(BundleError):
        Bundle.open(copy)


@pytest.mark.parametrize(
    "change",
    [{"method": "isotonic"}, {"bias": float("nan")}, {"scale": [0.0] * len(FEATURES)}, {"weights": [1.0]}, {"more": 1}],
)
def test_another_or_a_damaged_map_is_refused(fitted: LogisticCalibration, change: dict[str, object]) -> None:
    with pytest.raises(BundleError, match="egm calibrate"):
        LogisticCalibration.from_dict(fitted.to_dict() | change)
