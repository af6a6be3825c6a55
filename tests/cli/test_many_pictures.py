"""`egm ground IMAGE... --ask TEXT...` with the shipped bundle: files, folders, patterns, videos, and where boxes are saved."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from egm_edge.boxes import Box
from egm_edge.cli import main

FRAMES = Path(__file__).resolve().parents[2] / "examples" / "frames"


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Two sample frames in a folder that is the working directory."""
    monkeypatch.delenv("EGM_BUNDLE", raising=False)
    for name in ("tabletop_1.png", "tabletop_2.png"):
        shutil.copy(FRAMES / name, tmp_path)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def _rows(capsys: pytest.CaptureFixture[str]) -> list[dict[str, Any]]:
    return [json.loads(line) for line in capsys.readouterr().out.splitlines()]


@pytest.mark.parametrize("given", [["."], ["tabletop_1.png", "tabletop_2.png"], ["*.png"]], ids=["folder", "files", "pattern"])
def test_every_picture_is_asked_every_text(folder: Path, given: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["ground", *given, "--ask", "the red bowl", "the blue bottle", "--json"]) == 0
    rows = _rows(capsys)
    assert [Path(str(row["image"])).name for row in rows] == ["tabletop_1.png"] * 2 + ["tabletop_2.png"] * 2
    assert [row["expression"] for row in rows] == ["the red bowl", "the blue bottle"] * 2


def test_a_text_with_line_breaks_is_one_line(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for form in ([], ["--json"]):
        assert main(["ground", "tabletop_1.png", "the red\nbowl", *form]) == 0
        assert capsys.readouterr().out.count("\n") == 1


def test_frames_of_a_video_carry_their_number(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    frame = cv2.imread("tabletop_1.png")
    writer = cv2.VideoWriter("clip.avi", cv2.VideoWriter.fourcc(*"MJPG"), 10, frame.shape[1::-1])
    for _ in range(5):
        writer.write(frame)
    writer.release()
    assert main(["ground", "clip.avi", "--every", "2", "--ask", "the red bowl", "--json"]) == 0
    rows = _rows(capsys)
    assert [row["image"] for row in rows] == ["clip.avi#0", "clip.avi#2", "clip.avi#4"]
    assert {row["outcome"] for row in rows} == {"FOUND"}


def test_boxes_are_saved_in_a_folder_and_inputs_stay_as_they_are(folder: Path) -> None:
    before = {path.name: path.read_bytes() for path in folder.glob("*.png")}
    assert main(["ground", "tabletop_1.png", "tabletop_2.png", "--ask", "the red bowl", "--save", "boxes/"]) == 0
    assert sorted(path.name for path in (folder / "boxes").iterdir()) == ["tabletop_1.png", "tabletop_2.png"]
    assert {path.name: path.read_bytes() for path in folder.glob("*.png")} == before
    drawn = cv2.imread("boxes/tabletop_1.png")
    assert (drawn != cv2.imread("tabletop_1.png")).any()


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        pytest.param(["tabletop_1.png", "the bowl", "--save", "tabletop_1.png"], "a picture to read", id="onto the input"),
        pytest.param(["tabletop_1.png", "the bowl", "--save", "../{here}/tabletop_1.png"], "a picture to read", id="another way"),
        pytest.param(["tabletop_1.png", "the bowl", "--save", "link.png"], "a picture to read", id="a link to it"),
        pytest.param([".", "--ask", "the bowl", "--save", "."], "a picture to read", id="its folder"),
        pytest.param(["*.png", "--ask", "the bowl", "--save", "one.png"], "one file for", id="one file for several"),
        pytest.param(["tabletop_1.png", "tabletop_2.png", "the bowl"], "put texts behind --ask", id="a shell's glob"),
        pytest.param(["http://127.0.0.1:1/a.png", "--ask", "the bowl"], "--allow-urls", id="an address"),
    ],
)
def test_what_would_mislead_or_destroy_is_refused(
    folder: Path, arguments: list[str], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    (folder / "link.png").symlink_to(folder / "tabletop_1.png")
    before = (folder / "tabletop_1.png").read_bytes()
    assert main(["ground", *(a.replace("{here}", folder.name) for a in arguments)]) == 2
    assert said in capsys.readouterr().err
    assert (folder / "tabletop_1.png").read_bytes() == before


def test_a_picture_is_decoded_once(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from egm_edge import images

    decoded = []
    real = images._decoded
    monkeypatch.setattr(images, "_decoded", lambda *given: decoded.append(1) or real(*given))
    assert main(["ground", "tabletop_1.png", "the red bowl", "the blue bottle", "--save", "out.png"]) == 0
    assert len(decoded) == 1
    assert np.asarray(cv2.imread("out.png")).shape == np.asarray(cv2.imread("tabletop_1.png")).shape


def test_reduced_decoding_says_so_and_keeps_the_pixels_of_the_original(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    frame = cv2.imread("tabletop_1.png")
    height, width = frame.shape[:2]
    cv2.imwrite("large.jpg", cv2.resize(frame, (width * 4, height * 4), interpolation=cv2.INTER_CUBIC))
    asked = ["ground", "large.jpg", "the red bowl"]
    assert main([*asked, "--json"]) == 0
    assert main([*asked, "--json", "--reduced-decoding", "--save", "out.png"]) == 0
    whole, reduced = _rows(capsys)
    assert (whole["reduced_by"], reduced["reduced_by"]) == (1, 8)
    assert reduced["image_wh"] == [width * 4, height * 4]
    assert Box(*reduced["box"]).iou(Box(*whole["box"])) > 0.9
    assert cv2.imread("out.png").shape == (height * 4, width * 4, 3)
    assert main([*asked, "--reduced-decoding"]) == 0
    assert "decoded at 1/8: not the reference's pixels" in capsys.readouterr().out
    assert main(["ground", "tabletop_1.png", "the red bowl", "--reduced-decoding"]) == 0
    assert "decoded at" not in capsys.readouterr().out
