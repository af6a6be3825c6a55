"""A stage from its command line to its finished checkpoint. Knows what SFT and GRPO have in common, and not which it is.

Torch is loaded once the configuration is known to be good.
"""

from __future__ import annotations

import argparse
import json
import logging
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from training.stage_config import config_parser
from training.stages.process import end_at_once, is_main_process, leave_group, quiet_offline

if TYPE_CHECKING:
    from transformers import Trainer

    from training.stages.session import StageConfig, TrainingSession

log = logging.getLogger("egm.train")


def run_stage(
    stage: str, config: StageConfig, make_trainer: Callable[[TrainingSession], Trainer], *, max_tokens: int
) -> Path:
    """Check, train, and return the directory of the finished checkpoint; of a finished run at once.

    Raises:
        EgmError: bad data, a missing checkpoint, a failed step-0 check, a launch that does not do what was asked.
    """
    quiet_offline()
    from training.checks import check_step_zero
    from training.stages.session import FINAL, open_session, train

    session = open_session(stage, config, max_tokens=max_tokens)
    if session is None:
        log.info("already finished")
        return Path(config.run.output) / FINAL
    check_step_zero(session)
    return train(session, make_trainer(session))


def stage_main(prog: str, argv: Sequence[str], run: Callable[[str, dict[str, str]], Path]) -> int:
    """Run a stage from its command line, on one process of those that train together. EgmError reaches the caller."""
    parser = config_parser(prog)
    parser.add_argument("--local_rank", type=int, help=argparse.SUPPRESS)  # the deepspeed launcher adds it
    arguments: argparse.Namespace = parser.parse_args(list(argv))
    level = logging.INFO if is_main_process() else logging.WARNING
    logging.basicConfig(level=level, format="%(asctime)s %(message)s", datefmt="%H:%M:%S", stream=sys.stderr)
    final = run(arguments.config, dict(arguments.overrides))
    together = leave_group()
    if is_main_process():
        print(json.dumps({"checkpoint": str(final)}, ensure_ascii=False) if arguments.json else final)
    if together:
        end_at_once()
    return 0
