#!/usr/bin/env bash
# Makes .venv: the project in editable mode with everything that its tests and tools need, at the versions of dev.txt.
#
# Cached by a stamp over what decides its content; a second run takes no time. `--clean` starts from nothing.
# EGM_PYTHON names the interpreter (3.11 or newer; 3.11 is what dev.txt was made with).
set -euo pipefail

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
venv=$root/.venv
constraints=$root/.ci/constraints/dev.txt
cd "$root"

say() { printf '[venv] %s\n' "$*" >&2; }

find_python() {
  local candidate
  for candidate in ${EGM_PYTHON:-} python3.11 /usr/bin/python3.11 python3.12 python3.13 python3; do
    if "$candidate" -c 'import sys, venv, ensurepip; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then
      echo "$candidate"
      return
    fi
  done
  say "expected Python 3.11 or newer with venv; found none; install python3.11 and python3.11-venv or set EGM_PYTHON"
  exit 1
}

[ "${1:-}" = --clean ] && rm -rf "$venv"
wanted=$(cat "$constraints" pyproject.toml "${BASH_SOURCE[0]}" | sha256sum | cut -c1-64)
[ -f "$venv/.stamp" ] && [ "$(cat "$venv/.stamp")" = "$wanted" ] && "$venv/bin/python" -c '' 2>/dev/null && exit 0

if ! "$venv/bin/python" -m pip --version >/dev/null 2>&1; then
  python=$(find_python)
  say "creating .venv with $("$python" --version) (a few minutes)"
  rm -rf "$venv"
  "$python" -m venv "$venv"
fi
rm -f "$venv/.stamp"
pip() { "$venv/bin/python" -m pip install --quiet --disable-pip-version-check --constraint "$constraints" "$@"; }
# torch comes first and alone: resolved together with the rest, a newer one with its GPU packages may win.
pip torch==2.13.0
pip --editable '.[test]'
# Only a data file of it is read (the vocabulary's ranks, in tests); its own dependencies are not wanted.
pip --no-deps dashscope
# verl judges what `egm train export-verl` writes. Of what it asks for, ray, vllm and an older transformers are left out.
pip --no-deps verl hydra-core omegaconf antlr4-python3-runtime tensordict torchdata pyvers cloudpickle codetiming orjson
echo "$wanted" >"$venv/.stamp"
say "ready: $("$venv/bin/egm" --version)"
