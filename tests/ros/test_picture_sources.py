"""Sources of the simulated camera, without ROS."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest
from egm_ros.picture_sources import FolderSource, TabletopSource, VideoSource, there_and_back

from egm_edge.errors import InputError
from egm_edge.synthetic.trajectories import sample_motion
from egm_edge.webcam import MOST_FAILED_READS, CameraLostError
from tests.support.cameras import FlakyCamera


def test_there_and_back_never_jumps() -> None:
    assert [there_and_back(i, 4) for i in range(9)] == [0, 1, 2, 3, 2, 1, 0, 1, 2]
    assert [there_and_back(i, 1) for i in range(3)] == [0, 0, 0]


def test_tabletop_pictures_are_the_sequence_and_its_truth() -> None:
    source = TabletopSource(5, "slide", (160, 120), rate_hz=5, seconds=1.0)
    scene = sample_motion(5, "slide", aspect=160 / 120, seconds=1.0)
    for index, moment in enumerate((0, 1, 2, 3, 4, 3, 2)):
        shot, picture = scene.frame(moment / 5, 160, 120), source.picture(index)
        assert np.array_equal(picture.array, shot.image)
        assert picture.truth is not None
        assert tuple(thing.modal for thing in picture.truth) == shot.modal
        assert tuple(thing.amodal for thing in picture.truth) == shot.amodal
    assert source.target_name in [thing.name for thing in picture.truth]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ((1, "waltz", (160, 120), 5.0, 1.0), "slide"),
        ((1, "slide", (7680, 4320), 30.0, 60.0), "lower seconds or the size"),
    ],
    ids=["an unknown motion names the known ones", "more than fits in memory"],
)
def test_a_bad_tabletop_says_what_to_do(arguments: tuple, words: str) -> None:
    with pytest.raises(InputError, match=words):
        TabletopSource(*arguments)


def test_a_folder_plays_in_order_of_names_and_ends_or_loops(tmp_path: Path) -> None:
    for number, level in ((2, 200), (1, 100)):
        cv2.imwrite(str(tmp_path / f"{number}.png"), np.full((20, 30, 3), level, np.uint8))
    (tmp_path / "notes.txt").write_text("not a picture")
    once = FolderSource(tmp_path, loop=False)
    levels = [once.picture(index) for index in range(3)]
    assert [int(picture.array[0, 0, 0]) for picture in levels if picture] == [100, 200]
    assert levels[2] is None
    looped = FolderSource(tmp_path, (15, 10)).picture(2)
    assert looped is not None
    assert looped.array.shape == (10, 15, 3) and int(looped.array[0, 0, 0]) == 100
    assert looped.truth is None


def test_a_damaged_picture_is_named(tmp_path: Path) -> None:
    (tmp_path / "broken.png").write_bytes(b"\x89PNG nothing more")
    with pytest.raises(InputError, match=r"broken\.png"):
        FolderSource(tmp_path).picture(0)


def test_an_empty_folder_and_a_missing_video_are_errors(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="set path:=FOLDER"):
        FolderSource(tmp_path)
    with pytest.raises(InputError, match="check path:=FILE"):
        VideoSource(str(tmp_path / "none.mp4"))


def test_a_video_file_plays_and_loops(tmp_path: Path) -> None:
    path = str(tmp_path / "clip.avi")
    writer = cv2.VideoWriter(path, cv2.VideoWriter_fourcc(*"MJPG"), 10, (64, 48))
    assert writer.isOpened()
    for level in (50, 120, 190):
        writer.write(np.full((48, 64, 3), level, np.uint8))
    writer.release()
    source = VideoSource(path)
    levels = [float(picture.array.mean()) for index in range(5) if (picture := source.picture(index))]
    assert levels == pytest.approx([50, 120, 190, 50, 120], abs=4)
    once = VideoSource(path, loop=False)
    assert [once.picture(index) is None for index in range(4)] == [False, False, False, True]


def test_a_webcam_may_miss_reads_and_is_lost_after_many_in_a_row(monkeypatch: pytest.MonkeyPatch) -> None:
    missing = MOST_FAILED_READS - 1
    camera = FlakyCamera([True, *[False] * missing, True, *[False] * missing, True]).installed(monkeypatch)
    source = VideoSource(0)
    levels = [picture.array[0, 0, 0] for index in range(3) if (picture := source.picture(index))]
    assert levels == [0, 1, 2]
    with pytest.raises(CameraLostError, match=r"webcam 0; found 10 failed reads in a row"):
        source.picture(3)
    assert camera.reads == 3 + 2 * missing + MOST_FAILED_READS
