"""Side by side: ours and a peer on the same pictures, sentences and number of new tokens, in turns, ratio first.

Every turn has a picture of its own (one corner value changes), so that nobody answers it from a cache of the one before.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from egm_edge.benchmark.peer import Peer, PeerRequest, PeerSample
from egm_edge.benchmark.workload import Workload, WorkloadRequest
from egm_edge.errors import InputError
from egm_edge.families import family_for
from egm_edge.families.prompts import prefix_ids
from egm_edge.grounder import Grounder
from egm_edge.images import load_image
from egm_edge.pixels import TILES, normalise
from egm_edge.reporting.statistics import Ratio, paired_ratio

PEERS = ("transformers", "openvino", "llama.cpp")
WARM_UP_TOKENS = 2
QUANTITIES = ("total_ms", "ttft_ms", "tpot_ms")


@dataclass(frozen=True, slots=True)
class PeerChoice:
    """Which peer to run beside.

    Attributes:
        name: one of PEERS, or the address of an OpenAI-compatible server.
        path: checkpoint of transformers, exported directory of openvino, GGUF of llama.cpp; None for a server.
        dtype: of transformers. key, model: of a server.
    """

    name: str
    path: Path | None = None
    dtype: str = "bfloat16"
    key: str | None = None
    model: str | None = None

    def __post_init__(self) -> None:
        if self.name not in PEERS and not self.name.lower().startswith(("http://", "https://")):
            raise InputError(f"{', '.join(PEERS)} or a server's address", repr(self.name), "correct --beside")
        if self.name == "transformers" and self.path is None:
            raise InputError("--checkpoint DIR with --beside transformers", "none", "pass the bundle's checkpoint")
        if self.name in PEERS and self.path is None:
            raise InputError(f"--peer-model PATH with --beside {self.name}", "none", "pass the model it should load")

    def open(self, threads: int) -> Peer:
        """Load it.

        Raises:
            BackendError, CheckpointError: it is not installed, or cannot load its model.
        """
        if self.path is None:
            from egm_edge.benchmark.peer_server import ServerPeer

            return ServerPeer(self.name, key=self.key, model=self.model)
        if self.name == "transformers":
            from egm_edge.benchmark.peer_transformers import TransformersPeer

            return TransformersPeer(self.path, dtype=self.dtype, threads=threads)
        if self.name == "openvino":
            from egm_edge.benchmark.peer_openvino import OpenVinoPeer

            return OpenVinoPeer(self.path, threads=threads)
        from egm_edge.benchmark.peer_server import LlamaCppPeer

        return LlamaCppPeer(self.path, threads=threads)


@dataclass(frozen=True, slots=True)
class Beside:
    """A finished comparison.

    Attributes:
        peer, dtype, threads: what ran beside, and how; threads 0 where that is the server's own business.
        starts_at: "patches" or "picture": where both clocks start.
        prompt_tokens, their_prompt_tokens: fewest and most of a request, of ours and of theirs.
        new_tokens: fewest and most of a request; the same on both sides, turn by turn.
        ratios: quantity -> theirs over ours, median of pairs; above 1 means that ours is faster. A quantity that one side
            does not know is left out.
        ours, theirs: pair by pair.
    """

    peer: str
    dtype: str
    threads: int
    starts_at: str
    prompt_tokens: tuple[int, int]
    their_prompt_tokens: tuple[int, int]
    new_tokens: tuple[int, int]
    ratios: dict[str, Ratio]
    ours: list[PeerSample]
    theirs: list[PeerSample]

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready, with the verdict on each ratio."""
        values = asdict(self)
        for name, ratio in self.ratios.items():
            values["ratios"][name]["noise"] = ratio.noise
        return values


def measure_beside(
    grounder: Grounder,
    peer: Peer,
    workload: Workload,
    pairs: int,
    new_tokens: int,
    told: Callable[[int, int], None] | None = None,
) -> Beside:
    """Ours and theirs in turns, each going first every other time, after a warm-up of each question that is not counted.

    Our end tokens are ignored. Where the peer stops by itself, the warm-up shows after how many tokens, and ours is given
    as many.
    """
    ours, theirs = [], []
    questions = list(workload.take(pairs))
    first_of = {id(q): q for q in questions}
    stop_ids, grounder.stop_ids = grounder.stop_ids, frozenset()
    try:
        counts = {}
        for turn, question in enumerate(first_of.values()):
            picture = varied(question, turn)
            request = _request(grounder, question, picture)
            seen = peer.run(request, WARM_UP_TOKENS if peer.exact else new_tokens).new_tokens
            counts[id(question)] = new_tokens if peer.exact else seen
            _our_turn(grounder, question, picture, WARM_UP_TOKENS, peer.starts_at)
        for turn, question in enumerate(questions):
            picture = varied(question, turn + len(first_of))
            request = _request(grounder, question, picture)
            count = counts[id(question)]
            for side in ("ours", "theirs") if turn % 2 else ("theirs", "ours"):
                if side == "theirs":
                    theirs.append(peer.run(request, new_tokens))
                else:
                    ours.append(_our_turn(grounder, question, picture, count, peer.starts_at))
            if told:
                told(turn + 1, pairs)
    finally:
        grounder.stop_ids = stop_ids
    ratios = {}
    for name in QUANTITIES:
        pairs_of = [(getattr(t, name), getattr(o, name)) for t, o in zip(theirs, ours, strict=True)]
        known = [(t, o) for t, o in pairs_of if t is not None and o is not None]
        if len(known) == len(pairs_of) and (ratio := paired_ratio(*zip(*known, strict=True))):
            ratios[name] = ratio
    return Beside(
        peer=peer.name,
        dtype=peer.precision,
        threads=peer.threads,
        starts_at=peer.starts_at,
        prompt_tokens=_range(t.prompt_tokens for t in ours),
        their_prompt_tokens=_range(t.prompt_tokens for t in theirs),
        new_tokens=_range(t.new_tokens for t in (*ours, *theirs)),
        ratios=ratios,
        ours=ours,
        theirs=theirs,
    )


def varied(question: WorkloadRequest, turn: int) -> NDArray[np.uint8]:
    """The question's picture, [H, W, 3] uint8 RGB, with one corner value that no other turn has had lately."""
    picture = load_image(question.image).copy()
    picture[0, 0, 0] = turn % 256
    return picture


def _our_turn(grounder: Grounder, question: WorkloadRequest, picture: NDArray[np.uint8], count: int, starts_at: str) -> PeerSample:
    made = grounder.frame(picture, color="rgb") if starts_at == "patches" else None
    times: list[float] = []
    started = time.perf_counter()
    grounding = grounder.ground(
        picture if made is None else made,
        question.expression,
        task=question.task,
        color="rgb",
        max_new_tokens=count,
        force_syntax=False,  # the peer's answer is not held to a syntax either
        on_token=lambda event: times.append(time.perf_counter()),
    )
    finished = time.perf_counter()
    return PeerSample.of(started, times, finished, grounding.tokens.completion, grounding.tokens.prompt)


def _request(grounder: Grounder, question: WorkloadRequest, picture: NDArray[np.uint8]) -> PeerRequest:
    """The very patches and token ids that the Grounder makes, and the sentence for peers that make their own."""
    frame = grounder.frame(picture, color="rgb")
    spec, family = grounder.pixel_spec, family_for(grounder.bundle.manifest.family)
    image_token_id = int(grounder.bundle.manifest.model["image_token_id"])
    prefix = prefix_ids(grounder.tokenizer, grounder.prompt_spec)
    expanded = family.prefix_token_ids(prefix, image_token_id, frame.pixels)
    return PeerRequest(
        picture=picture,
        sentence=grounder.prompt_spec.task_text(question.expression, question.task),
        pixel_values=normalise(frame.pixels, spec),
        grid_hw=None if spec.rule == TILES else frame.pixels.grid_hw,
        token_ids=[*expanded, *grounder.token_ids(question.expression, question.task)],
        image_token_id=image_token_id,
    )


def _range(values: Any) -> tuple[int, int]:
    found = list(values)
    return min(found), max(found)
