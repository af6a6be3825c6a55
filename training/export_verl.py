"""`egm train export-verl CONFIG --out DIR`: the same GRPO run on verl, the distributed engine that upstream used.

Writes train.parquet and val.parquet (prompts, encoded pictures, targets), reward.py (our rewards, called by verl with
keywords) and run.sh (every setting of the configuration in verl's words). Nothing of verl is imported; its layout is that
of version 0.9.
"""

from __future__ import annotations

import json
import logging
import os
import shlex
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from egm_edge.cli.parser import Parser
from egm_edge.data.pictures import load_picture
from egm_edge.data.rows import Row
from egm_edge.errors import EgmError, InputError
from egm_edge.files import whole_file
from training.data.sources import load_rows
from training.data.splits import TRAIN, VALIDATION, require_split
from training.stage_config import GrpoConfig, load_grpo
from training.stages.launch import quiet_offline

ROWS_PER_GROUP = 256
IMAGE_MARK = "<image>"
REWARD_FUNCTION = "compute_score"
GPUS = 8
log = logging.getLogger("egm.train")

_REWARD = '''"""Rewards of this run for verl, which calls `compute_score` with keywords. Needs egm-edge installed beside verl."""

import json

from training.rewards.verl import score

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
    arguments = parser.parse_args(argv)
    try:
        overrides = dict(pair.partition("=")[::2] for pair in arguments.sets)
        config = load_grpo(arguments.config, overrides)
        export(config, arguments.out, nodes=arguments.nodes, gpus=arguments.gpus)
    except EgmError as error:
        print(f"egm train export-verl: {error}", file=sys.stderr)
        return error.exit_code
    print(f"start it with: bash {arguments.out / 'run.sh'}")
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


def write_parquet(path: Path, rows: Sequence[Row], texts: Sequence[str], images: Path, split: str) -> None:
    """One parquet of verl's row layout, in row groups so that pictures need not fit into memory."""
    import pyarrow as pa  # type: ignore[import-untyped]
    from pyarrow import parquet

    message = pa.struct([("role", pa.string()), ("content", pa.string())])
    extra = pa.struct([("index", pa.int64()), ("split", pa.string()), ("id", pa.string())])
    schema = pa.schema(
        [
            ("data_source", pa.string()),
            ("prompt", pa.list_(message)),
            ("images", pa.list_(pa.struct([("bytes", pa.binary())]))),
            ("ability", pa.string()),
            ("reward_model", pa.struct([("style", pa.string()), ("ground_truth", pa.string())])),
            ("extra_info", extra),
        ]
    )
    beside = path.with_name(f".{path.name}.tmp")
    with parquet.ParquetWriter(beside, schema) as writer:
        for start in range(0, len(rows), ROWS_PER_GROUP):
            chunk = list(_parquet_rows(rows, texts, images, split, start))
            writer.write_table(pa.Table.from_pylist(chunk, schema=schema))
    os.replace(beside, path)


def _parquet_rows(
    rows: Sequence[Row], texts: Sequence[str], images: Path, split: str, start: int
) -> Iterator[dict[str, Any]]:
    import cv2

    for index in range(start, min(start + ROWS_PER_GROUP, len(rows))):
        row = rows[index]
        # Encoded anew, without loss: verl then sees the upright, mirrored pixels that the row means.
        encoded, data = cv2.imencode(".png", load_picture(row, images)[:, :, ::-1])
        if not encoded:
            raise InputError("a picture that can be encoded", row.image, "check the picture")
        yield {
            "data_source": "grounding",
            "prompt": [{"role": "user", "content": IMAGE_MARK + texts[index]}],
            "images": [{"bytes": data.tobytes()}],
            "ability": "grounding",
            "reward_model": {
                "style": "rule",
                "ground_truth": json.dumps({"box_norm1000": row.box_norm1000, "task": row.task.value}),
            },
            "extra_info": {"index": index, "split": split, "id": row.id},
        }


def verl_settings(config: GrpoConfig, out: Path, *, nodes: int, gpus: int, validate: bool) -> dict[str, Any]:
    """The configuration in verl's keys."""
    run, sampling, loss, optim = config.run, config.sampling, config.loss, config.optim
    completions = run.batch_per_device * run.accumulation * nodes * gpus
    prompts = completions // sampling.generations
    actor, rollout = "actor_rollout_ref.actor", "actor_rollout_ref.rollout"
    return {
        "algorithm.adv_estimator": "grpo",
        "algorithm.norm_adv_by_std_in_grpo": loss.scale == "group",
        "algorithm.use_kl_in_reward": False,
        "data.train_files": str(out / "train.parquet"),
        "data.val_files": str(out / ("val.parquet" if validate else "train.parquet")),
        "data.image_key": "images",
        "data.train_batch_size": prompts,
        "data.max_prompt_length": config.max_prompt_tokens,
        "data.max_response_length": sampling.max_tokens,
        "data.truncation": "error",
        "data.seed": run.seed,
        "actor_rollout_ref.model.path": config.model.base,
        "actor_rollout_ref.model.enable_gradient_checkpointing": run.gradient_checkpointing,
        f"{actor}.freeze_vision_tower": "vision" not in config.model.train,
        f"{actor}.ppo_mini_batch_size": prompts,
        f"{actor}.ppo_epochs": 1,
        f"{actor}.ppo_micro_batch_size_per_gpu": run.batch_per_device,
        f"{actor}.policy_loss.loss_mode": "gspo" if loss.ratio == "sequence" else "vanilla",
        f"{actor}.loss_agg_mode": "seq-mean-token-mean" if loss.ratio == "sequence" else "token-mean",
        f"{actor}.clip_ratio": loss.clip,
        f"{actor}.use_kl_loss": loss.kl > 0,
        f"{actor}.kl_loss_coef": loss.kl,
        f"{actor}.kl_loss_type": "low_var_kl",
        f"{actor}.entropy_coeff": loss.entropy,
        f"{actor}.grad_clip": optim.max_grad_norm,
        f"{actor}.optim.lr": optim.learning_rate,
        f"{actor}.optim.lr_scheduler_type": optim.schedule,
        f"{actor}.optim.lr_warmup_steps": optim.warmup_steps,
        f"{actor}.optim.weight_decay": optim.weight_decay,
        f"{rollout}.name": "vllm",
        f"{rollout}.n": sampling.generations,
        f"{rollout}.temperature": sampling.temperature,
        f"{rollout}.top_p": sampling.top_p,
        f"{rollout}.top_k": sampling.top_k or -1,
        f"{rollout}.tensor_model_parallel_size": config.rollouts.tensor_parallel,
        f"{rollout}.gpu_memory_utilization": config.rollouts.gpu_memory,
        f"{rollout}.val_kwargs.do_sample": False,
        "reward.custom_reward_function.path": str(out / "reward.py"),
        "reward.custom_reward_function.name": REWARD_FUNCTION,
        "trainer.nnodes": nodes,
        "trainer.n_gpus_per_node": gpus,
        "trainer.total_epochs": max(1, round(run.epochs)),
        **({"trainer.total_training_steps": run.max_steps} if run.max_steps else {}),
        "trainer.save_freq": run.save_steps,
        "trainer.test_freq": run.save_steps if validate else -1,
        "trainer.default_local_dir": f"{run.output}-verl",
        "trainer.logger": json.dumps(["console", *run.reports]),
        "trainer.project_name": "egm",
        "trainer.experiment_name": Path(run.output).name,
    }


def launch_script(config: GrpoConfig, out: Path, *, nodes: int, gpus: int, validate: bool) -> str:
    """run.sh: one command with every setting."""
    settings = verl_settings(config, out, nodes=nodes, gpus=gpus, validate=validate)
    lines = [f"  {shlex.quote(f'{key}={_hydra(value)}')}" for key, value in settings.items()]
    joined = " \\\n".join(lines)
    return (
        "#!/usr/bin/env bash\n"
        "# GRPO on verl 0.9 (its own environment: ray, vllm, transformers below 5.11; egm-edge installed with --no-deps).\n"
        "# On several nodes: `ray start` on each, then this on the head node. Overrides go at the end of the command line.\n"
        f'set -euo pipefail\npython3 -m verl.trainer.main_ppo \\\n{joined} "$@"\n'
    )


def _hydra(value: Any) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)


def _replace(path: Path, text: str) -> None:
    with whole_file(path) as stream:
        stream.write(text)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
