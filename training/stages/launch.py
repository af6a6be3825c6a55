"""DeepSpeed: its settings, the order in which it must be set up, and proof that it took effect.

One node: `torchrun --nproc_per_node 8 -m egm_edge.cli train sft CONFIG`. Several: the same on each node with torchrun's
`--nnodes`, `--node_rank` and `--rdzv_endpoint`, or once `deepspeed --hostfile HOSTS --no_local_rank --module egm_edge.cli
train sft CONFIG`.
"""

from __future__ import annotations

import os
from typing import Any

import torch
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from egm_edge.errors import BackendError


def deepspeed_config(kind: str, dtype: str, *, offload: bool = False) -> dict[str, Any] | None:
    """DeepSpeed's own settings for "zero2" or "zero3"; None for "none". "auto" values are filled in by the Trainer."""
    if kind == "none":
        return None
    zero: dict[str, Any] = {"stage": 3 if kind == "zero3" else 2, "overlap_comm": True, "contiguous_gradients": True}
    if offload:
        zero["offload_optimizer"] = {"device": "cpu", "pin_memory": True}
        if kind == "zero3":
            zero["offload_param"] = {"device": "cpu", "pin_memory": True}
    if kind == "zero3":
        zero |= {
            "stage3_prefetch_bucket_size": "auto",
            "stage3_param_persistence_threshold": "auto",
            "stage3_gather_16bit_weights_on_model_save": True,
        }
    return {
        "zero_optimization": zero,
        "zero_allow_untested_optimizer": True,
        "zero_force_ds_cpu_optimizer": False,
        "bf16": {"enabled": dtype == "bfloat16"},
        "fp16": {"enabled": dtype == "float16"},
        "gradient_clipping": "auto",
        "gradient_accumulation_steps": "auto",
        "train_batch_size": "auto",
        "train_micro_batch_size_per_gpu": "auto",
    }


def launch_arguments(kind: str, dtype: str, *, offload: bool = False) -> dict[str, Any]:
    """Keyword arguments of TrainingArguments for this launch. Build the model *before* calling this.

    With ZeRO-3 set up first, transformers would hand out partitioned parameters to code that fills them. On CPUs the
    process state must exist before TrainingArguments does, and `use_cpu` must stay unset: either mistake turns DeepSpeed
    off without a word (see `DeepSpeedProof`).
    """
    on_gpu = torch.cuda.is_available()
    if not on_gpu:
        # Read when DeepSpeed is imported, which transformers does even for runs without it.
        os.environ["DS_ACCELERATOR"] = "cpu"
    if kind == "none":
        return {} if on_gpu else {"use_cpu": True}
    try:
        from deepspeed import ops  # type: ignore[import-untyped]
    except ImportError:
        raise BackendError("DeepSpeed", "not installed", "DS_BUILD_OPS=0 pip install deepspeed") from None
    if "LOCAL_RANK" not in os.environ:
        launcher = "torchrun --nproc_per_node GPUS -m egm_edge.cli train STAGE CONFIG"
        raise BackendError(
            "a launch by torchrun or deepspeed", f"one plain process for {kind}", f"start it with: {launcher}"
        )
    arguments: dict[str, Any] = {"deepspeed": deepspeed_config(kind, dtype, offload=offload)}
    if not on_gpu:
        from accelerate import PartialState

        os.environ["ACCELERATE_USE_DEEPSPEED"] = "true"
        # Else DeepSpeed compiles its shared-memory collectives on the first run, and a run killed meanwhile leaves a lock
        # that every later one waits for without end; gloo does the same work.
        ops.__compatible_ops__["deepspeed_shm_comm"] = False
        PartialState(backend="gloo")
        arguments["accelerator_config"] = {"use_configured_state": True}
    return arguments


class DeepSpeedProof(TrainerCallback):
    """Stops a run that was to use DeepSpeed and does not; records what the model was wrapped in.

    Attributes:
        wrapped: class name of the wrapped model, once training has begun.
    """

    def __init__(self, kind: str) -> None:
        self.kind = kind
        self.wrapped = ""
        self.trainer: Any = None

    def on_step_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        if self.wrapped:
            return
        self.wrapped = type(self.trainer.model_wrapped).__name__
        if self.kind != "none" and self.wrapped != "DeepSpeedEngine":
            raise BackendError(f"a DeepSpeedEngine for run.deepspeed: {self.kind}", self.wrapped, "report this launch")
