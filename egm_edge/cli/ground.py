"""`egm ground IMAGE TEXT...`: boxes for sentences, as lines, JSON or a picture.

Everything cheap is checked before the model is loaded. Several texts share one frame: the second pays only its own words.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

from egm_edge.assets import resolve_bundle
from egm_edge.cli.parser import Parser, positive_float, positive_int, whole_number
from egm_edge.expression import check_expression
from egm_edge.grounding import Grounding, Task

if TYPE_CHECKING:
    from egm_edge.auto import AnyGrounder

MEMORY_MODES = ("auto", "fast", "low")
WARM_UP_TOKENS = 4
MAX_THREADS = 512
MAX_SAMPLES = 32

EPILOG = """\
examples:
  egm ground photo.png "the red mug left of the kettle" --save out.png
  egm ground photo.png "the red mug" "the kettle" --json | jq .box
  cat photo.jpg | egm ground - "the hidden cup" --task amodal

One line per text: outcome, box (x1 y1 x2 y2, pixels of the image), task, confidence, milliseconds, text.
The exit code is 0 when every text was answered, whatever the outcome.
"""


def main(argv: list[str]) -> int:
    """Run the verb."""
    arguments = _parse(argv)
    for text in arguments.texts:
        check_expression(text)
    if arguments.save is not None:
        from egm_edge.draw import check_save_path

        check_save_path(arguments.save)
    bundle_dir = resolve_bundle(arguments.bundle)

    from egm_edge.images import MAX_FILE_BYTES, load_image

    # one byte too many is enough for load_image to refuse an endless stream
    source = sys.stdin.buffer.read(MAX_FILE_BYTES + 1) if arguments.image == "-" else Path(arguments.image)
    image_rgb = load_image(source)

    from egm_edge.auto import open_grounder

    started = time.perf_counter()
    grounder = open_grounder(bundle_dir, memory=arguments.memory, threads=arguments.threads)
    load_ms = (time.perf_counter() - started) * 1000.0
    try:
        if arguments.timings:  # the same image size as what is measured, so that no buffer grows inside a measured stage
            grounder.ground(source, arguments.texts[0], task=arguments.task, max_new_tokens=WARM_UP_TOKENS)
        groundings = _ground(grounder, source, arguments)
        if arguments.timings:
            _print_timings(grounder, groundings, load_ms, as_json=arguments.json)
    finally:
        grounder.close()
    if arguments.save is not None:
        from egm_edge.draw import draw_groundings, save_image

        save_image(arguments.save, draw_groundings(image_rgb, groundings))
    return 0


def _parse(argv: list[str]) -> argparse.Namespace:
    parser = Parser(prog="egm ground", description="Find what sentences describe in an image.", epilog=EPILOG)
    parser.add_argument("image", metavar="IMAGE", help="PNG, JPEG or another picture file; - reads it from stdin")
    parser.add_argument("texts", metavar="TEXT", nargs="+", help="what to find, in plain words")
    parser.add_argument("--task", choices=[t.value for t in Task], default="modal", help="visible part, or whole object")
    parser.add_argument(
        "--bundle", metavar="DIR", help="bundle or checkpoint to run (default: $EGM_BUNDLE, else the cached default bundle)"
    )
    parser.add_argument("--json", action="store_true", help="one JSON object per text")
    parser.add_argument("--save", metavar="OUT.png", help="write the picture with its boxes")
    parser.add_argument("--timings", action="store_true", help="warm up first, then print every stage in milliseconds")
    parser.add_argument("--memory", choices=MEMORY_MODES, default="auto", help="low: smaller and slower; auto: by free RAM")
    parser.add_argument("--threads", type=whole_number(1, MAX_THREADS), metavar="N", help="CPU threads (default: all cores)")
    parser.add_argument("--max-new-tokens", type=positive_int, metavar="N", help="stop a text's answer after N tokens")
    parser.add_argument("--deadline-ms", type=positive_float, metavar="MS", help="a box this long after asking, warmed up")
    parser.add_argument("--max-think-tokens", type=whole_number(0, 2**31 - 1), metavar="N", help="0: no reasoning")
    parser.add_argument("--samples", type=whole_number(1, MAX_SAMPLES), metavar="N", default=1, help="answers that vote")
    return parser.parse_args(argv)


def _ground(grounder: AnyGrounder, source: Path | bytes, arguments: argparse.Namespace) -> list[Grounding]:
    frame = None if arguments.deadline_ms else grounder.frame(source)
    if frame is None:  # the deadline decides how many pixels are looked at, so every text sees the image anew
        grounder.warm_up()
    groundings: list[Grounding] = []
    for text in arguments.texts:
        grounding = grounder.ground(
            frame or source,
            text,
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
            print(describe(grounding), flush=True)
        elif not arguments.timings:
            print(json.dumps(grounding.to_dict(), ensure_ascii=False), flush=True)
    return groundings


def describe(grounding: Grounding) -> str:
    """One line for people: outcome, box, task, confidence, milliseconds, expression."""
    box = " ".join(f"{v:7.1f}" for v in grounding.box.xyxy) if grounding.box else "      -" + " " * 24
    confidence = "uncalibrated" if grounding.confidence is None else f"p={grounding.confidence:.2f}"
    return (
        f"{grounding.outcome.value:<10} {box}  {grounding.task.value:<6} {confidence}  "
        f"{grounding.timings.total_ms:7.0f} ms  {grounding.expression}"
    )


def _print_timings(grounder: AnyGrounder, groundings: list[Grounding], load_ms: float, *, as_json: bool) -> None:
    from egm_edge.cli.timings import RunFacts, timings_table

    facts = RunFacts.collect(grounder, load_ms)
    if as_json:
        for grounding in groundings:
            print(json.dumps(grounding.to_dict() | {"run": facts.to_dict(grounding)}, ensure_ascii=False))
    else:
        print(timings_table(facts, groundings))
