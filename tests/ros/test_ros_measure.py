"""The README's figures, measured short: camera rate, CPU and latency with the model busy, and cancel with the real bundle.

The bounds are those of a quiet 2-core machine with room for a busy one; the figures themselves are printed.
"""

from __future__ import annotations

from pathlib import Path

import pytest
from conftest import REPOSITORY
from test_ros_real_bundle import bundle  # noqa: F401 - a fixture

from tests.bench.ros.cancel import measure_cancel
from tests.bench.ros.stream import HEADER, measure_stream

pytestmark = [pytest.mark.ros, pytest.mark.long]

PICTURE = str(REPOSITORY / "examples" / "frames" / "tabletop_1.png")
EXPRESSION = "the red bowl"


@pytest.mark.parametrize("size", [(640, 480), (1280, 720)], ids=["640x480", "1280x720"])
def test_boxes_at_camera_rate_while_the_model_is_busy(
    bundle: Path,  # noqa: F811
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    size: tuple[int, int],
) -> None:
    figures = measure_stream({"bundle_path": bundle}, PICTURE, EXPRESSION, size, 8.0, tmp_path / "node.log")
    with capsys.disabled():
        print(f"\n{HEADER}\n{figures.row()}")
    assert figures.answers_hz > 1.0, "the model was busy"
    assert figures.output_hz > 0.85 * figures.camera_hz, "every frame that was taken gets its boxes"
    assert figures.cpu_percent < 60.0, "35 on a quiet machine"
    oldest_ms, longest_gap_ms = figures.handover_ms
    assert oldest_ms < longest_gap_ms + 20.0, "only the newest frame is handed over"


def test_a_cancelled_goal_gives_way(bundle: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:  # noqa: F811
    figures = measure_cancel({"bundle_path": bundle}, PICTURE, EXPRESSION, 25, tmp_path / "node.log")
    with capsys.disabled():
        print(f"\n{figures.text()}")
    assert figures.count + figures.too_late == 25
    assert not figures.count or figures.p95_ms < 150.0
