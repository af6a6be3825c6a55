#!/usr/bin/env bash
# emulation.sh MACHINE PROGRAM.py ARGS: run a Python program of this project on an emulated processor.
#   arm64: ARM64 with dot products (Cortex-A76), a Debian root and the project's wheels.   avx2: x86-64 without VNNI (Haswell).
# What is needed is downloaded once into .ci/cache/emulation (60 MB): Debian's qemu-user 10 (that of bookworm crashes at
# `import onnxruntime`), Debian packages by apt, wheels by pip. Exit code 77 where apt cannot fetch them.
set -euo pipefail

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
cache=$root/.ci/cache/emulation
machine=$1
shift
say() { printf '[emulation] %s\n' "$*" >&2; }
skip() { say "not available here: $*"; exit 77; }
command -v apt-get >/dev/null && command -v dpkg >/dev/null || skip "no apt"
mkdir -p "$cache"
exec 9>"$cache/lock"
flock 9

# fetch DIR ARCH SUITE PACKAGES: unpack Debian packages into DIR, with an apt state of their own.
fetch() {
  local into=$1 arch=$2 suite=$3 site state
  shift 3
  site=$(apt-get indextargets --format '$(SITE)' 2>/dev/null | grep -v security | sort -u | head -n 1)
  state=$(mktemp -d "$cache/apt.XXXXXX")
  mkdir -p "$state/lists/partial" "$into"
  echo "deb ${site:-http://deb.debian.org/debian} $suite main" >"$state/sources"
  local options=(-qq "-oAPT::Architecture=$arch" "-oAPT::Architectures=$arch" "-oDir::Etc::SourceList=$state/sources"
    -oDir::Etc::SourceParts=/dev/null "-oDir::State::Lists=$state/lists")
  if (apt-get "${options[@]}" update && cd "$state" && apt-get "${options[@]}" download "$@") >"$cache/apt.log" 2>&1; then
    for package in "$state"/*.deb; do dpkg -x "$package" "$into"; done
    rm -rf "$state"
  else
    rm -rf "$state" "$into"
    skip "apt could not fetch $1 of $suite/$arch (see $cache/apt.log)"
  fi
}

host=$(dpkg --print-architecture)
[ -d "$cache/qemu" ] || fetch "$cache/qemu" "$host" trixie qemu-user
case $machine in
avx2)
  [ "$host" = amd64 ] || skip "an x86-64 host is needed"
  flock -u 9
  exec "$cache/qemu/usr/bin/qemu-x86_64" -cpu Haswell-noTSX "$(readlink -f "$root/.venv/bin/python")" \
    -c 'import runpy, site, sys; site.addsitedir(sys.argv[1]); sys.path.insert(0, sys.argv[2]); del sys.argv[:3]; runpy.run_path(sys.argv[0], run_name="__main__")' \
    "$("$root/.venv/bin/python" -c 'import sysconfig; print(sysconfig.get_path("purelib"))')" "$root" "$@"
  ;;
arm64)
  [ -d "$cache/arm64" ] || fetch "$cache/arm64" arm64 bookworm libc6 libgcc-s1 libstdc++6 zlib1g libexpat1 python3.11-minimal \
    libpython3.11-minimal libpython3.11-stdlib libssl3 libffi8 libbz2-1.0 liblzma5 libsqlite3-0 libuuid1 libncursesw6 libtinfo6 \
    libreadline8 libcrypt1 libdb5.3 libnsl2 libtirpc3 libgomp1 media-types
  if [ ! -d "$cache/arm64-wheels" ]; then
    wheels=$(mktemp -d "$cache/wheels.XXXXXX")
    pins=()
    for name in onnxruntime numpy opencv-python-headless pillow tokenizers huggingface-hub typing-extensions; do
      version=$("$root/.venv/bin/python" -c "from importlib.metadata import version; print(version('$name'))" 2>/dev/null) || continue
      pins+=("$name==$version")
    done
    "$root/.venv/bin/python" -m pip download --quiet --disable-pip-version-check --no-deps --only-binary=:all: --python-version 3.11 \
      --implementation cp --platform manylinux_2_28_aarch64 --platform manylinux_2_27_aarch64 --platform manylinux_2_17_aarch64 \
      --platform manylinux2014_aarch64 --platform any -d "$wheels" "${pins[@]}" >"$cache/pip.log" 2>&1 ||
      { rm -rf "$wheels"; skip "pip could not fetch wheels for ARM64 (see $cache/pip.log)"; }
    "$root/.venv/bin/python" - "$wheels" "$cache/arm64-wheels.part" <<'PY'
import pathlib, sys, zipfile
for wheel in pathlib.Path(sys.argv[1]).glob("*.whl"):
    zipfile.ZipFile(wheel).extractall(sys.argv[2])
PY
    mv "$cache/arm64-wheels.part" "$cache/arm64-wheels"
    rm -rf "$wheels"
  fi
  flock -u 9
  PYTHONHOME=/usr PYTHONPATH=$cache/arm64-wheels:$root exec "$cache/qemu/usr/bin/qemu-aarch64" -cpu cortex-a76 -L "$cache/arm64" \
    "$cache/arm64/usr/bin/python3.11" "$@"
  ;;
*)
  say "expected arm64 or avx2, found '$machine'"
  exit 2
  ;;
esac
