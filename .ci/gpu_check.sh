#!/usr/bin/env bash
# The PyTorch engine on a bare machine with a GPU, in nine minutes: parity, speed beside transformers, a trial of training.
# Needs torch, transformers, tokenizers, OpenCV and Pillow; installs nothing. Each part has a limit of its own, and leaves its
# findings in OUT (default $OUT, else out/gpu_check) whatever becomes of the others. --tiny: everything small, on any CPU.
set -uo pipefail
cd "$(dirname "$0")/.."
tiny=()
[ "${1:-}" = --tiny ] && { tiny=(--tiny); shift; }
out=${1:-${OUT:-out/gpu_check}}
work=$(mktemp -d "${TMPDIR:-/tmp}/gpu_check.XXXXXX")
trap 'rm -rf "$work"' EXIT
export PYTHONPATH=$PWD HF_HUB_OFFLINE=1 TOKENIZERS_PARALLELISM=false
mkdir -p "$out"
rm -f "$out"/{*.json,report.md,logs.txt}
python=${PYTHON:-$([ -x .venv/bin/python ] && echo .venv/bin/python || echo python3)}
limit_s=${GPU_CHECK_SECONDS:-530}
failed=()
rc=0

part() { # NAME SECONDS: at most what is left of the whole
  local left=$((limit_s - SECONDS))
  [ "$left" -gt 5 ] || { echo "$1: no time left"; failed+=("$1"); return; }
  local began=$SECONDS
  rc=0
  timeout -k 5 "$(($2 < left ? $2 : left))" "$python" -m tests.bench.gpu_check "$1" --out "$out" --work "$work" "${tiny[@]}" \
    "${@:3}" >"$work/$1.log" 2>&1 || { rc=$?; failed+=("$1"); tail -n 5 "$work/$1.log"; }
  { echo "== $1: $((SECONDS - began)) s"; tail -n 200 "$work/$1.log"; } >>"$out/logs.txt"
  echo "$1: $((SECONDS - began)) s"
}

declare -A making=()
for model in 2b 4b 8b; do
  part "make-$model" 240 & making[$model]=$!
done
part facts 60
part parity 90
plain=()
[[ "$rc" = [13] ]] && { echo "CUDA graphs fail here (see parity.json): measured without them"; plain=(--plain); }
for model in 2b 4b 8b; do
  wait "${making[$model]}"
  part "measure-$model" $([ "$model" = 8b ] && echo 130 || echo 90) "${plain[@]}"
  rm -rf "${work:?}/$model"
done
part train 80 --minutes "$([ ${#tiny[@]} -gt 0 ] && echo 0.05 || echo 1)"
limit_s=$((SECONDS + 30)) part report 20
cat "$out/report.md"
[ ${#failed[@]} -eq 0 ] || { echo "parts that failed or were cut: ${failed[*]}"; exit 1; }
