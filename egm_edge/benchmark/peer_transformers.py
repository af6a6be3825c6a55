"""transformers as a peer: the same checkpoint, patches and prompt tokens. Imports torch when opened, never before."""

from __future__ import annotations

import time
from importlib import import_module
from importlib.metadata import version
from pathlib import Path
from typing import Any

from egm_edge._processor_config import reading_checkpoint
from egm_edge.benchmark.peer import PeerRequest, PeerSample
from egm_edge.errors import BackendError, CheckpointError, InputError

DTYPES = ("bfloat16", "float32")


class TransformersPeer:
    """A checkpoint in transformers, on the CPU, greedy.

    Raises:
        BackendError: torch or transformers is not installed.
        CheckpointError: they cannot load the directory.
    """

    starts_at, exact = "patches", True

    def __init__(self, checkpoint: Path, *, dtype: str, threads: int) -> None:
        if dtype not in DTYPES:
            raise InputError(f"dtype {' or '.join(DTYPES)}", repr(dtype), "pass one of the two")
        if not (checkpoint / "config.json").is_file():
            raise CheckpointError("a checkpoint directory", f"no config.json in {checkpoint}", "check --checkpoint")
        try:
            self._torch, self._transformers = import_module("torch"), import_module("transformers")
        except ImportError as error:
            raise BackendError("torch and transformers", str(error), "pip install 'egm-edge[verify]'") from None
        self._torch.set_num_threads(threads)
        with reading_checkpoint(f"a checkpoint that transformers opens in {checkpoint}"):
            model = self._transformers.AutoModelForImageTextToText.from_pretrained(
                checkpoint, dtype=getattr(self._torch, dtype), local_files_only=True
            )
        self._model = model.eval()
        self.name = f"transformers {version('transformers')}, torch {version('torch')}"
        self.precision, self.threads = dtype, threads

    def run(self, request: PeerRequest, count: int) -> PeerSample:
        """Generate exactly `count` tokens."""
        torch = self._torch
        ids = torch.tensor([request.token_ids])
        inputs = {
            "input_ids": ids,
            "attention_mask": torch.ones_like(ids),
            "pixel_values": torch.from_numpy(request.pixel_values).to(getattr(torch, self.precision)),
        }
        if request.grid_hw is not None:
            inputs |= {
                "image_grid_thw": torch.tensor([[1, *request.grid_hw]]),
                "mm_token_type_ids": (ids == request.image_token_id).int(),
            }
        times: list[float] = []
        started = time.perf_counter()
        with torch.inference_mode():
            made = self._model.generate(
                **inputs, max_new_tokens=count, min_new_tokens=count, do_sample=False, streamer=_Stamps(times)
            )
        finished = time.perf_counter()
        new_tokens = made.shape[1] - len(request.token_ids)
        return PeerSample.of(started, times, finished, new_tokens, len(request.token_ids))

    def close(self) -> None:
        """Free the model."""
        del self._model


class _Stamps:
    """A transformers streamer that notes when tokens come; the first call hands over the prompt."""

    def __init__(self, times: list[float]) -> None:
        self._times, self._prompt = times, True

    def put(self, value: Any) -> None:
        if not self._prompt:
            self._times.append(time.perf_counter())
        self._prompt = False

    def end(self) -> None:
        pass
