"""One camera of the node: its mailbox, its tracks, its sentences and its topics. Several of them share one model."""

from __future__ import annotations

import traceback
from typing import Any

from rclpy.lifecycle import LifecycleNode

from egm_edge.errors import EgmError, InputError
from egm_edge.grounding import Outcome, Task
from egm_ros import conversion
from egm_ros.command_topic import CommandTopic
from egm_ros.counters import ANSWERED, REJECTED, Count, Counters
from egm_ros.diagnostics import CameraHealth
from egm_ros.dispatcher import CameraQueue, Dispatcher
from egm_ros.latency import LatencyLog
from egm_ros.mailbox import CameraFrame, Mailbox
from egm_ros.messages import LOOKED_EVERYWHERE
from egm_ros.outputs import Outputs, UntrackedAnswers
from egm_ros.request_servers import Host, RequestServers
from egm_ros.requests import Answer, Request
from egm_ros.settings import Settings
from egm_ros.standing_queries import StandingQuery
from egm_ros.times import nanoseconds
from egm_ros.track_propagator import TrackedAnswer, TrackPropagator
from egm_ros.validation import check_command
from egm_ros.warnings_by_kind import WarningsByKind


class Camera:
    """Made with the node; hears and publishes between `listen` and `stop_listening`.

    Args:
        node, host: the same node, as ROS sees it and as this object knows it.
        name: "" for the only one; topics and services are below it otherwise.
        mailbox: its frames.
        latency: where the model's answers are noted.
    """

    def __init__(self, node: LifecycleNode, host: Host, name: str, mailbox: Mailbox, latency: LatencyLog) -> None:
        self.name, self._node, self._host, self.mailbox, self._latency = name, node, host, mailbox, latency
        self._prefix = f"{name}/" if name else ""
        self.counters = Counters()
        log = node.get_logger()
        # Two lambdas: rclpy allows one severity for each place that its logger is called from.
        self._warn = WarningsByKind(lambda text: log.warning(text))
        self._complain = WarningsByKind(lambda text: log.error(text))
        self._outputs = Outputs(
            node, self._prefix, lambda: host.settings, self.counters, host.now_ns, self._on_output_error
        )
        self._requests = RequestServers(node, host, self._prefix, self._place, self.counters, self.refuse)
        self._source: CameraQueue | None = None
        self._tracks: TrackPropagator | None = None
        self._untracked: UntrackedAnswers | None = None
        self._commands: CommandTopic | None = None
        self._is_listening = self._was_silent = False
        self._last_stamp_ns = 0

    @property
    def settings(self) -> Settings:
        return self._host.settings

    def _place(self) -> tuple[Dispatcher, CameraQueue]:
        """Where requests go, and this camera's queue there. Raises: InputError: the node is not active, or paused."""
        dispatcher, source = self._host.dispatcher, self._source
        if source is None:  # the node's cameras begin to listen one after the other
            raise InputError("an active camera", "one that is being activated", "ask again in a moment")
        return dispatcher, source

    def refuse(self, count: Count, why: str) -> None:
        """Count something unusable and warn, now and then."""
        self._warn(count, f"{why} ({count.value}: {self.counters.add(count)})")

    def listen(self, dispatcher: Dispatcher) -> None:
        """From now on frames and sentences are taken."""
        if self._source is None:
            self._source = dispatcher.add_source(self.mailbox, self._on_answer)
        settings, source = self.settings, self._source
        if settings.track:
            self._tracks = TrackPropagator(
                self.mailbox,
                settings,
                self._on_boxes,
                self._on_poor_tracks,
                self._on_bad_frame,
                self._on_track_error,
                source.standing_ids,
            )
        else:
            self._untracked = UntrackedAnswers(self._outputs.untracked, source.standing_ids)
        self._is_listening = True
        self._commands = CommandTopic(self._node, self.topic("command"), self._on_command)

    def stop_listening(self) -> None:
        """Frames and sentences are not taken any more; the dispatcher has been told to drop what it has."""
        self._is_listening = False
        commands, self._commands = self._commands, None
        tracks, self._tracks = self._tracks, None
        self._untracked = None
        if commands is not None:
            commands.close()
        if tracks is not None:
            tracks.stop()
        self.mailbox.clear()

    def pause(self) -> None:
        """Say nothing more of tracks until `resume`; returns when the answers are out."""
        self._outputs.pause()

    def resume(self) -> None:
        self._outputs.resume()

    def forget_dispatcher(self) -> None:
        self._source = None

    def close(self) -> None:
        self._outputs.stop()

    def destroy(self) -> None:
        self._requests.destroy()

    def on_image(self, message: Any) -> None:
        """Called in the cameras' thread."""
        stamp_ns = nanoseconds(message.header.stamp)
        if stamp_ns < self._last_stamp_ns:
            back_s = (self._last_stamp_ns - stamp_ns) / 1e9
            self.refuse(Count.STAMPS_WENT_BACK, f"an image is stamped {back_s:.3f} s back")
        self._last_stamp_ns = stamp_ns
        try:
            conversion.check(message, self.settings.max_image_pixels)
        except conversion.RejectedImageError as error:
            self._on_bad_frame(error)
            return
        self.mailbox.put(message, self.settings.max_image_pixels)

    def topic(self, name: str) -> str:
        return f"{self._prefix}{name}"

    def health(self, *, is_active: bool) -> CameraHealth:
        """Of now; notes when the camera has gone silent."""
        silent_s = self.mailbox.silent_s()
        is_silent = is_active and silent_s > self.settings.camera_timeout_s
        if is_silent and not self._was_silent:
            self.counters.add(Count.CAMERA_WENT_SILENT)
        self._was_silent = is_silent
        tracks = self._tracks
        return CameraHealth(
            name=self.name,
            received=self.mailbox.received,
            skipped=self.mailbox.skipped,
            ages_ms=self.mailbox.ages_ms(),
            silent_s=silent_s,
            is_silent=is_silent,
            tracks=tracks.health() if tracks is not None else None,
            output_rate_hz=self._outputs.rate_hz,
        )

    def _on_bad_frame(self, error: EgmError) -> None:
        known = isinstance(error, conversion.RejectedImageError)
        self.refuse(REJECTED[error.reason] if known else Count.REJECTED_UNUSABLE, f"image refused: {error}")

    def _on_command(self, text: str) -> None:
        source, settings = self._source, self.settings
        if source is None or not self._is_listening:
            return
        if not text.strip():
            source.clear_command()
            return
        try:
            expression = check_command(text, settings)
            request = Request(f"cmd-{self.counters.add(Count.COMMANDS)}", expression, Task(settings.task))
            source.say(StandingQuery(request, time_s=settings.deadline_s or None))
        except InputError as error:
            self.refuse(Count.COMMANDS_REFUSED, f"command refused: {error}")

    def _on_answer(self, answer: Answer) -> None:
        """Called in the dispatcher's thread, which must outlive a message that cannot be published."""
        try:
            self._report(answer)
        except Exception as error:
            self._on_output_error(error)

    def _report(self, answer: Answer) -> None:
        grounding = answer.grounding
        self.counters.add(Count.ANSWERS_FAILED if grounding is None else ANSWERED[grounding.outcome])
        if grounding is None:
            why = f"{answer.request.request_id}: {answer.error}\n{answer.trace}".rstrip()
            self._complain(Count.ANSWERS_FAILED, why)
        else:
            self._latency.add(grounding)
        superseded = answer.standing and grounding is not None and grounding.outcome is Outcome.CANCELLED
        if superseded or not self._is_listening:
            return
        tracks, untracked = self._tracks, self._untracked
        self._outputs.answer(answer, tracked=answer.standing and tracks is not None)  # before any box that carries it on
        if answer.standing and tracks is not None and grounding is not None and grounding.outcome in LOOKED_EVERYWHERE:
            tracks.take(answer)
        if answer.standing and untracked is not None:
            untracked.add(answer)

    def _on_boxes(self, frame: CameraFrame, tracked: tuple[TrackedAnswer, ...]) -> None:
        """Called in the tracks' thread, at camera rate."""
        if self._is_listening:
            self._outputs.tracked(frame, tracked)

    def _on_poor_tracks(self, request_ids: tuple[str, ...]) -> None:
        source = self._source
        if source is not None and self.settings.reground != "on_demand":
            source.want(request_ids)

    def _on_track_error(self, error: Exception) -> None:
        why = (
            f"following failed: {type(error).__name__}: {error}\n{''.join(traceback.format_exception(error))}".rstrip()
        )
        self.counters.add(Count.REJECTED_UNUSABLE)
        self._complain("following", why)

    def _on_output_error(self, error: Exception) -> None:
        self.counters.add(Count.PUBLISHES_FAILED)
        why = f"publishing failed: {type(error).__name__}: {error}"
        self._complain(Count.PUBLISHES_FAILED, why)
