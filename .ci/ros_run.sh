#!/usr/bin/env bash
# Runs a command with .venv-ros, the underlay and ros2_ws sourced, DDS kept to the loopback interface.
# EGM_ROS_DISTRO=kilted takes the other distribution that ros_env.sh makes.
#
# Everything is set by hand instead of by sourcing setup.bash: the same environment every time, and no re-execution of
# Python by the wheels' own start-up hook (_ROS_WHEELS_BOOTSTRAP_COMPLETE says that LD_LIBRARY_PATH is already right).
set -euo pipefail

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
. "$root/.ci/ros_paths.sh"
[ -x "$venv/bin/python" ] || { echo "expected $venv; found none; run .ci/ros_env.sh" >&2; exit 1; }
overlay=$workspace/install
underlay=$underlay/install
site=$(echo "$venv"/lib/python3.*/site-packages)
python_dir=$(basename "$(dirname "$site")")

join() { local IFS=:; echo "$*"; }

export PATH=$venv/bin:/usr/local/bin:/usr/bin:/bin
export AMENT_PREFIX_PATH=$overlay:$underlay:$venv CMAKE_PREFIX_PATH=$overlay:$underlay:$venv
export PYTHONPATH=$overlay/lib/$python_dir/site-packages:$underlay/lib/$python_dir/site-packages:$root
LD_LIBRARY_PATH=$(join "$overlay/lib" "$underlay/lib" "$venv/lib" "$site"/ros_*.libs)
export LD_LIBRARY_PATH _ROS_WHEELS_BOOTSTRAP_COMPLETE=1
export ROS_DISTRO=$distro ROS_VERSION=2 ROS_PYTHON_VERSION=3 RMW_IMPLEMENTATION=rmw_fastrtps_cpp
export ROS_AUTOMATIC_DISCOVERY_RANGE=LOCALHOST ROS_DOMAIN_ID=${ROS_DOMAIN_ID:-77}
# Two names for one file: Fast DDS 2.x (Humble, Jazzy) reads the first, 3.x (Kilted) the second.
profiles=$root/ros2_ws/src/egm_ros/config/fastdds_loopback.xml
export FASTRTPS_DEFAULT_PROFILES_FILE=$profiles FASTDDS_DEFAULT_PROFILES_FILE=$profiles
export ROS_LOG_DIR=${ROS_LOG_DIR:-${TMPDIR:-/tmp}/egm_ros_log}
exec "$@"
