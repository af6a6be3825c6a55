"""The bundle's half of a comparison: what its engine makes of a request, stage by stage, with nothing of our own decoding.

Tensor notation: q request tokens, r reply tokens, t image tokens, H hidden size, V vocabulary size.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
from numpy.typing import NDArray

from build_engine.parity import stages
from build_engine.parity.cases import Case, displacing_picture
from build_engine.parity.engine_pixels import engine_pixels
from egm_edge.backends import Backend
from egm_edge.bundle import Bundle
from egm_edge.families import family_for
from egm_edge.families.prompts import prefix_ids
from egm_edge.grounder import Frame, Grounder
from egm_edge.grounding import Grounding
from egm_edge.loaded_model import read_tokenizer

SINGLE_STEPS = 48  # last tokens of a long reply that go through the engine one by one
CHUNK = 32  # tokens of it that go together before those
SAME_LOGITS = 1e-3  # two ways to the same logits, of their spread
AHEAD = 3  # tokens that one of two replies is ahead of the other


class BackendSide:
    """A bundle, opened. Frames are kept by picture, so that further questions meet a frame that was used, and displaced."""

    def __init__(self, bundle: Bundle, backend: Backend) -> None:
        self.bundle = bundle
        self.grounder = Grounder(backend, bundle, read_tokenizer(bundle))
        self.family = family_for(bundle.manifest.family)
        self._frames: dict[bytes, Frame] = {}

    def frame(self, picture: bytes) -> Frame:
        if picture not in self._frames:
            self._frames[picture] = self.grounder.frame(picture)
        return self._frames[picture]

    def seen(self, picture: bytes | NDArray[np.uint8], color: str | None = None) -> stages.Seen:
        frame = self.grounder.frame(picture, color=color)
        values = engine_pixels(self.bundle, frame.pixels, self.grounder.pixel_spec)
        return stages.Seen(values, frame.pixels.grid_hw, frame.image_wh)

    def prompt_ids(self, case: Case) -> list[int]:
        grounder = self.grounder
        prefix = self.family.prefix_token_ids(
            prefix_ids(grounder.tokenizer, grounder.prompt_spec),
            int(self.bundle.manifest.model["image_token_id"]),
            grounder.frame(case.picture).pixels,
        )
        return [*prefix, *self.request_ids(case)]

    def request_ids(self, case: Case) -> list[int]:
        return self.grounder.token_ids(case.expression, case.task)

    def engine_frame(self, case: Case) -> Any:
        return self.grounder.engine_frame(self.frame(case.picture))

    def prefill(self, case: Case) -> NDArray[np.float32]:
        """Logits [q, V] of a request; asked for the last alone too, as decoding does, which stands for it where it differs."""
        session = self.grounder.backend.open_session(self.engine_frame(case))
        logits = session.extend(self.request_ids(case), every_position=True)
        session = self.grounder.backend.open_session(self.engine_frame(case))
        last = session.extend(self.request_ids(case))
        if np.abs(last - logits[-1]).max() > SAME_LOGITS * float(last.std()):
            logits[-1] = last
        return logits

    def decode(self, case: Case, reply: Sequence[int]) -> NDArray[np.float32]:
        """Logits [r, V] after each token of a reply that is fed one by one, then once more from its middle on in one piece,
        as a checked draft is: where the two ways differ, the second's stand for it."""
        session = self.grounder.backend.open_session(self.engine_frame(case))
        session.extend(self.request_ids(case))
        start = session.length
        alone = np.stack([session.extend([token]) for token in reply])
        middle = len(reply) // 2
        if self.grounder.backend.capabilities.rewind and middle:
            session.truncate(start + middle)
            together = session.extend(reply[middle:], every_position=True)
            if np.abs(together - alone[middle:]).max() > SAME_LOGITS * float(alone.std()):
                alone[middle:] = together
        return alone

    def decode_tail(self, case: Case, reply: Sequence[int]) -> NDArray[np.float32]:
        """Logits of the last `SINGLE_STEPS` tokens of a long reply."""
        session = self.grounder.backend.open_session(self.engine_frame(case))
        session.extend(self.request_ids(case))
        head, tail = reply[:-SINGLE_STEPS], reply[-SINGLE_STEPS:]
        for start in range(0, len(head), CHUNK):
            session.extend(head[start : start + CHUNK])
        return np.stack([session.extend([token]) for token in tail])

    def branched(
        self, case: Case, first: Sequence[int], second: Sequence[int]
    ) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """Logits [r, V] of two replies of one length that are decoded together, a third one having been dropped; the first goes
        ahead by a draft of `AHEAD` tokens and one that is rejected, so that most steps are of rows of different lengths."""
        session: Any = self.grounder.backend.open_session(self.engine_frame(case))
        session.extend(self.request_ids(case))
        branches = session.fork(3, len(first) + 1)
        opening = branches.step([second[-1], second[0], first[0]])
        branches.drop(0)  # the last takes its place
        ahead, behind = branches.row(0), branches.row(1)
        draft = ahead.extend([*first[1 : 1 + AHEAD], second[0]], every_position=True)[:-1]
        ahead.truncate(ahead.length - 1)
        together = [branches.step(pair) for pair in zip(first[1 + AHEAD :], second[1:], strict=False)]
        rest = [behind.extend([token]) for token in second[-AHEAD:]]
        ours = opening[2:], draft, *(rows[:1] for rows in together)
        return np.concatenate(ours), np.stack([opening[1], *(rows[1] for rows in together), *rest])

    def naive_reply(
        self, case: Case, max_new_tokens: int, begun: Sequence[int] = ()
    ) -> tuple[list[int], list[float]]:
        """The greedy reply behind what it has `begun` with, without its end token, and the lead of every chosen logit (the end's
        too) in spreads of logits."""
        session = self.grounder.backend.open_session(self.engine_frame(case))
        logits, leads = session.extend(self.request_ids(case)), []
        logits = session.extend(begun) if begun else logits
        reply: list[int] = []
        while len(reply) < max_new_tokens:
            second, first = np.partition(logits, -2)[-2:]
            leads.append(float(first - second) / float(logits.std() + 1e-12))
            token = int(logits.argmax())
            if token in self.grounder.stop_ids:
                break
            reply.append(token)
            if len(reply) < max_new_tokens:
                logits = session.extend([token])
        return reply, leads

    def rounding_noise(self, case: Case, reply: Sequence[int]) -> float:
        """How far logits of a request and a reply move when the request is fed token by token instead of in one piece: the largest
        difference, in spreads of them. Rounded activations turn the last bit of a sum into a step."""
        ways = []
        for pieces in ([self.request_ids(case)], [[token] for token in self.request_ids(case)]):
            session = self.grounder.backend.open_session(self.engine_frame(case))
            last = [session.extend(piece) for piece in pieces][-1]
            ways.append(np.stack([last, *(session.extend([token]) for token in reply)]))
        one, other = (rows - rows.mean(-1, keepdims=True) for rows in ways)
        return float((np.abs(one - other).max(-1) / (one.std(-1) + 1e-12)).max())

    def said(self, case: Case, max_new_tokens: int) -> Grounding:
        """The answer as a user gets it, in the model's own words."""
        grounder, frame = self.grounder, self.frame(case.picture)
        with grounder.answers_unjudged():
            return grounder.ground(frame, case.expression, task=case.task, max_new_tokens=max_new_tokens, force_syntax=False)

    @contextmanager
    def without_deepstack(self, case: Case) -> Iterator[None]:
        """The frame's deep-stack features are zeros; it goes into the cache anew, before and after."""
        frame = self.engine_frame(case)
        kept = frame.deepstack
        frame.deepstack = [np.zeros_like(feature) for feature in kept]
        self._displace()
        try:
            yield
        finally:
            frame.deepstack = kept
            self._displace()

    def _displace(self) -> None:
        self.grounder.engine_frame(self.grounder.frame(displacing_picture()))
