"""`egm train ...`: parse the arguments after `train` and hand over. Loads torch only once a run really starts."""

from __future__ import annotations

import argparse
import importlib
import logging
import sys
from dataclasses import replace
from pathlib import Path

from egm_edge.errors import CheckpointError, EgmError

_CONFIG = Path(__file__).parent / "configs" / "nano.yaml"
# Verbs with a command line of their own: module, what they do.
_STAGES = {
    "sft": ("training.sft", "reasoning SFT of a Qwen3-VL or InternVL3 checkpoint"),
    "grpo": ("training.grpo", "GRPO after SFT"),
    "export-verl": ("training.export_verl", "write the same GRPO run for verl"),
}


def main(argv: list[str]) -> int:
    """Run one training verb; returns the exit code."""
    if argv and argv[0] in _STAGES:
        module, _ = _STAGES[argv[0]]
        return int(importlib.import_module(module).main(argv[1:]))
    parser = argparse.ArgumentParser(prog="egm train", description="Train EGM checkpoints.")
    verbs = parser.add_subparsers(dest="verb", required=True, metavar="VERB")
    for name, (_, summary) in _STAGES.items():
        verbs.add_parser(name, help=summary)
    nano = verbs.add_parser("nano", help="train EGM-Nano on procedural tabletop scenes (resumes where it stopped)")
    nano.add_argument("--config", type=Path, default=_CONFIG, help="YAML file (default: training/configs/nano.yaml)")
    nano.add_argument("--out", type=Path, default=Path("runs/nano"), help="run directory (default: runs/nano)")
    nano.add_argument(
        "--smoke", action="store_true", help="a run of about a minute that proves the path, not the model"
    )
    nano.add_argument("--evaluate", type=Path, metavar="CHECKPOINT", help="measure a checkpoint instead of training")
    nano.add_argument("--count", type=int, default=512, help="held-out scenes per suite with --evaluate (default: 512)")
    nano.add_argument("--write-card", action="store_true", help="with --evaluate: write README.md into the checkpoint")
    arguments = parser.parse_args(argv)
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s", datefmt="%H:%M:%S", stream=sys.stderr)
    try:
        return _nano(arguments)
    except EgmError as error:
        print(f"egm train: {error}", file=sys.stderr)
        return error.exit_code


def _nano(arguments: argparse.Namespace) -> int:
    if arguments.evaluate:
        return _evaluate(arguments.evaluate, arguments.count, arguments.write_card, arguments.out)
    from training.nano.config import load_config
    from training.nano.train import train

    config = load_config(arguments.config)
    if arguments.smoke:
        stages = tuple(replace(stage, cpu_minutes=0.25) for stage in config.stages)
        config = replace(config, stages=stages, checkpoint_seconds=10.0, warmup_steps=20)
    print(train(config, arguments.out))
    return 0


def _evaluate(checkpoint: Path, count: int, write_card: bool, run: Path) -> int:
    import torch

    from training.nano.card import model_card
    from training.nano.evaluate import full_report, load_fast, report_json
    from training.nano.state import cost_of

    if not (checkpoint / "config.json").is_file():
        raise CheckpointError(f"a checkpoint in {checkpoint}", "no config.json", "name the directory that holds it")
    torch.set_num_threads(1)
    fast = load_fast(checkpoint)
    report = full_report(fast, count)
    print(report_json(report))
    if write_card:
        parameters = sum(weight.numel() for weight in fast.model.parameters())
        (checkpoint / "README.md").write_text(model_card(report, cost_of(run / "log.jsonl"), parameters))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
