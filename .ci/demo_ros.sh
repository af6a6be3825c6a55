#!/usr/bin/env bash
# The ROS 2 half of the demo: .ci/demo_ros.sh BUNDLE_DIR. Exit code 0 only if the node published boxes for every sentence.
set -euo pipefail

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
[ $# -eq 1 ] || { echo "usage: .ci/demo_ros.sh BUNDLE_DIR" >&2; exit 2; }
"$root/.ci/ros_env.sh"
export ROS_DOMAIN_ID=${ROS_DOMAIN_ID:-101} # outside the range that the tests draw from
exec "$root/.ci/ros_run.sh" python "$root/.ci/demo_ros.py" "$1"
