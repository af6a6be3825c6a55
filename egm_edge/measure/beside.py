"""Side by side with transformers: the same checkpoint, frames, prompt tokens and number of new tokens, in turns.

The peer gets the very patches and token ids that the Grounder made, so only the engines differ; the clock of both starts at
the patches. torch and transformers are imported when a peer is opened, never before.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from importlib import import_module
from importlib.metadata import version
from pathlib import Path
from typing import Any

from egm_edge.errors import BackendError, CheckpointError, InputError
from egm_edge.families import family_for
from egm_edge.families.prompts import prefix_ids
from egm_edge.grounder import Frame, Grounder
from egm_edge.measure.statistics import Ratio, paired_ratio
from egm_edge.measure.workload import Question, Workload

DTYPES = ("bfloat16", "float32")
QUANTITIES = ("total_ms", "ttft_ms", "tpot_ms")


@dataclass(frozen=True, slots=True)
class Turn:
    """One request of one side, from patches to last token; milliseconds."""

    total_ms: float
    ttft_ms: float
    tpot_ms: float
    new_tokens: int


@dataclass(frozen=True, slots=True)
class Beside:
    """A finished comparison.

    Attributes:
        peer, dtype, threads: what ran beside, and how.
        prompt_tokens: fewest and most of a request. new_tokens: of every request. Both are the same on both sides.
        ratios: quantity -> theirs over ours, median of pairs; above 1 means that ours is faster.
        ours, theirs: pair by pair.
    """

    peer: str
    dtype: str
    threads: int
    prompt_tokens: tuple[int, int]
    new_tokens: int
    ratios: dict[str, Ratio]
    ours: list[Turn]
    theirs: list[Turn]

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready, with the verdict on each ratio."""
        values = asdict(self)
        for name, ratio in self.ratios.items():
            values["ratios"][name]["noise"] = ratio.noise
        return values


class TransformersPeer:
    """A checkpoint in transformers, on the CPU, greedy.

    Raises:
        BackendError: torch or transformers is not installed.
        CheckpointError: they cannot load the directory.
    """

    def __init__(self, checkpoint: Path, *, dtype: str, threads: int) -> None:
        if dtype not in DTYPES:
            raise InputError(f"dtype {' or '.join(DTYPES)}", repr(dtype), "pass one of the two")
        if not (checkpoint / "config.json").is_file():
            raise CheckpointError("a checkpoint directory", f"no config.json in {checkpoint}", "check --checkpoint")
        try:
            self._torch, self._transformers = import_module("torch"), import_module("transformers")
        except ImportError as error:
            raise BackendError("torch and transformers", str(error), "pip install 'egm-edge[train]'") from None
        self._torch.set_num_threads(threads)
        try:
            model = self._transformers.AutoModelForImageTextToText.from_pretrained(
                checkpoint, dtype=getattr(self._torch, dtype), local_files_only=True
            )
        except Exception as error:  # transformers raises almost anything on a bad checkpoint
            found = f"{type(error).__name__}: {error}"[:200]
            raise CheckpointError(f"{checkpoint} to load into transformers", found, "check the checkpoint") from None
        self._model = model.eval()
        self.name = f"transformers {version('transformers')}, torch {version('torch')}"
        self.dtype, self.threads = dtype, threads

    def run(
        self, values: Any, grid_hw: tuple[int, int] | None, token_ids: list[int], image_token_id: int, count: int
    ) -> Turn:
        """Generate exactly `count` tokens after a prompt.

        Args:
            values: the image as the Hugging Face processor gives it, float32. grid_hw: of its patches, None for tiles.
        """
        torch = self._torch
        ids = torch.tensor([token_ids])
        inputs = {
            "input_ids": ids,
            "attention_mask": torch.ones_like(ids),
            "pixel_values": torch.from_numpy(values).to(getattr(torch, self.dtype)),
        }
        if grid_hw is not None:
            inputs |= {
                "image_grid_thw": torch.tensor([[1, *grid_hw]]),
                "mm_token_type_ids": (ids == image_token_id).int(),
            }
        times: list[float] = []
        started = time.perf_counter()
        with torch.inference_mode():
            made = self._model.generate(
                **inputs, max_new_tokens=count, min_new_tokens=count, do_sample=False, streamer=_Stamps(times)
            )
        finished = time.perf_counter()
        return _turn(started, times, finished, made.shape[1] - len(token_ids))


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


def measure_beside(
    grounder: Grounder,
    peer: TransformersPeer,
    workload: Workload,
    pairs: int,
    new_tokens: int,
    told: Callable[[int, int], None] | None = None,
) -> Beside:
    """Ours and theirs in turns, each going first every other time; one pair of warm-up is not counted.

    End tokens are ignored on both sides, so that the number of tokens is the same.
    """
    ours, theirs = [], []
    stop_ids, grounder.stop_ids = grounder.stop_ids, frozenset()
    prompts = []
    try:
        for turn, question in enumerate(workload.take(pairs + 1)):
            sides: dict[str, Callable[[], Turn]] = {
                "ours": lambda q=question: _our_turn(grounder, q, new_tokens),  # type: ignore[misc]
                "theirs": lambda q=question: _their_turn(grounder, peer, q, new_tokens),  # type: ignore[misc]
            }
            done = {name: sides[name]() for name in (("ours", "theirs") if turn % 2 else ("theirs", "ours"))}
            if turn:
                prompts.append(len(_prompt(grounder, grounder.frame(question.image), question)))
                ours.append(done["ours"])
                theirs.append(done["theirs"])
            if told:
                told(turn + 1, pairs + 1)
    finally:
        grounder.stop_ids = stop_ids
    ratios = {
        name: ratio
        for name in QUANTITIES
        if (ratio := paired_ratio([getattr(t, name) for t in theirs], [getattr(t, name) for t in ours]))
    }
    return Beside(peer.name, peer.dtype, peer.threads, (min(prompts), max(prompts)), new_tokens, ratios, ours, theirs)


def _our_turn(grounder: Grounder, question: Question, count: int) -> Turn:
    frame = grounder.frame(question.image)
    times: list[float] = []
    started = time.perf_counter()
    grounding = grounder.ground(
        frame,
        question.expression,
        task=question.task,
        max_new_tokens=count,
        on_token=lambda event: times.append(time.perf_counter()),
    )
    return _turn(started, times, time.perf_counter(), grounding.tokens.completion)


def _their_turn(grounder: Grounder, peer: TransformersPeer, question: Question, count: int) -> Turn:
    from egm_edge.pixels import TILES, normalise

    frame = grounder.frame(question.image)
    spec = grounder.pixel_spec
    grid = None if spec.rule == TILES else frame.pixels.grid_hw
    return peer.run(normalise(frame.pixels, spec), grid, _prompt(grounder, frame, question), _image_id(grounder), count)


def _prompt(grounder: Grounder, frame: Frame, question: Question) -> list[int]:
    family = family_for(grounder.bundle.manifest.family)
    prefix = prefix_ids(grounder.tokenizer, grounder.prompt_spec)
    expanded = family.prefix_token_ids(prefix, _image_id(grounder), frame.pixels)
    return [*expanded, *grounder.token_ids(question.expression, question.task)]


def _image_id(grounder: Grounder) -> int:
    return int(grounder.bundle.manifest.model["image_token_id"])


def _turn(started: float, times: list[float], finished: float, count: int) -> Turn:
    first = times[0] if times else finished
    last = times[-1] if times else finished
    return Turn((finished - started) * 1e3, (first - started) * 1e3, (last - first) * 1e3 / max(count - 1, 1), count)
