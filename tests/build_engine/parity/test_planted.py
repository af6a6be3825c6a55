"""Mistakes planted in this project's own code are found when a bundle is built and when it is verified, at the precisions that
people use, and are called by their stage. The whole table is long; a few of it stand for it every day."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from egm_edge.assets import shipped_checkpoint
from egm_edge.errors import BuildError
from tests.build_engine.parity.more_plants import MORE_PLANTS
from tests.build_engine.parity.planted import INTERN, NANO, PLANTS, QWEN, Plant

pytest.importorskip("transformers")
DAILY = ("cache written one", "sampling", "deep-stack one", "scale of one", "a dropped branch")


@pytest.fixture(scope="module")
def checkpoints(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    from tests.support.tiny_checkpoints import write_tiny_internvl3, write_tiny_qwen3_vl

    folder = tmp_path_factory.mktemp("planted")
    return {
        QWEN: write_tiny_qwen3_vl(folder / QWEN, seed=5, max_pixels=400_000),
        INTERN: write_tiny_internvl3(folder / INTERN, seed=5, max_patches=4),
        NANO: shipped_checkpoint(),
    }


def _verified(bundle: Path, checkpoint: Path, capsys: pytest.CaptureFixture[str]) -> str:
    """The stage that `egm verify` names, "" for none."""
    from build_engine.verify_cli import main

    capsys.readouterr()
    scenes = ["--scenes", "4"] if checkpoint == shipped_checkpoint() else []
    main([str(bundle), "--reference", str(checkpoint), "--json", "--no-store", "--max-new-tokens", "48", *scenes])
    return str(json.loads(capsys.readouterr().out)["first_divergence"])


@pytest.mark.parametrize("plant", [p for p in PLANTS if p.name.startswith(DAILY)], ids=lambda plant: plant.name)
@pytest.mark.slow
def test_a_planted_mistake_stops_the_build(
    plant: Plant, checkpoints: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from build_engine.compilers.cpu import build_cpu

    plant.apply(monkeypatch)
    with pytest.raises(BuildError, match=f"another {plant.stage}"):
        build_cpu(checkpoints[NANO], tmp_path / "bundle", precision="int4")


@pytest.mark.parametrize(
    ("plant", "family", "precision"),
    [
        pytest.param(plant, family, precision, id=f"{plant.name}, {family} {precision}")
        for plant in (*PLANTS, *MORE_PLANTS)
        for family in plant.families
        for precision in plant.precisions
    ],
)
@pytest.mark.long
def test_every_planted_mistake_is_found_at_build_and_verify(
    plant: Plant,
    family: str,
    precision: str,
    checkpoints: dict[str, Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    from build_engine.compilers.cpu import build_cpu

    with monkeypatch.context() as patch:
        plant.apply(patch)
        with pytest.raises(BuildError, match=f"another {plant.stage}"):
            build_cpu(checkpoints[family], tmp_path / "bundle", precision=precision)
    with monkeypatch.context() as patch:
        plant.apply(patch)
        build_cpu(checkpoints[family], tmp_path / "bundle", precision=precision, gate=False)
        assert _verified(tmp_path / "bundle", checkpoints[family], capsys) == plant.stage
