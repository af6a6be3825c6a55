#!/usr/bin/env bash
# nano_results.sh BUNDLE DIR: every suite of EGM-Nano's card, confidence, accuracy against thought and deadline, latency.
# Killed, it goes on where it stopped; another bundle starts anew. COUNT and CURVE are questions a suite and a point.
set -euo pipefail
bundle=$1 results=$2
count=${COUNT:-500} curve=${CURVE:-200}
scenes=out/scenes-$count
run=out/nano-results/$(.venv/bin/python -c "import sys; from egm_edge.bundle import Bundle; print(Bundle.open(sys.argv[1]).hash[:12])" "$bundle")
suites="easy modal amodal-occluded negative absent unheard shrunk crowded wide hue jpeg household household-amodal household-absent household-instances solid shuffled"
rows=$(printf "$scenes/%s.jsonl " $suites)

.venv/bin/egm data scenes --count "$count" --suites "${suites// /,}" -o "$scenes"
# shellcheck disable=SC2086 # one file a suite
.venv/bin/egm evaluate "$bundle" --data $rows --out "$run/accuracy"
# shellcheck disable=SC2086
.venv/bin/egm calibrate "$bundle" --held-out $rows --limit "$curve" --shifted --out "$run/confidence" # the bundle's own map
.venv/bin/egm evaluate "$bundle" --data "$scenes/modal.jsonl" --limit "$curve" \
  --max-think-tokens "${THOUGHTS:-0,8,16,24,32,40,48,64,96}" --out "$run/thought"
.venv/bin/egm evaluate "$bundle" --data "$scenes/modal.jsonl" --limit "$curve" \
  --deadline-ms "${DEADLINES:-40,60,80,120,160,240,400}" --out "$run/deadline"
.venv/bin/egm measure "$bundle" --frames examples/frames --requests "${REQUESTS:-100}" --rate 5 \
  --sweep tokens=16,32,64,128 commands=1,2,4 --out "$run/latency"

mkdir -p "$results"
cp "$run/accuracy/report.json" "$results/accuracy.json"
cp "$run/latency/measure.md" "$results/latency.md"
cp "$run/confidence/calibration.md" "$results/confidence.md"
for part in accuracy thought deadline; do cp "$run/$part/report.md" "$results/$part.md"; done
for part in thought deadline; do
  for axis in budget milliseconds; do cp "$run/$part/accuracy_by_$axis.svg" "$results/${part}_by_$axis.svg"; done
done
echo "figures in $results"
