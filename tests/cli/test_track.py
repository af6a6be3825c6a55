"""`egm track` on drawn clips: what it prints, writes and refuses."""

from __future__ import annotations

import json
import shutil
import threading
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pytest

from egm_edge.boxes import Box
from egm_edge.cli import main
from egm_edge.cli.track import _Asker
from egm_edge.grounding import Grounding, Outcome, Task
from egm_edge.tracking import Tracker
from tests.support.cameras import FlakyCamera
from tests.tracking.drawings import Shot, rectangle

FRAMES = Path(__file__).resolve().parents[2] / "examples" / "frames"
COUNT = 8


@pytest.fixture
def shots() -> list[Shot]:
    return rectangle(lambda index: (40 + 6 * index, 60), COUNT, wh=(320, 240))


@pytest.fixture
def clip(tmp_path: Path, shots: list[Shot], monkeypatch: pytest.MonkeyPatch) -> Path:
    """clip.avi in the working directory; the rectangle starts at 40,60,120,120."""
    monkeypatch.chdir(tmp_path)
    _write_video("clip.avi", [shot.image for shot in shots])
    return tmp_path


def _write_video(name: str, images: list[np.ndarray]) -> None:
    writer = cv2.VideoWriter(name, cv2.VideoWriter.fourcc(*"MJPG"), 25, images[0].shape[1::-1])
    for image in images:
        writer.write(cv2.cvtColor(image, cv2.COLOR_RGB2BGR))
    writer.release()


def test_a_box_is_carried_printed_recorded_and_drawn(clip: Path, shots: list[Shot], capsys) -> None:
    given = ["track", "clip.avi", "--box", "40,60,120,120", "--json", "--save", "out.avi", "--record", "boxes.jsonl"]
    assert main(given) == 0
    printed = capsys.readouterr().out
    assert (clip / "boxes.jsonl").read_text() == printed
    rows = [json.loads(line) for line in printed.splitlines()]
    assert [row["frame"] for row in rows] == [f"clip.avi#{i}" for i in range(COUNT)]
    assert [row["state"] for row in rows] == ["GROUNDED"] + ["PROPAGATED"] * (COUNT - 1)
    assert rows[-1]["age_ms"] == pytest.approx(1000 * (COUNT - 1) / 25, abs=1)
    assert shots[-1].box is not None and Box(*rows[-1]["box"]).iou(shots[-1].box) > 0.9
    drawn = cv2.VideoCapture("out.avi")
    assert int(drawn.get(cv2.CAP_PROP_FRAME_COUNT)) == COUNT
    assert [path.name for path in clip.glob(".*")] == []


def test_a_saved_video_has_every_frame_whatever_its_size(clip: Path, shots: list[Shot]) -> None:
    (clip / "frames").mkdir()
    for index, shot in enumerate(shots):
        image = shot.image if index < 5 else cv2.resize(shot.image, (160, 120))
        cv2.imwrite(f"frames/{index:04d}.png", cv2.cvtColor(image, cv2.COLOR_RGB2BGR))
    assert main(["track", "frames", "--box", "40,60,120,120", "--save", "out.avi"]) == 0
    saved = cv2.VideoCapture("out.avi")
    images = [image for good, image in (saved.read() for _ in range(COUNT + 1)) if good]
    assert [image.shape for image in images] == [(240, 320, 3)] * COUNT


def test_a_folder_of_frames_and_a_line_for_people(clip: Path, shots: list[Shot], capsys) -> None:
    (clip / "frames").mkdir()
    for index, shot in enumerate(shots):
        cv2.imwrite(f"frames/{index:04d}.png", cv2.cvtColor(shot.image, cv2.COLOR_RGB2BGR))
    given = ["track", "frames", "--box", "40,60,120,120", "1,1,20,20", "--fps", "10", "--every", "2"]
    assert main(given) == 0
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 2 * COUNT // 2
    assert lines[-2].startswith("frames/0006.png  PROPAGATED") and lines[-2].endswith("600 ms  box 1")


def test_a_lost_camera_is_told_and_what_was_recorded_is_kept(clip: Path, capsys, monkeypatch: pytest.MonkeyPatch) -> None:
    camera = FlakyCamera([True, True, False, False, True]).installed(monkeypatch)
    assert main(["track", "camera:0", "--box", "1,1,20,20", "--record", "boxes.jsonl"]) == 2
    captured = capsys.readouterr()
    assert "a frame of camera:0; found 10 failed reads in a row" in captured.err and captured.err.count("\n") == 1
    assert len(captured.out.splitlines()) == len((clip / "boxes.jsonl").read_text().splitlines()) == 3
    assert camera.released


def test_an_answer_arrives_as_late_as_it_took(clip: Path, capsys, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("EGM_BUNDLE", raising=False)
    shutil.copy(FRAMES / "tabletop_1.png", clip)
    image = cv2.cvtColor(cv2.imread("tabletop_1.png"), cv2.COLOR_BGR2RGB)
    _write_video("still.avi", [image] * 6)
    assert main(["track", "still.avi", "--fps", "0.2", "--ask", "the red bowl", "--json"]) == 0
    rows = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [row["object"] for row in rows] == ["the red bowl"] * 5, "asked at the first frame, known at the second"
    assert {row["age_ms"] for row in rows} == {5000.0}


@pytest.mark.parametrize(
    ("given", "words"),
    [
        pytest.param(["clip.avi"], "--box", id="nothing to follow"),
        pytest.param(["clip.avi", "--box", "5,5,1,1"], "X1 < X2", id="an inverted box"),
        pytest.param(["clip.avi", "--box", "1,1,9,9", "--save", "clip.avi"], "place of its own", id="over its input"),
        pytest.param(["clip.avi", "--box", "1,1,9,9", "--save", "out.txt"], "video name", id="no video"),
        pytest.param(["clip.avi", "--box", "1,1,9,9", "--save", "no/out.avi"], "mkdir", id="no folder"),
        pytest.param(["nothing.avi", "--box", "1,1,9,9"], "nothing.avi", id="no source"),
        pytest.param(["clip.avi", "--box", "1,1,9,9", "--follower", "vit"], "model files", id="no model file"),
        pytest.param(
            ["clip.avi", "--box", "1,1,9,9", "--follower", "vit", "--model-file", "clip.avi"], "ONNX", id="no ONNX file"
        ),
    ],
)
def test_refused_in_one_line(clip: Path, given: list[str], words: str, capsys) -> None:
    before = sorted(path.name for path in clip.iterdir())
    try:
        code = main(["track", *given])
    except SystemExit as stopped:
        code = stopped.code
    captured = capsys.readouterr()
    assert code == 2
    assert captured.err.startswith("egm: ") and captured.err.count("\n") == 1 and words in captured.err
    assert sorted(path.name for path in clip.iterdir()) == before


def test_the_end_does_not_wait_for_a_slow_answer() -> None:
    asked = threading.Event()

    class Slow:
        def warm_up(self) -> None:
            pass

        def ground(self, image: np.ndarray, text: str, *, should_stop: Callable[[], bool], **_: object) -> Grounding:
            asked.set()
            assert wait_until(should_stop)
            return Grounding(Outcome.CANCELLED, text, Task.MODAL, (8, 8))

    def wait_until(true: Callable[[], bool], polls: int = 3000) -> bool:
        return any(true() or threading.Event().wait(0.02) for _ in range(polls))

    tracker = Tracker()
    with _Asker(Slow(), ["the mug"], Task.MODAL, tracker, live=True) as asker:  # type: ignore[arg-type]
        tracker.push(np.zeros((8, 8, 3), np.uint8), 1)
        asker.step(np.zeros((8, 8, 3), np.uint8), 1)
        assert asked.wait(60)
    assert asker._pending is not None and asker._pending[2].result()[0].outcome is Outcome.CANCELLED
