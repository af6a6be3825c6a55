"""The domain's nouns: Task, Outcome, Timings, Grounding.

Plain values, no behaviour beyond validation and JSON. Knows nothing of models, engines or ROS.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, field, fields, replace
from enum import Enum
from typing import Any

import numpy as np

from egm_edge.boxes import Box
from egm_edge.errors import InputError


class Task(str, Enum):
    """What the box must enclose: the visible extent, or the whole object, hidden part included."""

    MODAL = "modal"
    AMODAL = "amodal"

    @classmethod
    def parse(cls, value: Task | str) -> Task:
        try:
            return cls(value)
        except ValueError:
            raise InputError("task 'modal' or 'amodal'", repr(value), "pass one of the two") from None


class Outcome(str, Enum):
    """How a request ended. Only FOUND carries a box."""

    FOUND = "FOUND"
    NOT_FOUND = "NOT_FOUND"
    AMBIGUOUS = "AMBIGUOUS"
    TIMED_OUT = "TIMED_OUT"
    CANCELLED = "CANCELLED"
    UNPARSABLE = "UNPARSABLE"


class Truncation(str, Enum):
    """What of a request was cut short, for its deadline, for its token limit, or as asked for."""

    IMAGE_TOKENS = "image_tokens"  # a smaller image
    THOUGHT = "thought"  # ended early, or left out because it would not have ended in time or within the limit
    SAMPLES = "samples"
    ANSWER = "answer"  # its label; the box is whole
    MAX_NEW_TOKENS = "max_new_tokens"
    CONTEXT_TOKENS = "context_tokens"  # the model's own limit


class UnparsableReason(str, Enum):
    """Why a model's text gives no usable answer."""

    NO_BOX = "no_box"  # words only
    OPEN_THOUGHT = "open_thought"  # the thought was never closed
    CUT = "cut"  # the text ends within the box
    UNIT_INTERVAL = "unit_interval"  # all values up to 1: written in 0-1 units
    BEYOND_GRID = "beyond_grid"  # values beyond 1000: written in pixels
    Y_FIRST = "y_first"  # `box_2d` and the like put y before x
    ZERO_SIZE = "zero_size"  # no width or no height
    POINT = "point"  # two numbers, not four
    MALFORMED = "malformed"  # not four finite numbers


class Caution(str, Enum):
    """What a calibrated confidence warns of."""

    REFUSED = "refused"  # the answer named a box, whose confidence is below the bundle's operating point
    GUESS = "guess"  # the box is likelier wrong than right


@dataclass(frozen=True, slots=True)
class Timings:
    """Wall-clock milliseconds of one request, stage by stage.

    Attributes:
        decode_image_ms: file bytes to an HWC uint8 array (0 when the caller passed an array).
        preprocess_ms: array to patches.
        vision_ms: patches to image embeddings and deep-stack features (0 when the frame was reused).
        prefill_ms: the prompt through the decoder (only its own text when the frame was reused).
        think_ms: generated tokens up to and including the end of the thought.
        answer_ms: generated tokens after it.
        parse_ms: text to box.
        ttft_ms: request start to first generated token, image decoding included.
        total_ms: request start to the Grounding.
        frame_reused: vision and image prefix came from an earlier request on the same frame.
    """

    decode_image_ms: float = 0.0
    preprocess_ms: float = 0.0
    vision_ms: float = 0.0
    prefill_ms: float = 0.0
    think_ms: float = 0.0
    answer_ms: float = 0.0
    parse_ms: float = 0.0
    ttft_ms: float = 0.0
    total_ms: float = 0.0
    frame_reused: bool = False


@dataclass(frozen=True, slots=True)
class TokenCounts:
    """Tokens of one request as the model counts them; `image` is part of `prompt`, `think` part of `completion`.

    `decode_steps` is how often the engine ran to generate them: fewer than `completion` where several were checked at once.
    """

    prompt: int = 0
    image: int = 0
    think: int = 0
    completion: int = 0
    decode_steps: int = 0


@dataclass(frozen=True, slots=True)
class Candidate:
    """One box that an answer names, pixels of the original image, and the label beside it ("" when none)."""

    box: Box
    label: str = ""


@dataclass(frozen=True, slots=True)
class Grounding:
    """The answer to one expression on one frame.

    Attributes:
        outcome: how the request ended; `box` is set if and only if it is FOUND.
        expression: the referring text as the user typed it.
        task: modal or amodal.
        box: pixels of the original image.
        image_wh: width and height of the original image, pixels.
        label: the label the model wrote beside its box, "" when none; the expression itself where a thought was cut or left
            out, because the model is then asked for the box alone.
        confidence: P(IoU >= 0.5) from the bundle's calibration map; None means uncalibrated, never guessed. A box below the
            map's operating point (`accept_from`) is answered NOT_FOUND with this confidence; it stays in `candidates`.
        reasoning: the thought, without its tags.
        text: everything the model generated.
        parse_rule: which parsing rule gave the box ("" when none did).
        candidates: every usable box that the answer names, in its order; which one is `box` decides
            `egm_edge.parsing.choice`.
        reason: why an UNPARSABLE text gives no answer, None otherwise.
        tokens: token counts.
        timings: per-stage wall clock.
        stamp_ns: the caller's stamp of the frame, carried through untouched.
        reduced_by: 1, or the fraction (1/2, 1/4, 1/8) at which a JPEG was decoded because the caller asked for it: the pixels
            were then not the reference's, and neither parity nor the calibration was measured on such.
        deadline_met: None when no deadline was asked for.
        truncated_by: what was cut short, empty for nothing. A box that stands beside MAX_NEW_TOKENS is whole.
        agreement: share of the samples that agree with this answer, 0.0-1.0; None for a single one.
        samples: how many answers voted.
        std_px: standard deviation of x1, y1, x2, y2 that the model's digits leave open, pixels; None where it did not
            choose them freely.
        evidence: what decoding saw of this box, by name (`egm_edge.confidence.features`); a calibration map weighs it.
        bundle_hash, pixel_spec_hash, prompt_spec_hash: what produced this answer.
    """

    outcome: Outcome
    expression: str
    task: Task
    image_wh: tuple[int, int]
    box: Box | None = None
    label: str = ""
    confidence: float | None = None
    reasoning: str = ""
    text: str = ""
    parse_rule: str = ""
    candidates: tuple[Candidate, ...] = ()
    reason: UnparsableReason | None = None
    tokens: TokenCounts = field(default_factory=TokenCounts)
    timings: Timings = field(default_factory=Timings)
    stamp_ns: int | None = None
    reduced_by: int = 1
    deadline_met: bool | None = None
    truncated_by: frozenset[Truncation] = frozenset()
    agreement: float | None = None
    samples: int = 1
    std_px: tuple[float, float, float, float] | None = None
    evidence: dict[str, float] = field(default_factory=dict)
    bundle_hash: str = ""
    pixel_spec_hash: str = ""
    prompt_spec_hash: str = ""

    def __post_init__(self) -> None:
        if (self.box is not None) != (self.outcome is Outcome.FOUND):
            raise InputError("a box if and only if the outcome is FOUND", f"{self.outcome.value} with {self.box}", "report this")

    @property
    def caution(self) -> Caution | None:
        """What to think of before acting on the answer; None also where nothing was calibrated."""
        if self.confidence is None:
            return None
        if self.outcome is Outcome.NOT_FOUND:
            return Caution.REFUSED
        return Caution.GUESS if self.outcome is Outcome.FOUND and self.confidence < 0.5 else None

    @property
    def cut(self) -> str:
        """Deprecated: `truncated_by` as words in the order of the enum, separated by ", ", "" for nothing."""
        return ", ".join(self._truncations())

    def _truncations(self) -> list[str]:
        return [part.value for part in Truncation if part in self.truncated_by]

    def with_frame_cost(self, decode_image_ms: float, preprocess_ms: float) -> Grounding:
        """The same answer, charged for the frame that was made before the request."""
        extra_ms = decode_image_ms + preprocess_ms
        timings = replace(
            self.timings,
            decode_image_ms=decode_image_ms,
            preprocess_ms=self.timings.preprocess_ms + preprocess_ms,
            ttft_ms=self.timings.ttft_ms + extra_ms,
            total_ms=self.timings.total_ms + extra_ms,
        )
        return replace(self, timings=timings)

    def to_supervision(self) -> Any:
        """`supervision.Detections`, pixels of the original image: the box when FOUND, all candidates when AMBIGUOUS, or none.

        `data["class_name"]` holds the labels, the expression where the model wrote none.

        Raises:
            InputError: the package is not installed.
        """
        try:
            from supervision import Detections  # type: ignore[import-not-found,unused-ignore]
        except ImportError:
            raise InputError("the package supervision", "none installed", "pip install supervision") from None
        shown = [Candidate(self.box, self.label)] if self.box else []
        if self.outcome is Outcome.AMBIGUOUS:
            shown = list(self.candidates)
        if not shown:
            return Detections.empty()
        sure = self.confidence is not None and len(shown) == 1
        return Detections(
            xyxy=np.array([c.box.xyxy for c in shown], np.float32),
            confidence=np.array([self.confidence], np.float32) if sure else None,
            class_id=np.zeros(len(shown), np.int64),
            data={"class_name": np.array([c.label or self.expression for c in shown])},
        )

    def to_dict(self) -> dict[str, Any]:
        """A JSON-ready dict; `box` becomes [x1, y1, x2, y2] in pixels of the original image."""
        values = {f.name: getattr(self, f.name) for f in fields(self)}
        values |= {
            "outcome": self.outcome.value,
            "task": self.task.value,
            "image_wh": list(self.image_wh),
            "box": list(self.box.xyxy) if self.box else None,
            "truncated_by": self._truncations(),
            "cut": self.cut,
            "caution": self.caution.value if self.caution else None,
            "candidates": [{"box": list(c.box.xyxy), "label": c.label} for c in self.candidates],
            "reason": self.reason.value if self.reason else None,
            "std_px": list(self.std_px) if self.std_px else None,
            "tokens": asdict(self.tokens),
            "timings": asdict(self.timings),
        }
        return values

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> Grounding:
        """Inverse of `to_dict`; names of others' (a server's `ignored`) are passed over."""
        known = {f.name: values[f.name] for f in fields(cls) if f.name in values}
        box, cut = known.get("box"), values.get("cut", "")
        known |= {
            "outcome": Outcome(known["outcome"]),
            "task": Task(known["task"]),
            "image_wh": tuple(known["image_wh"]),
            "box": Box(*box) if box else None,
            "truncated_by": frozenset(map(Truncation, known.get("truncated_by", cut.split(", ") if cut else ()))),
            "candidates": tuple(Candidate(Box(*c["box"]), c["label"]) for c in known.get("candidates", ())),
            "reason": UnparsableReason(known["reason"]) if known.get("reason") else None,
            "std_px": tuple(known["std_px"]) if known.get("std_px") else None,
            "tokens": TokenCounts(**known.get("tokens", {})),
            "timings": Timings(**known.get("timings", {})),
        }
        return cls(**known)
