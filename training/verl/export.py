"""`egm train export-verl CONFIG --out DIR`: train.parquet and val.parquet (prompts, encoded pictures, targets), reward.py, which
verl loads, and run.sh, every setting of the configuration in verl's words."""

from __future__ import annotations

import json
import logging
import shlex
from pathlib import Path
from typing import Any

from egm_edge.cli.parser import positive_int
from egm_edge.data.readers import load_rows
from egm_edge.files import check_place, make_folder, replace_text
from training.data.splits import TRAIN, VALIDATION, require_split
from training.stage_config import GrpoConfig, config_parser, load_grpo
from training.stages.process import quiet_offline
from training.verl.parquet import write_parquet
from training.verl.settings import verl_settings

GPUS = 8
log = logging.getLogger("egm.train")

_REWARD = '''"""Rewards of this run for verl, which calls `compute_score` with keywords. Needs egm-edge installed beside verl."""

import json

from training.verl.reward import score

REWARDS = json.loads({rewards!r})
SETTINGS = json.loads({settings!r})
IN_THOUGHT = {in_thought!r}


def compute_score(data_source, solution_str, ground_truth, extra_info=None, **_):
    return score(solution_str, ground_truth, REWARDS, SETTINGS, in_thought=IN_THOUGHT, extra_info=extra_info)
'''


def main(argv: list[str]) -> int:
    """Write the export; returns the exit code."""
    quiet_offline()
    parser = config_parser("egm train export-verl", "Write what verl needs to run this GRPO configuration.")
    parser.add_argument("--out", "-o", type=Path, required=True, help="directory to write")
    parser.add_argument("--nodes", type=positive_int, default=1)
    parser.add_argument("--gpus", type=positive_int, default=GPUS, help="per node (default: 8, as upstream)")
    arguments = parser.parse_args(argv)
    config = load_grpo(arguments.config, dict(arguments.overrides))
    export(config, arguments.out, nodes=arguments.nodes, gpus=arguments.gpus)
    script = arguments.out / "run.sh"
    print(
        json.dumps({"script": str(script)}, ensure_ascii=False) if arguments.json else f"start it with: bash {script}"
    )
    return 0


def export(config: GrpoConfig, out: Path, *, nodes: int = 1, gpus: int = GPUS) -> Path:
    """Write the directory; files appear one by one, each complete.

    Raises:
        EgmError: the checkpoint, a row or a picture cannot be used.
    """
    from training.stages.model import checkpoint_directory
    from training.stages.processor import EgmProcessor
    from training.stages.samples import require_usable

    processor = EgmProcessor(checkpoint_directory(config.model))
    images = Path(config.data.images)
    check_place(make_folder(out) / "run.sh")
    training = load_rows(Path(p) for p in config.data.train)
    require_split(training, TRAIN, "data.train")
    validation = load_rows(Path(p) for p in config.data.validation)
    require_split(validation, VALIDATION, "data.validation")
    for name, rows in (("train", training), ("val", validation)):
        if rows:
            limit = config.max_prompt_tokens
            require_usable(rows, processor, images, limit=limit, with_answer=False, task=config.task)
            texts = [processor.prompt_spec.task_text(row.expression, row.task) for row in rows]
            write_parquet(out / f"{name}.parquet", rows, texts, images, name)
    in_thought = processor.prompt_spec.in_thought
    rewards, settings = json.dumps(config.rewards), json.dumps(config.reward_settings)
    replace_text(out / "reward.py", _REWARD.format(rewards=rewards, settings=settings, in_thought=in_thought))
    replace_text(out / "run.sh", launch_script(config, out, nodes=nodes, gpus=gpus, validate=bool(validation)))
    contracts = {"pixel_spec": processor.pixel_spec.hash, "prompt_spec": processor.prompt_spec.hash}
    replace_text(out / "contracts.json", json.dumps(contracts, indent=2) + "\n")
    log.info("wrote %s", out)
    return out


def launch_script(config: GrpoConfig, out: Path, *, nodes: int, gpus: int, validate: bool) -> str:
    """run.sh: one command with every setting."""
    settings = verl_settings(config, out, nodes=nodes, gpus=gpus, validate=validate)
    lines = [f"  {shlex.quote(f'{key}={hydra_value(value)}')}" for key, value in settings.items()]
    joined = " \\\n".join(lines)
    return (
        "#!/usr/bin/env bash\n"
        "# GRPO on verl 0.9.1 (its own environment: `pip install 'verl[vllm]==0.9.1'`; egm-edge beside it with --no-deps).\n"
        "# Several nodes: docs/verl.md. Overrides go at the end of the command line.\n"
        f'set -euo pipefail\npython3 -m verl.trainer.main_ppo \\\n{joined} "$@"\n'
    )


def hydra_value(value: Any) -> str:
    """A value as Hydra's command line reads it."""
    return str(value).lower() if isinstance(value, bool) else str(value)
