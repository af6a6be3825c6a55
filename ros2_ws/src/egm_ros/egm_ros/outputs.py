"""What the node says of one camera: detections, grounded objects, annotated images. Publishers, QoS and their threads."""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import partial

import numpy as np
from egm_interfaces.msg import GroundedObjectArray
from numpy.typing import NDArray
from rclpy.lifecycle import LifecycleNode
from rclpy.qos import QoSProfile, ReliabilityPolicy
from sensor_msgs.msg import CompressedImage, Image
from vision_msgs.msg import Detection2DArray

from egm_edge.tracking import TrackState
from egm_ros.annotator import Annotator, drawable
from egm_ros.counters import Count, Counters
from egm_ros.latency import smoothed_rate
from egm_ros.mailbox import CameraFrame
from egm_ros.messages import (
    LOOKED_EVERYWHERE,
    to_detections,
    to_grounded_object,
    to_object_array,
    to_tracked_detections,
    to_tracked_object,
)
from egm_ros.publishing import PublishingThread
from egm_ros.requests import Answer
from egm_ros.settings import Settings
from egm_ros.standard_messages import to_compressed, to_image
from egm_ros.track_propagator import TrackedAnswer

STOP_S = 0.3


def _profile(reliability: str, depth: int) -> QoSProfile:
    return QoSProfile(depth=depth, reliability=ReliabilityPolicy[reliability.upper()])


class Outputs:
    """Publishes while the node is active (its publishers are lifecycle publishers); methods return at once, but `pause` and `stop`.

    Args:
        prefix: of the topics, "left/" for a camera of that name.
        settings: QoS is read here, once; the rest at every use.
        now_ns: the node's clock.
        on_error: told why something could not be published.
    """

    def __init__(
        self,
        node: LifecycleNode,
        prefix: str,
        settings: Callable[[], Settings],
        counters: Counters,
        now_ns: Callable[[], int],
        on_error: Callable[[Exception], None],
    ) -> None:
        self._settings, self._counters, self._now_ns, self._on_error = settings, counters, now_ns, on_error
        at_start = settings()
        detections = _profile(at_start.detections_reliability, at_start.detections_depth)
        objects = _profile(at_start.grounded_objects_reliability, at_start.grounded_objects_depth)
        pictures = _profile(at_start.annotated_reliability, 1)
        create = node.create_lifecycle_publisher
        self._detections = create(Detection2DArray, f"{prefix}detections", detections)
        self._objects = create(GroundedObjectArray, f"{prefix}grounded_objects", objects)
        self._annotated = create(Image, f"{prefix}annotated", pictures)
        self._annotated_compressed = create(CompressedImage, f"{prefix}annotated/compressed", pictures)
        self._annotator = Annotator(settings, self._is_watched, self._publish_picture, on_error)
        self._detections_thread, self._objects_thread = (
            PublishingThread(
                f"egm-{name}",
                on_error,
                on_slow=partial(counters.add, Count.PUBLISHES_SLOW),
                on_skipped=partial(counters.add, Count.PUBLISHES_SKIPPED),
            )
            for name in ("detections", "objects")
        )
        self._threads = (self._annotator.thread, self._detections_thread, self._objects_thread)
        self._last_s = time.monotonic()
        self.rate_hz = 0.0

    def answer(self, answer: Answer, *, tracked: bool) -> None:
        """An answer, once, under its own frame's header; a picture of it unless it is tracked from now on."""
        now_ns = self._now_ns()
        self._objects_thread.keep(lambda: self._objects.publish(to_object_array([to_grounded_object(answer, now_ns)])))
        frame, grounding = answer.frame, answer.grounding
        if frame is not None and grounding is not None and not tracked:
            self._annotator.offer(frame, lambda: [grounding])

    def untracked(self, frame: CameraFrame, answers: tuple[Answer, ...]) -> None:
        """The answers to standing queries about one frame, where nothing carries them on: one array."""
        self._detections_thread.keep(lambda: self._detections.publish(to_detections(frame, answers)))

    def tracked(self, frame: CameraFrame, tracked: tuple[TrackedAnswer, ...]) -> None:
        """Everything that is tracked, at one frame; called at camera rate."""
        now_s, now_ns = time.monotonic(), self._now_ns()
        self.rate_hz, self._last_s = smoothed_rate(self.rate_hz, now_s - self._last_s), now_s
        self._detections_thread.newest(lambda: self._detections.publish(to_tracked_detections(tracked, frame)))
        # What is GROUNDED on this very frame was published as the answer it is.
        carried = [one for one in tracked if one.tracked.state is not TrackState.GROUNDED]
        if carried:
            self._objects_thread.newest(
                lambda: self._objects.publish(
                    to_object_array([to_tracked_object(one, frame, now_ns) for one in carried])
                )
            )
        self._annotator.offer(frame, lambda: drawable(tracked))

    def pause(self) -> None:
        """Until `resume` nothing is said of tracks; returns when the answers are out, unless a subscriber stalls."""
        for thread in self._threads:
            thread.pause(STOP_S)

    def resume(self) -> None:
        for thread in self._threads:
            thread.resume()

    def stop(self) -> None:
        for thread in self._threads:
            thread.stop(STOP_S)

    def _is_watched(self) -> bool:
        return any(p.get_subscription_count() > 0 for p in (self._annotated, self._annotated_compressed))

    def _publish_picture(self, frame: CameraFrame, rgb: NDArray[np.uint8]) -> None:
        header, settings = frame.message.header, self._settings()
        if self._annotated.get_subscription_count() > 0:
            self._annotated.publish(to_image(rgb, "rgb", header))
        if self._annotated_compressed.get_subscription_count() > 0:
            kind = settings.annotated_format
            level = settings.annotated_png_level if kind == "png" else settings.annotated_jpeg_quality
            self._annotated_compressed.publish(to_compressed(rgb, "rgb", header, file_format=kind, level=level))
        self._counters.add(Count.ANNOTATED_IMAGES)


class UntrackedAnswers:
    """Gathers the answers about one frame, so that there is one array a stamp: they come one after the other.

    A frame's array is complete when everything that stands has been answered on it, or an answer on a newer one has come.

    Args:
        publish: called with a frame and the answers about it.
        standing_ids: what stands.
    """

    def __init__(
        self, publish: Callable[[CameraFrame, tuple[Answer, ...]], None], standing_ids: Callable[[], set[str]]
    ) -> None:
        self._publish, self._standing_ids = publish, standing_ids
        self._answers: dict[str, Answer] = {}
        self._frame: CameraFrame | None = None
        self._published = False

    def add(self, answer: Answer) -> None:
        """Called in the dispatcher's thread, with answers to standing queries."""
        grounding, frame = answer.grounding, answer.frame
        if grounding is None or frame is None or grounding.outcome not in LOOKED_EVERYWHERE:
            return
        if frame is not self._frame:
            self._flush()
            self._frame, self._published = frame, False
        if self._published:
            return
        self._answers[answer.request.request_id] = answer
        if self._standing_ids() <= self._answers.keys():
            self._flush()

    def _flush(self) -> None:
        answers, self._answers = self._answers, {}
        if answers and self._frame is not None:
            self._published = True
            self._publish(self._frame, tuple(answers.values()))
