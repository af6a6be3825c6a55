"""Draws boxes on the newest frame for whoever looks, in a thread of its own; draws nothing while nobody does.

Knows nothing of ROS: it is told whether somebody looks, and hands arrays out.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from egm_edge.draw import draw_groundings
from egm_edge.grounding import Grounding
from egm_edge.tracking import TrackState
from egm_ros.mailbox import CameraFrame
from egm_ros.publishing import PublishingThread
from egm_ros.settings import Settings
from egm_ros.track_propagator import TrackedAnswer

Publish = Callable[[CameraFrame, NDArray[np.uint8]], None]


class Annotator:
    """One slot: frames that come while it draws are passed over.

    Args:
        settings: rate; asked at every frame.
        is_watched: whether anybody subscribes.
        publish: called with the frame and [H, W, 3] uint8 RGB.
        on_error: told why a picture could not be made or sent.

    Attributes:
        thread: that draws and publishes; to be stopped.
    """

    def __init__(
        self,
        settings: Callable[[], Settings],
        is_watched: Callable[[], bool],
        publish: Publish,
        on_error: Callable[[Exception], None],
    ) -> None:
        self._settings, self._is_watched, self._publish = settings, is_watched, publish
        self._not_before_s = float("-inf")
        self.thread = PublishingThread("egm-annotator", on_error)

    def offer(self, frame: CameraFrame, groundings: Callable[[], list[Grounding]]) -> None:
        """Cheap while nobody looks. Args: groundings: what to draw; called only if it will be drawn."""
        now_s = time.monotonic()
        if now_s < self._not_before_s or not self._is_watched():
            return
        self._not_before_s = now_s + self._settings().annotated_period_s
        shown = groundings()
        self.thread.newest(lambda: self._draw(frame, shown))

    def _draw(self, frame: CameraFrame, groundings: list[Grounding]) -> None:
        picture = frame.picture
        rgb = picture.array if picture.color == "rgb" else picture.array[..., ::-1]
        self._publish(frame, draw_groundings(rgb, groundings))


def drawable(followed: tuple[TrackedAnswer, ...]) -> list[Grounding]:
    """The tracks as groundings at their new place; a lost one says so beside the last box it was believed in."""
    shown = []
    for one in followed:
        grounding, tracked = one.answer.grounding, one.tracked
        if grounding is None:
            continue
        if tracked.state is TrackState.LOST:
            shown.append(replace(grounding, expression=f"{grounding.expression} (lost)", box=tracked.box))
        else:
            shown.append(replace(grounding, box=tracked.amodal_box or tracked.box))
    return shown
