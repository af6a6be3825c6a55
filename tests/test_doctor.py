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
from egm_edge.errors import BundleError


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


def test_json_is_json(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("EGM_BUNDLE", raising=False)
    code = main(["--json"])
    values = json.loads(capsys.readouterr().out)
    assert values["main_job_works"] is (code == 0)
    assert {row["status"] for row in values["findings"]} <= {"ok", "note", "missing"}


def test_without_any_bundle_the_message_says_how_to_build_one(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "assets" / "egm-nano").mkdir(parents=True)
    (tmp_path / "assets" / "egm-nano" / "config.json").write_text("{}")
    monkeypatch.setattr(assets, "ASSETS_DIR", tmp_path / "assets")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.delenv("EGM_BUNDLE", raising=False)
    with pytest.raises(BundleError, match=r"egm build egm-nano --target cpu -o .*cache/egm-edge/egm-nano-cpu-") as caught:
        assets.resolve_bundle(None)
    before = str(caught.value)
    (tmp_path / "assets" / "egm-nano" / "config.json").write_text('{"changed": 1}')
    with pytest.raises(BundleError) as caught:
        assets.resolve_bundle(None)
    assert str(caught.value) != before  # another checkpoint has another default bundle
    monkeypatch.setenv("EGM_BUNDLE", "elsewhere")
    assert assets.resolve_bundle(None) == Path("elsewhere")
    assert assets.resolve_bundle("given") == Path("given")
