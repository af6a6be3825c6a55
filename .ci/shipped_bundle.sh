#!/usr/bin/env bash
# Builds the CPU bundle that ships in the wheel from the shipped checkpoint, and calibrates it on drawn scenes.
# To be run after the checkpoint, the bundle format or the decoding changed.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

count=${COUNT:-2000} # scenes a suite, half of them held out
scenes=out/shipped-scenes
bundle=out/shipped-bundle
egm() { .venv/bin/python -m egm_edge.cli "$@"; }

rm -rf "$bundle" "$scenes"
egm data scenes --count "$((2 * count))" --suites modal,negative --out "$scenes"
egm build egm-nano --target cpu -o "$bundle"
egm calibrate "$bundle" --data "$scenes/modal.jsonl" "$scenes/negative.jsonl" --shifted --out out/shipped-calibration
rm -rf egm_edge/assets/egm-nano-cpu
cp -r "$bundle" egm_edge/assets/egm-nano-cpu
