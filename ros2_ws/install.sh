#!/usr/bin/env bash
# Everything on a machine with ROS 2 from apt, in one command: what apt brings, what pip brings, and this workspace built.
#
#   source /opt/ros/$ROS_DISTRO/setup.bash && ros2_ws/install.sh && source ros2_ws/install/setup.bash
#
# What pip brings goes into ros2_ws/venv, which sees the system's packages: pip must not touch the system's Python (PEP 668).
# The workspace is built by that Python, so `ros2 run` and `ros2 launch` start the nodes in it without activating anything.
set -euo pipefail

: "${ROS_DISTRO:?expected a sourced ROS 2; found none; source /opt/ros/DISTRO/setup.bash}"
workspace=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
repository=$(dirname "$workspace")
venv=$workspace/venv
cd "$workspace"

for tool in rosdep colcon; do
  command -v "$tool" >/dev/null || {
    echo "expected $tool; found none; sudo apt install python3-rosdep python3-colcon-common-extensions python3-venv" >&2
    exit 1
  }
done

rosdep update --rosdistro "$ROS_DISTRO"
rosdep install --from-paths src --ignore-src -y --rosdistro "$ROS_DISTRO" --skip-keys egm-edge-pip

[ -x "$venv/bin/python" ] || python3 -m venv --system-site-packages "$venv"
touch "$venv/COLCON_IGNORE"
# numpy below 2: the message extensions from apt were compiled against numpy 1.
"$venv/bin/python" -m pip install --quiet "numpy<2" "$repository"
"$venv/bin/python" -m colcon build --symlink-install "$@"
echo "ready: source $workspace/install/setup.bash"
