"""The doctor: every finding has its place, gaps carry their command, and a broken part is seen."""

from __future__ import annotations

import json
from importlib.metadata import PackageNotFoundError
from pathlib import Path

import pytest

import egm_edge.doctor as doctor
from egm_edge import assets
from egm_edge.cli.doctor import main, report
from egm_edge.doctor import RUNTIME_PACKAGES, Status, examine, main_job_works


def finding(name: str) -> doctor.Finding:
    (found,) = (f for f in examine() if f.name == name)
    return found


def test_every_part_is_reported_once() -> None:
    names = [f.name for f in examine()]
    assert {"python", "cpu", "memory", "providers", "nvidia gpu", "ros 2", "egm-edge", *RUNTIME_PACKAGES} <= set(names)
    assert len(names) == len(set(names))
    assert "CPU" in finding("providers").found


def test_a_missing_runtime_package_is_missing_and_has_its_command(monkeypatch: pytest.MonkeyPatch) -> None:
    def version(name: str) -> str:
        if name == "tokenizers":
            raise PackageNotFoundError(name)
        return "1.0"

    monkeypatch.setattr(doctor, "version", version)
    monkeypatch.setattr(doctor, "find_spec", lambda name: None)
    found = finding("tokenizers")
    assert found.status is Status.MISSING
    assert found.hint == "pip install egm-edge"
    assert not main_job_works(examine())
    assert "does NOT work" in report(examine())


def test_a_package_that_pip_does_not_know_still_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    def version(name: str) -> str:
        raise PackageNotFoundError(name)

    monkeypatch.setattr(doctor, "version", version)
    assert finding("opencv-python-headless").status is Status.OK


def test_a_damaged_default_bundle_is_found(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("EGM_BUNDLE", str(tmp_path))
    assert finding("EGM_BUNDLE").status is Status.MISSING
    assert main([]) == 1
    monkeypatch.setenv("EGM_BUNDLE", "http://127.0.0.1:9")
    assert finding("EGM_BUNDLE").found == "http://127.0.0.1:9, a server address"


def test_json_is_json(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("EGM_BUNDLE", raising=False)
    code = main(["--json"])
    values = json.loads(capsys.readouterr().out)
    assert values["main_job_works"] is (code == 0)
    assert {row["status"] for row in values["findings"]} <= {"ok", "note", "missing"}


def test_an_installation_without_the_shipped_model_is_no_fault(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(assets, "ASSETS_DIR", tmp_path)
    assert finding("shipped model").status is Status.NOTE
