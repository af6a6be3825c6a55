"""plan: how many image tokens and samples a deadline affords, and whether a thought. Pure arithmetic over a LatencyModel.

Image tokens come first, because a thought about a blurred picture is worth less than an answer on a sharp one. A thought is
begun only where nine of ten would end in time: half a thought is worse than none (docs/decoding.md has the figures). One
that overruns is closed when what is left is just enough for the answer. Samples come last, because they only confirm.
A cap on tokens is planned alike: a thought of which nine of ten would not end within it is left out.
"""

from __future__ import annotations

from dataclasses import dataclass

from egm_edge.decoding.deadline.latency_model import LatencyModel

IMAGE_SHARES = (1.0, 0.5, 0.25, 0.125)
SAMPLE_COUNTS = (8, 4, 2)
SAMPLES_SHARE_OF_TIME = 0.7  # votes are planned with an average thought; the rest is for longer ones


@dataclass(frozen=True, slots=True)
class Plan:
    """What to spend.

    Attributes:
        image_share: share of the image's tokens, 0-1.
        samples: answers that vote.
        think: begin a thought.
    """

    image_share: float = 1.0
    samples: int = 1
    think: bool = True


def plan(
    cost: LatencyModel,
    remaining_ms: float,
    *,
    image_tokens: int,
    frame_opened: bool,
    prompt_tokens: int,
    answer_steps: int,
    samples: int | None,
    may_think: bool = True,
) -> Plan:
    """Plan one request.

    Args:
        cost: what is known of this machine.
        remaining_ms: until the answer is due; infinite for no deadline.
        image_tokens: of the whole image. frame_opened: they are in the engine already.
        prompt_tokens: of the request. answer_steps: decode steps of a forced answer.
        samples: as asked for; None to choose.
        may_think: no token limit forbids it.
    """
    if remaining_ms == float("inf"):
        return Plan(1.0, samples or 1, may_think)
    least_ms = cost.prompt_ms(prompt_tokens) + cost.answer_ms(answer_steps)[0] + cost.step_ms

    def frame_ms(share: float) -> float:
        return 0.0 if share == 1.0 and frame_opened else cost.frame_ms(round(image_tokens * share))

    share = next((s for s in IMAGE_SHARES if frame_ms(s) + least_ms <= remaining_ms), IMAGE_SHARES[-1])
    think = may_think and share == 1.0 and frame_ms(share) + cost.thought_ms + least_ms <= remaining_ms
    if samples is not None:
        return Plan(share, samples, think)
    free_ms = (remaining_ms - frame_ms(share) - cost.prompt_ms(prompt_tokens)) * SAMPLES_SHARE_OF_TIME
    steps = cost.think_tokens + answer_steps
    affordable = (n for n in SAMPLE_COUNTS if cost.think_tokens and steps * cost.step_ms_of(n) <= free_ms)
    return Plan(share, next(affordable, 1) if think else 1, think)
