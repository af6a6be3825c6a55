#!/usr/bin/env bash
# Makes .venv-edgellm: NVIDIA's TensorRT Edge-LLM exporter and ModelOpt (2.3 GB, about two minutes; nothing when it is there).
# `egm setup edgellm`, with nothing of this project installed yet. `--clean` starts from nothing.
# EGM_EDGELLM_PYTHON names the interpreter (3.10 to 3.12; 3.11 is what the constraints were made with).
set -euo pipefail

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
[ "${1:-}" = --clean ] && rm -rf "$root/.venv-edgellm"
for python in ${EGM_EDGELLM_PYTHON:-} python3.11 /usr/bin/python3.11 python3.12 python3.10 python3; do
  if "$python" -c '' 2>/dev/null; then
    PYTHONPATH=$root exec "$python" -m egm_edge.cli setup edgellm --host --into "$root/.venv-edgellm" >&2
  fi
done
echo "[edgellm_env] expected a Python; found none; install python3.11 and python3.11-venv" >&2
exit 1
