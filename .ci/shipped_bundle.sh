#!/usr/bin/env bash
# Builds the CPU bundle that ships in the wheel from the shipped checkpoint, and calibrates it on scenes of both worlds, with
# seeds apart from those of training and of the published figures. The map is kept beside the weights, too.
# To be run after the checkpoint, the bundle format or the decoding changed.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

count=${COUNT:-350} # scenes a suite, half of them held out
suites="easy modal amodal-occluded absent unheard shrunk crowded wide hue jpeg household household-amodal household-absent solid shuffled"
scenes=out/shipped-scenes
bundle=out/shipped-bundle
egm() { .venv/bin/python -m egm_edge.cli "$@"; }

rm -rf "$bundle" "$scenes"
egm data scenes --fit --count "$count" --suites "${suites// /,}" --out "$scenes"
egm build egm-nano --target cpu -o "$bundle"
# shellcheck disable=SC2046 # one file a suite
egm calibrate "$bundle" --data $(printf "$scenes/%s.jsonl " $suites) --shifted --out out/shipped-calibration \
  --keep-in egm_edge/assets/egm-nano
rm -rf egm_edge/assets/egm-nano-cpu
cp -r "$bundle" egm_edge/assets/egm-nano-cpu
