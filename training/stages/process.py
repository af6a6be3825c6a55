"""One of the processes of a run: what it may reach, whether it is the one that writes, and its end. Imports no torch by itself."""

from __future__ import annotations

import os
import sys
from typing import NoReturn


def quiet_offline() -> None:
    """No network, no telemetry; call before anything of Hugging Face is imported for work."""
    for name in ("HF_HUB_OFFLINE", "HF_HUB_DISABLE_TELEMETRY", "TRANSFORMERS_NO_ADVISORY_WARNINGS"):
        os.environ.setdefault(name, "1")
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")


def is_main_process() -> bool:
    """True for the one process that writes files."""
    return int(os.environ.get("RANK", "0")) == 0


def leave_group() -> bool:
    """Leave the processes that trained together; true where there were several."""
    import torch.distributed as dist

    if not (dist.is_available() and dist.is_initialized()):
        return False
    several = dist.get_world_size() > 1
    if several:
        dist.barrier()  # who leaves first would take the group from those who still write
    dist.destroy_process_group()
    return several


def end_at_once() -> NoReturn:
    """End this process with success, and without the interpreter's own way out: threads that the engines of several processes
    leave running abort it there, now and then, after everything is written."""
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(0)
