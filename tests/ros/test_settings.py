"""The settings, and the parameter file that documents them."""

from __future__ import annotations

from dataclasses import fields

import pytest
import yaml
from conftest import REPOSITORY
from egm_ros.parameter_fields import parameter_name
from egm_ros.settings import Settings

from egm_edge.errors import InputError

PACKAGE = REPOSITORY / "ros2_ws" / "src" / "egm_ros"


def test_the_parameter_file_holds_every_default_and_a_comment_above_each() -> None:
    text = (PACKAGE / "config" / "grounding.yaml").read_text()
    values = yaml.safe_load(text)["/**"]["ros__parameters"]
    assert values == {parameter_name(item): item.default for item in fields(Settings)}
    lines = text.splitlines()
    for name in values:
        index = next(i for i, line in enumerate(lines) if line.strip().startswith(f"{name}:"))
        assert lines[index - 1].strip().startswith("#"), name


def test_the_readme_lists_every_parameter() -> None:
    text = (PACKAGE / "README.md").read_text()
    assert [item.name for item in fields(Settings) if f"| `{parameter_name(item)}` |" not in text] == []


def test_all_problems_are_reported_together() -> None:
    with pytest.raises(InputError) as refusal:
        Settings(task="telepathic", deadline_s=-1.0, threads=True)  # type: ignore[arg-type]
    message = str(refusal.value)
    assert "task must be one of modal, amodal, got 'telepathic'" in message
    assert "deadline_s must be in 0 to 3600, got -1.0" in message
    assert "threads must be of type int, got True" in message


def test_not_a_number_is_out_of_range() -> None:
    with pytest.raises(InputError, match="max_frame_age_s"):
        Settings(max_frame_age_s=float("nan"))
