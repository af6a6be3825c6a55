"""The shipped node with a stand-in for the model: `python fake_node.py --ros-args …`. For tests only.

`FakeGrounder` has the signatures of `egm_edge.grounder.Grounder` and answers from the pixels, so that a wrong encoding, a
wrong frame or a swapped channel gives a wrong box.
"""

from __future__ import annotations

import os
import signal
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from egm_edge.boxes import Box
from egm_edge.decoding import Stage, TokenEvent
from egm_edge.errors import BundleError
from egm_edge.grounding import Grounding, Outcome, Task, Timings, TokenCounts

CHANNELS = {"red": 0, "green": 1, "blue": 2}
TOKEN_S = 0.01


@dataclass
class FakeFrame:
    array: NDArray[np.uint8]  # [H, W, 3] RGB
    stamp_ns: int | None
    preprocess_ms: float = 1.0
    asked: int = 0


class FakeGrounder:
    """Finds the brightest pixels of a colour.

    The expression is a small script: its first colour word is what to find; `tokens=N` makes the answer N tokens of 10 ms
    long; `nothing` is not found; `explode` raises an unexpected error; `hang` never comes back; `die` kills its process.
    """

    bundle_hash, pixel_spec_hash, prompt_spec_hash = "b" * 64, "c" * 64, "d" * 64

    def __init__(self, settings: Any) -> None:
        if settings.bundle_path == "missing":
            raise BundleError("a bundle", "nothing at missing", "build one with `egm build`")
        if settings.bundle_path == "slow":
            time.sleep(60.0)
        self.closed = False

    def warm_up(self) -> None:
        time.sleep(0.01)

    def close(self) -> None:
        self.closed = True

    def frame(self, image: NDArray[np.uint8], *, color: str | None = None, stamp_ns: int | None = None) -> FakeFrame:
        assert image.dtype == np.uint8 and image.ndim == 3 and image.shape[2] == 3
        return FakeFrame((image[..., ::-1] if color == "bgr" else image).copy(), stamp_ns)

    def ground(
        self,
        image: FakeFrame,
        expression: str,
        *,
        task: Task | str = Task.MODAL,
        color: str | None = None,
        stamp_ns: int | None = None,
        max_new_tokens: int | None = None,
        max_think_tokens: int | None = None,
        deadline_at: float | None = None,
        should_stop: Callable[[], bool] | None = None,
        on_token: Callable[[TokenEvent], None] | None = None,
    ) -> Grounding:
        assert not self.closed
        started = time.perf_counter()
        words = expression.split()
        if "explode" in words:
            raise RuntimeError("the fake engine was told to")
        if "hang" in words:
            time.sleep(3600)
        if "die" in words:
            os.kill(os.getpid(), signal.SIGKILL)
        reused, image.asked = image.asked > 0, image.asked + 1
        count = next((int(word[7:]) for word in words if word.startswith("tokens=")), 3)
        outcome = Outcome.NOT_FOUND if "nothing" in words else Outcome.FOUND
        for number in range(1, count + 1):
            if should_stop is not None and should_stop():
                outcome = Outcome.CANCELLED
                break
            if deadline_at is not None and time.monotonic() >= deadline_at:
                outcome = Outcome.TIMED_OUT
                break
            time.sleep(TOKEN_S)
            if on_token is not None:
                on_token(TokenEvent(number, f"t{number} ", Stage.THINK if number < count else Stage.ANSWER))
        channel = next((CHANNELS[word] for word in words if word in CHANNELS), 0)
        box = _bright_box(image.array, channel) if outcome is Outcome.FOUND else None
        return Grounding(
            outcome=outcome if box or outcome is not Outcome.FOUND else Outcome.NOT_FOUND,
            expression=expression,
            task=Task.parse(task),
            image_wh=(image.array.shape[1], image.array.shape[0]),
            box=box,
            tokens=TokenCounts(prompt=10, image=4, completion=count),
            timings=Timings(total_ms=(time.perf_counter() - started) * 1e3, frame_reused=reused),
            stamp_ns=image.stamp_ns,
            deadline_met=None if deadline_at is None else outcome is not Outcome.TIMED_OUT,
            bundle_hash=self.bundle_hash,
            pixel_spec_hash=self.pixel_spec_hash,
            prompt_spec_hash=self.prompt_spec_hash,
        )


def _bright_box(array: NDArray[np.uint8], channel: int) -> Box | None:
    """Bounds of the pixels in which one channel is bright and the others are not."""
    others = [c for c in range(3) if c != channel]
    ys, xs = np.nonzero((array[..., channel] > 150) & (array[..., others].max(-1) < 110))
    return Box(*map(float, (xs.min(), ys.min(), xs.max() + 1, ys.max() + 1))) if len(xs) else None


if __name__ == "__main__":
    import faulthandler

    from egm_ros.process import StopRequest

    stop = StopRequest()
    from egm_ros.grounding_node import main

    faulthandler.register(signal.SIGUSR1)  # every thread's stack, for a node that hangs

    sys.exit(main(sys.argv, "fake_node:FakeGrounder", stop))
