"""`egm track SOURCE --box X1,Y1,X2,Y2 | --ask TEXT...`: boxes carried through a video, a folder of frames or a camera.

A model that needs seconds is given them: its answer for a frame reaches the tracker as much later as it took, on footage just
as with a camera, and is replayed from its own frame to the newest one.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any

from egm_edge.boxes import Box
from egm_edge.cli.inputs import VIDEO_SUFFIXES, InputPicture, expand, read
from egm_edge.cli.parser import Parser, positive_float, positive_int
from egm_edge.errors import InputError
from egm_edge.expression import check_expression
from egm_edge.files import check_place, whole_file
from egm_edge.grounding import Grounding, Task
from egm_edge.sources import resolve
from egm_edge.tracking import TrackedBox, Tracker, TrackerSettings
from egm_edge.tracking.followers import FOLLOWERS
from egm_edge.webcam import CameraLostError

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from egm_edge.auto import AnyGrounder

DEFAULT_FPS = 30.0
WRITABLE = (".mp4", ".avi")
CODECS = {".mp4": "mp4v", ".avi": "MJPG"}

EPILOG = """\
examples:
  egm track clip.mp4 --box 120,80,220,190 --save carried.mp4
  egm track clip.mp4 --ask "the red mug" "the kettle" --save carried.mp4 --record boxes.jsonl
  egm track frames/ --fps 25 --box 40,60,90,120 --json
  egm track camera:0 --ask "the red mug" --save live.avi        (Ctrl-C ends it)

One line per frame and object: frame, GROUNDED, PROPAGATED or LOST, box (x1 y1 x2 y2, pixels), quality (the probability that
the box is right), milliseconds since the frame that the model looked at, object.
"""


def main(argv: list[str]) -> int:
    """Run the verb."""
    arguments = _parse(argv)
    for text in arguments.ask or ():
        check_expression(text)
    if "://" in arguments.source:
        raise InputError("a video, a folder of frames or a camera here", repr(arguments.source), "download it first")
    names = expand([arguments.source], allow_urls=False)
    live = arguments.source.startswith(("camera:", "/dev/video"))
    fps = arguments.fps or _frame_rate(arguments.source)
    settings = TrackerSettings(follower=arguments.follower, model_files=tuple(arguments.model_file or ()))
    tracker = Tracker(settings)
    for path in filter(None, (arguments.save, arguments.record)):
        check_place(path, never=map(Path, names))
    if arguments.save is not None and arguments.save == arguments.record:
        raise InputError("different files for --save and --record", f"{arguments.save} twice", "name another file")
    if arguments.save and arguments.save.suffix.lower() not in WRITABLE:
        raise InputError(f"a video name ending in {' or '.join(WRITABLE)}", repr(arguments.save.name), "rename it")
    frames = _frames(names, arguments.every, fps / arguments.every, live)
    first = next(frames)  # a picture that is not there is told before the model is loaded
    for box in arguments.box or ():
        _require_inside(box, first[1].shape[1], first[1].shape[0])
    with contextlib.ExitStack() as stack:
        asker = None
        if arguments.ask:
            from egm_edge.auto import open_grounder

            grounder = stack.enter_context(open_grounder(resolve(arguments.bundle)))
            asker = stack.enter_context(_Asker(grounder, arguments.ask, Task(arguments.task), tracker, live=live))
        writer = stack.enter_context(_writer(arguments.save, first[1], fps / arguments.every))
        record = stack.enter_context(whole_file(arguments.record)) if arguments.record else None
        with _until_the_end(live) as ended:
            for number, (name, image_rgb, stamp_ns) in enumerate(chain([first], frames)):
                tracker.push(image_rgb, stamp_ns)
                for index, box in enumerate(arguments.box or () if number == 0 else ()):
                    tracker.start(f"box {index + 1}", box, stamp_ns)
                if asker is not None:
                    asker.step(image_rgb, stamp_ns)
                boxes = tracker.boxes()
                for tracked in boxes:
                    line = json.dumps(_values(name, tracked), ensure_ascii=False)
                    print(line if arguments.json else _describe(name, tracked), flush=live)
                    if record is not None:
                        record.write(line + "\n")
                writer(image_rgb, boxes)
    if ended:
        raise ended[0]
    return 0


@contextlib.contextmanager
def _until_the_end(live: bool) -> Iterator[list[CameraLostError]]:
    """A camera goes on until Ctrl-C, or until it is lost, which is told when what was written is safe."""
    ended: list[CameraLostError] = []
    try:
        yield ended
    except KeyboardInterrupt:
        if not live:
            raise
    except CameraLostError as error:
        ended.append(error)


def _parse(argv: list[str]) -> argparse.Namespace:
    parser = Parser(prog="egm track", description="Carry boxes through a video or camera.", epilog=EPILOG)
    parser.add_argument("source", metavar="SOURCE", help="a video, a folder of frames, camera:0 or a quoted pattern")
    what = parser.add_mutually_exclusive_group(required=True)
    what.add_argument("--box", type=_box, nargs="+", metavar="X1,Y1,X2,Y2", help="boxes in the first frame, pixels")
    what.add_argument("--ask", nargs="+", metavar="TEXT", help="what to find and follow, in plain words")
    parser.add_argument(
        "--task", choices=[t.value for t in Task], default="modal", help="visible part, or whole object"
    )
    parser.add_argument("--bundle", metavar="MODEL", help="what answers --ask (default: $EGM_BUNDLE, else egm-nano)")
    parser.add_argument(
        "--save", type=Path, metavar="OUT", help=f"write frames with their boxes: {' or '.join(WRITABLE)}"
    )
    parser.add_argument("--record", type=Path, metavar="FILE", help="write one JSON object per frame and object")
    parser.add_argument("--json", action="store_true", help="print one JSON object per frame and object")
    parser.add_argument("--fps", type=positive_float, help="frames a second of a folder, or instead of a video's own")
    parser.add_argument("--every", type=positive_int, default=1, metavar="N", help="take every Nth frame")
    parser.add_argument(
        "--follower", choices=FOLLOWERS, default=FOLLOWERS[0], help="what finds an object in the next frame"
    )
    parser.add_argument("--model-file", nargs="+", metavar="ONNX", help="for vit: one; for nano: backbone and head")
    arguments = parser.parse_args(argv)
    if arguments.box:
        parser.refuse(arguments, ("task", "bundle"), "--ask TEXT")
    return arguments


def _box(text: str) -> Box:
    try:
        box = Box(*(float(part) for part in text.split(",")))
    except (TypeError, ValueError, InputError):
        box = Box(0, 0, 0, 0)
    if not box.area_px2 > 0:
        raise argparse.ArgumentTypeError(f"expected X1,Y1,X2,Y2 with X1 < X2 and Y1 < Y2, found {text[:60]!r}")
    return box


def _require_inside(box: Box, width: int, height: int) -> None:
    x1, y1, x2, y2 = box.xyxy
    if x1 >= width or y1 >= height or x2 <= 0 or y2 <= 0:
        found = ",".join(f"{value:g}" for value in box.xyxy)
        raise InputError(f"a box in the first frame, {width}x{height} pixels", found, "correct --box")


def _frame_rate(source: str) -> float:
    if not source.lower().endswith(VIDEO_SUFFIXES):
        return DEFAULT_FPS
    import cv2

    capture = cv2.VideoCapture(source)
    rate = float(capture.get(cv2.CAP_PROP_FPS))
    capture.release()
    return rate if 0.1 < rate < 1000 else DEFAULT_FPS


def _frames(names: list[str], every: int, fps: float, live: bool) -> Iterator[tuple[str, NDArray[np.uint8], int]]:
    """Name, [H, W, 3] uint8 RGB and stamp of every frame."""
    from egm_edge.images import load_image

    pictures: Iterator[InputPicture] = read(names, every=every)
    for number, picture in enumerate(pictures):
        if len(names) > 1 and number % every:  # `read` skips within a video only
            continue
        stamp_ns = time.monotonic_ns() if live else int(number / (every if len(names) > 1 else 1) / fps * 1e9)
        yield picture.name, load_image(picture.source, picture.color), stamp_ns


class _Asker:
    """Asks one expression after another; an answer arrives as late as the model made it."""

    def __init__(self, grounder: AnyGrounder, texts: list[str], task: Task, tracker: Tracker, *, live: bool) -> None:
        self._grounder, self._task, self._tracker, self._live = grounder, task, tracker, live
        self._waiting = list(texts)
        self._pool, self._ended = ThreadPoolExecutor(1), threading.Event()
        self._pending: tuple[str, int, Future[tuple[Grounding, float]]] | None = None

    def __enter__(self) -> _Asker:
        self._grounder.warm_up()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()  # an answer that nobody waits for ends at its next token
        self._pool.shutdown(cancel_futures=True)

    def step(self, image_rgb: NDArray[np.uint8], stamp_ns: int) -> None:
        """Take an answer that is due; ask again, about this frame, when nobody is being asked."""
        if self._pending is not None and self._due(stamp_ns):
            text, asked_ns, future = self._pending
            self._pending = None
            self._follow(text, asked_ns, future.result()[0])
        if self._pending is None:
            text = next((one for one in self._tracker.reground_order() if one in self._waiting), self._waiting[0])
            self._waiting.remove(text)
            self._waiting.append(text)
            self._pending = (text, stamp_ns, self._pool.submit(self._ground, image_rgb, text))

    def _due(self, stamp_ns: int) -> bool:
        assert self._pending is not None
        _, asked_ns, future = self._pending
        return future.done() if self._live else stamp_ns - asked_ns >= future.result()[1] * 1e9

    def _ground(self, image_rgb: NDArray[np.uint8], text: str) -> tuple[Grounding, float]:
        begin = time.perf_counter()
        stop = self._ended.is_set
        grounding = self._grounder.ground(image_rgb, text, color="rgb", task=self._task, should_stop=stop)
        return grounding, time.perf_counter() - begin

    def _follow(self, text: str, asked_ns: int, grounding: Grounding) -> None:
        box = grounding.box
        if box is None:
            self._tracker.stop(text)
        else:
            whole = box if self._task is Task.AMODAL else None
            self._tracker.start(text, box.clipped(*grounding.image_wh), asked_ns, whole)


def _values(name: str, tracked: TrackedBox) -> dict[str, Any]:
    amodal = tracked.amodal_box
    return {
        "frame": name,
        "stamp_ns": tracked.stamp_ns,
        "object": tracked.track_id,
        "state": tracked.state.value,
        "box": [round(v, 2) for v in tracked.box.xyxy],
        "amodal_box": [round(v, 2) for v in amodal.xyxy] if amodal else None,
        "quality": round(tracked.quality, 3),
        "age_ms": round(tracked.age_ms, 1),
    }


def _describe(name: str, tracked: TrackedBox) -> str:
    box = " ".join(f"{v:7.1f}" for v in tracked.box.xyxy)
    text = " ".join(tracked.track_id.split())
    return f"{name}  {tracked.state.value:<10} {box}  q={tracked.quality:.2f}  {tracked.age_ms:7.0f} ms  {text}"


@contextlib.contextmanager
def _writer(
    path: Path | None, image_rgb: NDArray[np.uint8], fps: float
) -> Iterator[Callable[[NDArray[np.uint8], tuple[TrackedBox, ...]], None]]:
    """Draws frames into a video that is there whole, at the end, or not at all.

    Raises:
        InputError: a place where no video can be written.
    """
    if path is None:
        yield lambda image, boxes: None
        return
    import cv2

    from egm_edge.draw import draw_tracked

    height, width = image_rgb.shape[:2]
    unfinished = path.with_name(f".{path.stem}.unfinished{path.suffix}")
    video = cv2.VideoWriter(str(unfinished), cv2.VideoWriter.fourcc(*CODECS[path.suffix.lower()]), fps, (width, height))
    if not video.isOpened():
        raise InputError(f"to write {path}", "OpenCV cannot", "choose another place or an .avi")

    def write(image: NDArray[np.uint8], boxes: tuple[TrackedBox, ...]) -> None:
        drawn = cv2.cvtColor(draw_tracked(image, boxes), cv2.COLOR_RGB2BGR)
        # OpenCV leaves out, without a word, what is not of the first frame's size.
        video.write(drawn if image.shape == image_rgb.shape else cv2.resize(drawn, (width, height)))

    try:
        yield write
        video.release()
        unfinished.replace(path)
        print(f"egm: wrote {path}", file=sys.stderr)
    finally:
        video.release()
        unfinished.unlink(missing_ok=True)
