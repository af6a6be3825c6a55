# make demo   build the CPU bundle of the shipped checkpoint, ground sample frames, run the ROS 2 node on a stream
# make test   lint, types and the tests, the ROS 2 ones included
# make test-long   soak, load, long fuzz, emulated processors: what a change should pass before it is released
# Everything is installed into .venv, .venv-ros and .venv-edgellm on demand, at the versions of .ci/constraints (the last: egm setup edgellm).

SHELL := bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help
.PHONY: help venv ros ros-kilted edgellm lint test test-long test-quick test-core test-ros test-ros-kilted test-arm test-avx2 demo demo-frames demo-ros nano-results shipped-bundle clean

PYTHON := .venv/bin/python
CHECKPOINT ?= egm_edge/assets/egm-nano
BUNDLE ?= out/egm-nano-cpu
PYTEST_ARGS ?=
# two tests at a time, those of one file in one process, files with slow ones first, one thread of arithmetic each
PARALLEL ?= -n 2 --dist loadfile --no-loadscope-reorder

help: ## show this
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):.*## /make \1\t/' | expand -t 20

venv: ## make .venv
	@.ci/venv.sh

ros: ## make .venv-ros (ROS 2 Jazzy) and build ros2_ws
	@.ci/ros_env.sh

ros-kilted: ## make .venv-ros-kilted (ROS 2 Kilted) and build ros2_ws for it
	@EGM_ROS_DISTRO=kilted .ci/ros_env.sh

edgellm: ## make .venv-edgellm: NVIDIA's exporter and ModelOpt, for Jetson and other Edge-LLM targets
	@.ci/edgellm_env.sh

lint: venv ## ruff and mypy
	.venv/bin/ruff check .
	.venv/bin/mypy

test: lint test-core test-ros ## lint, types, and the tests, slow and ROS 2 ones included

test-core: venv edgellm ## every test that needs no ROS 2
	OMP_NUM_THREADS=1 $(PYTHON) -m pytest $(PARALLEL) -m "not long" $(PYTEST_ARGS)

test-long: venv edgellm ros ## soak, load, long fuzz and whole-table tests, ROS 2 included
	OMP_NUM_THREADS=1 $(PYTHON) -m pytest $(PARALLEL) -m long $(PYTEST_ARGS)
	.ci/ros_run.sh python -m pytest tests/ros -m long $(PYTEST_ARGS)

test-quick: venv ## what runs in a minute or two: no slow tests, no ROS 2
	$(PYTHON) -m pytest -m "not slow and not long" $(PYTEST_ARGS)

test-ros: venv ros ## the ROS 2 tests, over real DDS on the loopback interface
	.ci/ros_run.sh python -m pytest tests/ros -m "not long" $(PYTEST_ARGS)

test-ros-kilted: venv ros-kilted ## the same under ROS 2 Kilted
	EGM_ROS_DISTRO=kilted .ci/ros_run.sh python -m pytest tests/ros -m "not long" $(PYTEST_ARGS)

test-arm: venv ## ground under an emulated ARM64 processor, boxes compared with native ones (needs apt)
	$(PYTHON) -m pytest tests/emulated -s -k arm64 $(PYTEST_ARGS)

test-avx2: venv ## the same under an x86-64 processor without VNNI
	$(PYTHON) -m pytest tests/emulated -s -k avx2 $(PYTEST_ARGS)

demo: demo-frames demo-ros ## checkpoint -> bundle -> boxes in pictures -> boxes on a ROS 2 topic

demo-frames: venv
	.venv/bin/egm build $(CHECKPOINT) --target cpu -o $(BUNDLE)
	$(PYTHON) examples/ground_frames.py $(BUNDLE) examples/frames out/demo
	$(PYTHON) examples/ground_frames.py $(BUNDLE) examples/household out/demo

demo-ros: venv ros
	.ci/demo_ros.sh $(BUNDLE)

nano-results: venv ## the published figures of EGM-Nano, into docs/egm-nano (on an idle machine)
	.venv/bin/egm build $(CHECKPOINT) --target cpu -o $(BUNDLE)
	.ci/nano_results.sh $(BUNDLE) docs/egm-nano

shipped-bundle: venv ## build and calibrate the bundle that ships in the wheel, after the checkpoint or the format changed
	.ci/shipped_bundle.sh

clean: ## remove what the targets above made, environments excepted
	rm -rf out build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis
