"""Golden boxes of the recorded stream: `.venv/bin/python tests/ros/golden_boxes.py [BUNDLE]` writes them anew.

Run it when the shipped checkpoint changes. Every frame of examples/stream is grounded by the library itself, without ROS;
`test_ros_bag_regression.py` holds the node's messages against the result.
"""

from __future__ import annotations

import json
import os
import sys
import tempfile
from pathlib import Path
from typing import Any

REPOSITORY = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(REPOSITORY), str(REPOSITORY / "ros2_ws" / "src" / "egm_ros")]

from egm_ros.conversion import to_picture  # noqa: E402
from rosbags.highlevel import AnyReader  # noqa: E402

from egm_edge.assets import shipped_bundle  # noqa: E402
from egm_edge.grounder import Grounder  # noqa: E402

STREAM = REPOSITORY / "examples" / "stream" / "tabletop"
GOLDEN = Path(__file__).parent / "golden" / "tabletop.json"
EXPRESSIONS = ("the red ball", "the yellow box")
MAX_PIXELS = 10_000_000


def frames() -> list[tuple[int, Any]]:
    """(header stamp in ns, compressed image message) of every frame of the recording."""
    found = []
    with AnyReader([STREAM]) as reader:
        for connection, _, data in reader.messages():
            message: Any = reader.deserialize(data, connection.msgtype)
            found.append((message.header.stamp.sec * 1_000_000_000 + message.header.stamp.nanosec, message))
    return found


def write(bundle: Path) -> None:
    rows: dict[str, dict[str, list[float] | None]] = {}
    with Grounder.from_bundle(bundle) as grounder:
        for expression in EXPRESSIONS:
            rows[expression] = {}
            for stamp_ns, message in frames():
                picture = to_picture(message, MAX_PIXELS)
                box = grounder.ground(picture.array, expression, color=picture.color).box
                rows[expression][str(stamp_ns)] = [round(v, 2) for v in box.xyxy] if box else None
        golden = {"pixel_spec_hash": grounder.pixel_spec_hash, "boxes_xyxy_px": rows}
    GOLDEN.parent.mkdir(exist_ok=True)
    with tempfile.NamedTemporaryFile("w", dir=GOLDEN.parent, delete=False, suffix=".json") as part:
        part.write(json.dumps(golden, indent=0) + "\n")
    os.chmod(part.name, 0o644)
    os.replace(part.name, GOLDEN)
    counts = {expression: sum(box is not None for box in boxes.values()) for expression, boxes in rows.items()}
    print(f"{GOLDEN}: boxes of {len(frames())} frames: {counts}")


if __name__ == "__main__":
    write(Path(sys.argv[1]) if len(sys.argv) > 1 else shipped_bundle())
