"""`egm train ...`: parse the arguments after `train` and hand over. Loads torch only once a run really starts."""

from __future__ import annotations

import argparse
import importlib
import json
import logging
import math
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from egm_edge.bundle_from_checkpoint import check_weights
from egm_edge.cli.parser import Parser, positive_float, positive_int
from egm_edge.errors import CheckpointError, InputError
from egm_edge.files import check_place, make_folder, replace_text

if TYPE_CHECKING:
    import torch

_STOPPED = 130
_CONFIG = Path(__file__).parent / "configs" / "nano.yaml"
# Verbs with a command line of their own: module, what they do.
_STAGES = {
    "sft": ("training.sft", "reasoning SFT of a Qwen3-VL or InternVL3 checkpoint"),
    "grpo": ("training.grpo", "GRPO after SFT"),
    "plan": ("training.plan", "memory per GPU, steps, hours and deviations from upstream, before a run starts"),
    "export-verl": ("training.verl.export", "write the same GRPO run for verl"),
}


def main(argv: list[str]) -> int:
    """Run one training verb; returns the exit code. EgmError reaches the caller."""
    if argv and argv[0] in _STAGES:
        module, _ = _STAGES[argv[0]]
        return int(importlib.import_module(module).main(argv[1:]))
    parser = Parser(prog="egm train", description="Train EGM checkpoints.")
    verbs = parser.add_subparsers(dest="verb", required=True, metavar="VERB")
    for name, (_, summary) in _STAGES.items():
        verbs.add_parser(name, help=summary)
    nano = verbs.add_parser(
        "nano",
        help="train EGM-Nano on drawn and household scenes: base, three arms, comparison (resumes where it stopped)",
    )
    nano.add_argument("--config", type=Path, default=_CONFIG, help="YAML file (default: training/configs/nano.yaml)")
    nano.add_argument("--out", type=Path, default=Path("runs/nano"), help="directory of the runs (default: runs/nano)")
    nano.add_argument("--only", metavar="RUN", help="train this run of the configuration and stop: arms side by side")
    nano.add_argument(
        "--device", choices=("auto", "cpu", "cuda"), default="auto", help="default: a GPU when there is one"
    )
    nano.add_argument("--smoke", action="store_true", help="minutes that prove the path, not the model")
    nano.add_argument("--evaluate", type=Path, metavar="CHECKPOINT", help="measure a checkpoint instead of training")
    nano.add_argument(
        "--direct", action="store_true", help="with --evaluate: ask for the box at once, without a thought"
    )
    nano.add_argument("--count", type=positive_int, default=512, help="held-out scenes per suite with --evaluate (default: 512)")
    nano.add_argument("--table", type=Path, metavar="FILE", help="with --evaluate: write a Markdown table too")
    nano.add_argument(
        "--minutes", type=positive_float, default=math.inf, help="stop after so long, saved; the same command goes on"
    )
    nano.add_argument("--carry", type=Path, metavar="FILE", help="with --only: write its state, under 15 MB, and stop")
    nano.add_argument(
        "--carried", type=Path, metavar="FILE", help="with --only: go on from such a file of another machine"
    )
    nano.add_argument(
        "--suites", nargs="+", metavar="SUITE", help="with --evaluate: which suites of `egm data scenes` (default: all)"
    )
    nano.add_argument("--json", action="store_true", help="one JSON object on stdout")
    arguments = parser.parse_args(argv)
    if arguments.verb == "nano" and arguments.evaluate:
        of_training = ("config", "out", "only", "smoke", "minutes", "carry", "carried")
        nano.refuse(arguments, of_training, "no --evaluate", "both")
    elif arguments.verb == "nano":
        nano.refuse(arguments, ("direct", "count", "table", "suites"), "--evaluate CHECKPOINT")
    if arguments.carry:
        nano.refuse(arguments, ("smoke", "minutes", "carried"), "no --carry", "both")
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s", datefmt="%H:%M:%S", stream=sys.stderr)
    return _nano(arguments)


def _nano(arguments: argparse.Namespace) -> int:
    from training.nano.config import load_plan, smoke
    from training.nano.pipeline import train_plan
    from training.nano.state import carry
    from training.nano.train import prepare

    for place in filter(None, (arguments.table, arguments.carry)):
        check_place(place)
    device = prepare(arguments.device)
    if arguments.evaluate:
        return _evaluate(arguments, device)
    plan = load_plan(arguments.config)
    if arguments.only not in (None, *(run.name for run in plan.runs)):
        names = ", ".join(run.name for run in plan.runs)
        raise InputError(f"a run of {arguments.config} ({names})", repr(arguments.only), "name one of them with --only")
    if arguments.only is None and (arguments.carry or arguments.carried):
        raise InputError("--only RUN with --carry or --carried", "none", "name the run that the state belongs to")
    make_folder(arguments.out)
    if arguments.carry:
        carry(arguments.out / arguments.only / "state.pt", arguments.carry)
        print(json.dumps({"state": str(arguments.carry)}) if arguments.json else arguments.carry)
        return 0
    finished = train_plan(
        smoke(plan) if arguments.smoke else plan, arguments.out, device, arguments.only,
        carried_from=arguments.carried, wall_minutes=arguments.minutes,
    )  # fmt: skip
    if arguments.json:
        print(json.dumps({"checkpoint": str(finished) if finished else None, "out": str(arguments.out)}))
    else:
        print(finished or f"stopped; the same command goes on in {arguments.out}")
    return 0 if finished else _STOPPED


def _evaluate(arguments: argparse.Namespace, device: torch.device) -> int:
    from training.nano.card import controls, measured_values
    from training.nano.compare import Asked, measure
    from training.nano.suites import TABLE

    checkpoint: Path = arguments.evaluate
    if not (checkpoint / "config.json").is_file():
        raise CheckpointError(f"a checkpoint in {checkpoint}", "no config.json", "name the directory that holds it")
    check_weights(checkpoint)
    unknown = [name for name in arguments.suites or () if name not in TABLE]
    if unknown:
        raise InputError(f"suites of {', '.join(TABLE)}", repr(unknown[0]), "correct --suites")
    asked = Asked(checkpoint.name, checkpoint, not arguments.direct)
    suites = [TABLE[name] for name in arguments.suites or TABLE]
    with tempfile.TemporaryDirectory() as cache:
        found = measure([asked], suites, arguments.count, Path(cache), device)
    results = {suite: one[asked.name] for suite, one in found.items()}
    values = {suite: measured_values(one) for suite, one in results.items()}
    print(json.dumps(values, indent=None if arguments.json else 1))
    if arguments.table:
        replace_text(arguments.table, controls(results))
    return 0
