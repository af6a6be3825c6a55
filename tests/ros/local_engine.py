"""The engine in the test's own process: what `egm_ros.model_process` does, without the process."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from egm_ros.mailbox import CameraFrame
from egm_ros.model_process import OpenFrame
from egm_ros.requests import Progress, Request
from egm_ros.wire import GroundRequest

from egm_edge.decoding import TokenEvent
from egm_edge.grounding import Grounding


class LocalEngine:
    """Implements `egm_ros.engine.Engine`. Args: grounder: a Grounder or a fake one."""

    def __init__(self, grounder: Any) -> None:
        self.ready = True
        self.cache = OpenFrame(grounder)

    def ground(
        self,
        frame: CameraFrame,
        request: Request,
        *,
        should_stop: Callable[[], bool],
        on_progress: Callable[[Progress], None] | None,
    ) -> Grounding:
        picture = frame.picture
        height, width = picture.array.shape[:2]
        ask = GroundRequest(
            1, frame.key, height, width, picture.array.nbytes, picture.color, frame.stamp_ns,
            request.expression, request.task.value, request.deadline_s, None, None, 0.0,
        )  # fmt: skip

        def on_token(event: TokenEvent) -> None:
            if on_progress is not None:
                on_progress(Progress(event.stage.value, event.count, event.text))

        return self.cache.ground(ask, lambda: picture.array, should_stop, on_token)

    def release_frame(self) -> None:
        self.cache.release()
