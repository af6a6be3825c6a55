"""`egm ground IMAGE... --ask TEXT...`: boxes for sentences in pictures, as lines, JSON or drawn pictures.

Everything cheap is checked before the model is loaded. Several texts share one frame: the second pays only its own words.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from collections.abc import Sequence
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any

from egm_edge.assets import shipped_hash
from egm_edge.cli.inputs import InputPicture, expand, is_film, read
from egm_edge.cli.parser import Parser, add_engine_options, positive_float, positive_int, whole_number
from egm_edge.errors import InputError
from egm_edge.expression import check_expression
from egm_edge.grounding import Caution, Grounding, Outcome, Task
from egm_edge.sources import SourceKind, resolve

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from egm_edge.auto import AnyGrounder

WARM_UP_TOKENS = 4
MAX_SAMPLES = 32
SHIPPED_WORLD = "EGM-Nano knows drawn and rendered tabletop scenes, not photographs"

EPILOG = """\
examples:
  egm ground photo.png "the red mug left of the kettle" --save out.png
  egm ground shots/*.jpg --ask "the red mug" "the kettle" --save boxes/
  egm ground clip.mp4 --every 30 --ask "the red mug" --json | jq .box
  cat photo.jpg | egm ground - "the hidden cup" --task amodal

IMAGE is a picture, a folder of them, a quoted pattern, a video, camera:0, - for stdin, or with --allow-urls an address.
One line per text: outcome, box (x1 y1 x2 y2, pixels of the picture as it is displayed, EXIF orientation applied), task,
confidence, milliseconds, text, what was cut short or is to be doubted; before it the picture's name where there are several.
The exit code is 0 when every text was answered, whatever the outcome.
"""


def main(argv: list[str]) -> int:
    """Run the verb."""
    parser = _parser()
    arguments = parser.parse_args(argv)
    images, texts = _images_and_texts(arguments)
    for text in texts:
        check_expression(text)
    names = expand(images, allow_urls=arguments.allow_urls)
    if not any(map(is_film, names)):
        parser.refuse(arguments, ("every",), "a video or a camera", names[0])
    target = _SavePlace.of(arguments.save, names)
    source = resolve(arguments.bundle)
    if source.kind is SourceKind.SERVER:
        parser.refuse(arguments, ("timings", "memory", "threads"), "a bundle or checkpoint", f"the server {source.text}")
    pictures = read(names, every=arguments.every)
    first = next(pictures)  # a picture that is not there is told before the model is loaded
    if isinstance(first.source, Path):
        from egm_edge.images import check_image_file

        check_image_file(first.source)

    from egm_edge.auto import open_grounder
    from egm_edge.reporting.progress import told_when_slow

    started = time.perf_counter()
    with told_when_slow(f"opening {source.text}: checksums, then the engine", None if arguments.json else sys.stderr):
        grounder = open_grounder(source, memory=arguments.memory, threads=arguments.threads)
    with grounder:
        load_ms = (time.perf_counter() - started) * 1000.0
        if arguments.timings:  # the same image size as what is measured, so that no buffer grows inside a measured stage
            grounder.ground(first.source, texts[0], color=first.color, task=arguments.task, max_new_tokens=WARM_UP_TOKENS)
        for picture in chain([first], pictures):
            groundings, image_rgb = _ground(grounder, picture, texts, arguments, several=len(names) > 1 or "#" in first.name)
            if arguments.timings:
                _print_timings(grounder, groundings, load_ms, as_json=arguments.json)
            if target:
                target.draw(picture, groundings, image_rgb)
    return 0


def _parser() -> Parser:
    parser = Parser(prog="egm ground", description="Find what sentences describe in pictures.", epilog=EPILOG)
    parser.add_argument("inputs", metavar="IMAGE [TEXT...]", nargs="+", help="one picture and texts; or pictures and --ask")
    parser.add_argument("--ask", metavar="TEXT", nargs="+", help="what to find, in plain words, in every picture")
    parser.add_argument("--task", choices=[t.value for t in Task], default="modal", help="visible part, or whole object")
    parser.add_argument(
        "--bundle", metavar="MODEL", help="bundle, checkpoint, hub id or server to ask (default: $EGM_BUNDLE, else egm-nano)"
    )
    parser.add_argument("--json", action="store_true", help="one JSON object per answer")
    parser.add_argument("--save", metavar="OUT", help="write pictures with their boxes: a .png or .jpg file, or a folder")
    parser.add_argument("--every", type=positive_int, default=1, metavar="N", help="of a video or camera, every Nth frame")
    parser.add_argument("--allow-urls", action="store_true", help="fetch pictures that are named by http(s) addresses")
    parser.add_argument(
        "--reduced-decoding", action="store_true", help="JPEGs at their own 1/2, 1/4 or 1/8: not the reference's pixels"
    )
    parser.add_argument("--timings", action="store_true", help="warm up first, then print every stage in milliseconds")
    add_engine_options(parser)
    parser.add_argument("--max-new-tokens", type=positive_int, metavar="N", help="stop a text's answer after N tokens")
    parser.add_argument("--deadline-ms", type=positive_float, metavar="MS", help="a box this long after asking, warmed up")
    parser.add_argument("--max-think-tokens", type=whole_number(0, 2**31 - 1), metavar="N", help="0: no reasoning")
    parser.add_argument("--samples", type=whole_number(1, MAX_SAMPLES), metavar="N", default=1, help="answers that vote")
    return parser


def _images_and_texts(arguments: argparse.Namespace) -> tuple[list[str], list[str]]:
    """The two forms: IMAGE TEXT..., or IMAGE... --ask TEXT....

    Raises:
        InputError: no text, or a text that is a picture's name (a shell's glob gives those).
    """
    image, *texts = arguments.inputs
    images, texts = (arguments.inputs, arguments.ask) if arguments.ask else ([image], texts)
    if not texts:
        raise InputError("a TEXT, what to find", "a picture alone", 'add it: egm ground IMAGE "the red mug"')
    for text in texts:
        if _is_file(text):
            hint = 'put texts behind --ask: egm ground IMAGE... --ask "the red mug"'
            if not arguments.ask and " " in image and not _is_file(image):
                hint = f'the picture comes first: egm ground {text} "{image}"'
            raise InputError("a text", f"the file {text!r}", hint)
    return images, texts


def _is_file(text: str) -> bool:
    try:
        return Path(text).is_file()
    except (OSError, ValueError):  # too long for a name, or a NUL in it
        return False


class _SavePlace:
    """Where drawn pictures go: one file, or a folder with a PNG for every picture."""

    def __init__(self, path: Path, *, folder: bool, inputs: Sequence[Path]) -> None:
        self._path, self._folder = path, folder
        self._inputs = [p for p in inputs if p.exists()]

    @classmethod
    def of(cls, given: str | None, names: Sequence[str]) -> _SavePlace | None:
        """Checked before any work is done.

        Raises:
            InputError: no such folder, one file for several pictures, or a place where a picture that is read lies.
        """
        if given is None:
            return None
        from egm_edge.draw import SAVE_SUFFIXES, check_save_path

        if not given.strip():
            raise InputError("a file or folder for --save", repr(given), "name one")
        path = Path(given)
        folder = os.path.isdir(path) or given.endswith("/") or (not path.suffix and os.path.isdir(path.parent) and len(names) > 1)
        place = cls(path, folder=folder, inputs=[Path(name) for name in names if "://" not in name and name != "-"])
        if folder:
            try:
                path.mkdir(exist_ok=True)
            except OSError as error:
                raise InputError(f"a folder at {path}", error.strerror or str(error), "choose another --save") from None
            targets = [place._file_of(InputPicture(name, b"")) for name in names]
            if len(set(targets)) < len(targets):
                raise InputError("pictures with different names for --save FOLDER", "two of one name", "save them in turns")
            check_save_path(targets[0])
        elif len(names) > 1:
            raise InputError("a folder for the pictures of --save", f"{given!r}, one file for {len(names)}", "pass FOLDER/")
        else:
            targets = [check_save_path(path)]
        for target in targets:
            place._refuse_input(target)
        if not folder and path.suffix.lower() not in SAVE_SUFFIXES:
            raise InputError(f"a name ending in {', '.join(SAVE_SUFFIXES)}", repr(given), "rename it")
        return place

    def draw(self, picture: InputPicture, groundings: Sequence[Grounding], image_rgb: NDArray[np.uint8] | None) -> None:
        """Write the picture with its boxes; it is decoded again only where no frame of it was kept."""
        from egm_edge.draw import draw_groundings, save_image
        from egm_edge.images import load_image

        target = self._file_of(picture)
        self._refuse_input(target)
        image = load_image(picture.source, picture.color) if image_rgb is None else image_rgb
        save_image(target, draw_groundings(image, groundings))

    def _file_of(self, picture: InputPicture) -> Path:
        return self._path / f"{Path(picture.file_stem).stem}.png" if self._folder else self._path

    def _refuse_input(self, target: Path) -> None:
        if any(target.exists() and target.samefile(path) for path in self._inputs):
            raise InputError("a place of its own for --save", f"{target}, which is a picture to read", "name another file")


def _ground(
    grounder: AnyGrounder, picture: InputPicture, texts: Sequence[str], arguments: argparse.Namespace, *, several: bool
) -> tuple[list[Grounding], NDArray[np.uint8] | None]:
    reduced = arguments.reduced_decoding
    frame = None
    if not arguments.deadline_ms:
        frame = grounder.frame(picture.source, color=picture.color, reduced_decoding=reduced)
    if frame is None:  # the deadline decides how many pixels are looked at, so every text sees the image anew
        grounder.warm_up()
    groundings: list[Grounding] = []
    for text in texts:
        grounding = grounder.ground(
            frame or picture.source,
            text,
            color=None if frame else picture.color,
            reduced_decoding=reduced and frame is None,
            task=arguments.task,
            max_new_tokens=arguments.max_new_tokens,
            deadline_ms=arguments.deadline_ms,
            max_think_tokens=arguments.max_think_tokens,
            samples=arguments.samples,
        )
        if frame and not groundings:
            grounding = frame.charged_to(grounding)
        groundings.append(grounding)
        if not arguments.json:
            shipped = grounder.bundle_hash == shipped_hash()
            print(f"{picture.name}: " * several + describe(grounding, world=SHIPPED_WORLD * shipped), flush=True)
        elif not arguments.timings:
            print(json.dumps(_values(grounding, picture, several), ensure_ascii=False), flush=True)
    whole = frame is not None and groundings[0].reduced_by == 1
    return groundings, getattr(frame, "image_rgb", None) if whole else None


def _values(grounding: Grounding, picture: InputPicture, several: bool) -> dict[str, Any]:
    return ({"image": picture.name} if several else {}) | grounding.to_dict()


def describe(grounding: Grounding, *, world: str = "") -> str:
    """One line for people: outcome, box, task, confidence, milliseconds, expression, and why it is not a plain answer.

    Args:
        world: what the model knows, told beside a box that is a guess.
    """
    box = " ".join(f"{v:7.1f}" for v in grounding.box.xyxy) if grounding.box else "      -" + " " * 24
    without = "uncalibrated" if grounding.box else "-"  # the map speaks of boxes
    confidence = without if grounding.confidence is None else f"p={grounding.confidence:.2f}"
    notes = [f"why: {grounding.reason.value}"] if grounding.reason else []
    if grounding.outcome is Outcome.AMBIGUOUS and len(grounding.candidates) > 1:
        notes.append(f"{len(grounding.candidates)} boxes named")
    if grounding.truncated_by:
        notes.append(f"truncated: {grounding.cut}")
    if grounding.reduced_by > 1:
        notes.append(f"decoded at 1/{grounding.reduced_by}: not the reference's pixels")
    if grounding.caution is Caution.GUESS:
        notes.append("; ".join(filter(None, ["low confidence: treat this box as a guess", world])))
    elif grounding.caution is Caution.REFUSED:
        notes.append("it named a box, refused for its low confidence")
    return (
        f"{grounding.outcome.value:<10} {box}  {grounding.task.value:<6} {confidence}  "
        f"{grounding.timings.total_ms:7.0f} ms  {' '.join(grounding.expression.split())}"
    ) + "".join(f"  ({note})" for note in notes)


def _print_timings(grounder: AnyGrounder, groundings: list[Grounding], load_ms: float, *, as_json: bool) -> None:
    from egm_edge.cli.timings import RunFacts, timings_table

    facts = RunFacts.collect(grounder, load_ms)
    if as_json:
        for grounding in groundings:
            print(json.dumps(grounding.to_dict() | {"run": facts.to_dict(grounding)}, ensure_ascii=False))
    else:
        print(timings_table(facts, groundings))
