"""`egm train export-verl CONFIG --out DIR`: train.parquet and val.parquet (prompts, encoded pictures, targets), reward.py, which
verl loads, and run.sh, every setting of the configuration in verl's words."""

from __future__ import annotations

import json
import logging
import shlex
import sys
from pathlib import Path
from typing import Any

from egm_edge.cli.parser import Parser
from egm_edge.errors import EgmError
from egm_edge.files import whole_file
from training.data.sources import load_rows
from training.data.splits import TRAIN, VALIDATION, require_split
from training.stage_config import GrpoConfig, load_grpo
from training.stages.launch import quiet_offline
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
    parser = Parser(prog="egm train export-verl", description="Write what verl needs to run this GRPO configuration.")
    parser.add_argument("config", help="YAML file, or the name of a shipped one (qwen3-vl-2b-modal-grpo)")
    parser.add_argument("--out", "-o", type=Path, required=True, help="directory to write")
    parser.add_argument("--nodes", type=int, default=1)
    parser.add_argument("--gpus", type=int, default=GPUS, help="per node (default: 8, as upstream)")
    parser.add_argument(
        "--set", action="append", default=[], metavar="KEY=VALUE", help="override one setting", dest="sets"
    )
    parser.add_argument("--json", action="store_true", help="one JSON object")
    arguments = parser.parse_args(argv)
    try:
        overrides = dict(pair.partition("=")[::2] for pair in arguments.sets)
        config = load_grpo(arguments.config, overrides)
        export(config, arguments.out, nodes=arguments.nodes, gpus=arguments.gpus)
    except EgmError as error:
        print(f"egm train export-verl: {error}", file=sys.stderr)
        return error.exit_code
    script = arguments.out / "run.sh"
    print(json.dumps({"script": str(script)}, ensure_ascii=False) if arguments.json else f"start it with: bash {script}")
    return 0


def export(config: GrpoConfig, out: Path, *, nodes: int = 1, gpus: int = GPUS) -> Path:
    """Write the directory; files appear one by one, each complete.

    Raises:
        EgmError: the checkpoint, a row or a picture cannot be used.
    """
    from training.stages.answers import opens_thought
    from training.stages.model import checkpoint_directory
    from training.stages.processor import EgmProcessor
    from training.stages.samples import require_usable

    processor = EgmProcessor(checkpoint_directory(config.model))
    images = Path(config.data.images)
    out.mkdir(parents=True, exist_ok=True)
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
    in_thought = opens_thought(processor.prompt_spec)
    rewards, settings = json.dumps(config.rewards), json.dumps(config.reward_settings)
    _replace(out / "reward.py", _REWARD.format(rewards=rewards, settings=settings, in_thought=in_thought))
    _replace(out / "run.sh", launch_script(config, out, nodes=nodes, gpus=gpus, validate=bool(validation)))
    contracts = {"pixel_spec": processor.pixel_spec.hash, "prompt_spec": processor.prompt_spec.hash}
    _replace(out / "contracts.json", json.dumps(contracts, indent=2) + "\n")
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


def _replace(path: Path, text: str) -> None:
    with whole_file(path) as stream:
        stream.write(text)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
