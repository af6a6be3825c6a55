"""The configuration reports everything that is wrong with it at once."""

from __future__ import annotations

from pathlib import Path

import pytest

from egm_edge.errors import InputError
from training.nano.config import load_config

SHIPPED = Path(__file__).parents[3] / "training" / "configs" / "nano.yaml"


def test_the_shipped_configuration_loads() -> None:
    config = load_config(SHIPPED)
    assert [stage.name for stage in config.stages] == ["vision", "decoder", "joint"]
    assert sum(config.frames.values()) == pytest.approx(1.0)


def test_every_problem_is_named(tmp_path: Path) -> None:
    path = tmp_path / "bad.yaml"
    path.write_text("seed: 1\nsped: 2\nshape: {wdth: 3}\nstages: [{name: a, cpu_minutes: 1, imagse: 4}, {name: b}]\n")
    with pytest.raises(InputError) as caught:
        load_config(path)
    for word in ("sped", "shape.wdth", "stages[0].imagse", "stages[1]", "cpu_minutes"):
        assert word in str(caught.value)


@pytest.mark.parametrize(
    "text", ["", "[1, 2]", "seed: [", "seed: 1\nstages: 3\n"], ids=["empty", "a list", "broken", "no stages"]
)
def test_not_a_configuration(tmp_path: Path, text: str) -> None:
    path = tmp_path / "bad.yaml"
    path.write_text(text)
    with pytest.raises(InputError, match=r"bad\.yaml"):
        load_config(path)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"absent\.yaml"):
        load_config(tmp_path / "absent.yaml")
