"""foxglove_layout: this package's Foxglove layout for a namespace, to import there.

ros2 run egm_ros foxglove_layout --namespace left > left.json
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from ament_index_python.packages import get_package_share_directory

PLACEHOLDER = "NAMESPACE"


def layout(template: str, namespace: str) -> str:
    """Args: template: with PLACEHOLDER before every topic's own name; namespace: with or without slashes, "" for none."""
    inside = namespace.strip("/")
    return template.replace(f"/{PLACEHOLDER}", f"/{inside}" if inside else "")


def main() -> int:
    parser = argparse.ArgumentParser(prog="foxglove_layout", description=__doc__)
    parser.add_argument("--namespace", default="", help="of the node; with several cameras, that of the camera")
    wanted = parser.parse_args()
    template = Path(get_package_share_directory("egm_ros"), "foxglove", "grounding.json").read_text()
    sys.stdout.write(layout(template, wanted.namespace))
    return 0


if __name__ == "__main__":
    sys.exit(main())
