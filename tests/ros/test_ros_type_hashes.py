"""The stand-in for vision_msgs must be the published vision_msgs on the wire."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from ament_index_python.packages import get_package_share_directory

pytestmark = pytest.mark.ros

# From builds of the published vision_msgs 4.1.1 and sensor_msgs of Jazzy.
PUBLISHED = {
    "vision_msgs/msg/Detection2DArray": "RIHS01_214274120007f4a683866481336b70310268cfa107aebe9d594a6acf75bda968",
    "vision_msgs/msg/Detection2D": "RIHS01_0d12b69df5c593b3455b7346fac8205437a7d4bcb09b9e0e0b2dde787ded38ea",
    "vision_msgs/msg/BoundingBox2D": "RIHS01_008eacbb0cf8f26e83795547bed013eec3675485ef386ec056d80eaaf1c1ce2f",
    "vision_msgs/msg/ObjectHypothesisWithPose": "RIHS01_41c12344c0396c48b81df12467c192d99b2a0eb1463c5c37194e4223251c80bc",
    "vision_msgs/msg/Detection3DArray": "RIHS01_793f5eab9595ac1c0da07873cc859db42eae51f0ee76056db8562515d830e018",
    "sensor_msgs/msg/Image": "RIHS01_d31d41a9a4c4bc8eae9be757b0beed306564f7526c88ea6a4588fb9582527d47",
}


@pytest.mark.parametrize("name", PUBLISHED)
def test_type_hash_equals_the_published_one(name: str) -> None:
    package, _, message = name.split("/")
    described = Path(get_package_share_directory(package), "msg", f"{message}.json").read_text()
    hashes = {entry["type_name"]: entry["hash_string"] for entry in json.loads(described)["type_hashes"]}
    assert hashes[name] == PUBLISHED[name]
