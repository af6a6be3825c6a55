"""LiveTracks: the page's live mode. Each session is a camera whose frames a Tracker follows between two answers.

`POST /v1/track?session=NAME&stamp=MS[&track=NAME][&box=x1,y1,x2,y2&box_stamp=MS]` with one JPEG frame as its body: the box of an
answer starts the track on the frame of that stamp, and the reply is where it is on this one, in pixels of the frame. Another name
of the track (another question, or an answer that the thing is not there) ends the one before it.
"""

from __future__ import annotations

import asyncio
import math
import time
from collections import OrderedDict
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from egm_edge.boxes import Box
from egm_edge.errors import InputError
from egm_edge.images import load_image, read_image_wh
from egm_edge.serve.body import ByteBudget, read_body
from egm_edge.serve.errors import RequestError
from egm_edge.serve.settings import ServeSettings
from egm_edge.tracking import TrackedBox, Tracker

MAX_SESSIONS = 4
MAX_PIXELS = 2_000_000
MAX_NAME_CHARS = 64
MAX_STAMP_MS = 1e12


@dataclass(frozen=True, slots=True)
class LiveFrame:
    """One request: a frame of a session, and perhaps an answer to start from. Stamps are nanoseconds of the session's clock."""

    session: str
    track: str
    stamp_ns: int
    jpeg: bytes = field(repr=False)
    box: Box | None = None
    box_stamp_ns: int = 0


class LiveTracks:
    """The trackers of the last MAX_SESSIONS sessions; one thread works for all of them."""

    def __init__(self, settings: ServeSettings, budget: ByteBudget) -> None:
        self._settings, self._budget = settings, budget
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="egm-live")
        self._trackers: OrderedDict[str, Tracker] = OrderedDict()

    async def track(self, request: Request) -> Response:
        """One request."""
        async with read_body(request, self._budget, self._settings, "image/jpeg") as body:
            frame = _frame(request, body.pop())
            reply = await asyncio.get_running_loop().run_in_executor(self._thread, self._follow, frame)
        return JSONResponse(reply)

    def _follow(self, frame: LiveFrame) -> dict[str, Any]:
        try:
            width, height = read_image_wh(frame.jpeg)
            if width * height > MAX_PIXELS:
                found = f"{width}x{height}"
                raise RequestError(
                    413, f"expected a frame of at most {MAX_PIXELS:,} pixels; found {found}", "image_too_large"
                )
            image = load_image(frame.jpeg)
        except InputError as error:
            raise RequestError(400, str(error), "invalid_image") from None
        started = time.perf_counter()
        tracker = self._trackers.pop(frame.session, None) or Tracker()
        self._trackers[frame.session] = tracker
        if len(self._trackers) > MAX_SESSIONS:
            self._trackers.popitem(last=False)
        tracker.push(image, frame.stamp_ns)
        for tracked in tracker.boxes():
            if tracked.track_id != frame.track:
                tracker.stop(tracked.track_id)
        if frame.box is not None:
            tracker.start(frame.track, frame.box, frame.box_stamp_ns)
        boxes = [_told(tracked) for tracked in tracker.boxes()]
        return {"boxes": boxes, "track_ms": (time.perf_counter() - started) * 1e3}


def _told(tracked: TrackedBox) -> dict[str, Any]:
    state, box = tracked.state.value, list(tracked.box.xyxy)
    return {"box": box, "state": state, "quality": tracked.quality, "age_ms": tracked.age_ms}


def _frame(request: Request, jpeg: bytes) -> LiveFrame:
    given = request.query_params
    session, track = given.get("session", ""), given.get("track", "live")
    for key, name in (("session", session), ("track", track)):
        if not 0 < len(name) <= MAX_NAME_CHARS:
            raise _refused(key, f"a name of at most {MAX_NAME_CHARS} characters")
    stamp_ns = _stamp_ns(given.get("stamp"), "stamp")
    if (text := given.get("box")) is None:
        return LiveFrame(session, track, stamp_ns, jpeg)
    try:
        box = Box(*[float(number) for number in text[:200].split(",")])
    except (ValueError, TypeError, InputError):
        raise _refused("box", "x1,y1,x2,y2 in pixels of the frame") from None
    return LiveFrame(session, track, stamp_ns, jpeg, box, _stamp_ns(given.get("box_stamp"), "box_stamp"))


def _stamp_ns(text: str | None, name: str) -> int:
    try:
        stamp_ms = float(text or "")
    except ValueError:
        stamp_ms = math.nan
    if not 0 <= stamp_ms < MAX_STAMP_MS:
        raise _refused(name, "milliseconds from 0 on")
    return int(stamp_ms * 1e6)


def _refused(name: str, expected: str) -> RequestError:
    return RequestError(400, f"expected {name} as {expected}", "invalid_value", param=name)
