#!/usr/bin/env bash
# Makes .venv-edgellm: NVIDIA's TensorRT Edge-LLM exporter and ModelOpt, at the versions of edgellm.txt (2.3 GB, about two
# minutes). They clash with .venv, so they live apart.
#
# Cached by a stamp over what decides its content; a second run takes no time. `--clean` starts from nothing.
# EGM_EDGELLM_PYTHON names the interpreter (3.10 to 3.12; 3.11 is what edgellm.txt was made with).
set -euo pipefail

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
venv=$root/.venv-edgellm
constraints=$root/.ci/constraints/edgellm.txt
cd "$root"

say() { printf '[edgellm_env] %s\n' "$*" >&2; }

find_python() {
  local candidate
  for candidate in ${EGM_EDGELLM_PYTHON:-} python3.11 /usr/bin/python3.11 python3.12 python3.10; do
    if "$candidate" -c 'import sys, venv, ensurepip; sys.exit(not (3, 10) <= sys.version_info[:2] <= (3, 12))' 2>/dev/null; then
      echo "$candidate"
      return
    fi
  done
  say "expected Python 3.10 to 3.12 with venv; found none; install python3.11 and python3.11-venv or set EGM_EDGELLM_PYTHON"
  exit 1
}

[ "${1:-}" = --clean ] && rm -rf "$venv"
# A venv does not survive being moved, so its place is part of the stamp.
wanted=$(cat "$constraints" "${BASH_SOURCE[0]}" | sha256sum | cut -c1-64)@$root
mkdir -p .ci/cache
exec 9>.ci/cache/edgellm_env.lock
flock 9
[ -f "$venv/.stamp" ] && [ "$(cat "$venv/.stamp")" = "$wanted" ] && "$venv/bin/python" -c '' 2>/dev/null && exit 0

python=$(find_python)
say "creating .venv-edgellm with $("$python" --version) (a few minutes)"
rm -rf "$venv"
"$python" -m venv "$venv"
pip() { "$venv/bin/python" -m pip install --quiet --disable-pip-version-check --constraint "$constraints" "$@"; }
# torch first and alone: resolved together with the rest, a newer one with its GPU packages may win.
pip torch==2.13.0
pip "tensorrt-edgellm[export]"
# The export extra alone cannot export a vision tower: it imports these three and names none of them.
pip nvidia-modelopt requests datasets
# A torchvision made for CUDA breaks transformers beside a CPU torch, and nothing here needs one.
if "$venv/bin/python" -m pip show --quiet torchvision 2>/dev/null; then
  "$venv/bin/python" -m pip uninstall --quiet --yes torchvision
fi
echo "$wanted" >"$venv/.stamp"
say "ready: $venv/bin/tensorrt-edgellm-export"
