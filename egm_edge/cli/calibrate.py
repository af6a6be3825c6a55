"""`egm calibrate BUNDLE --data FILE...`: fit P(IoU >= 0.5), report it on held-out data, keep it in the bundle."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from egm_edge.assets import SHIPPED_NAME
from egm_edge.cli.parser import Parser, add_engine_options, positive_int, whole_number
from egm_edge.errors import InputError
from egm_edge.hashing import canonical_hash
from egm_edge.sources import SourceKind, resolve

if TYPE_CHECKING:
    from egm_edge.confidence.logistic_calibration import LogisticCalibration
    from egm_edge.confidence.run import Answered
    from egm_edge.data.rows import Row
    from egm_edge.grounder import Grounder

EPILOG = """\
examples:
  egm data scenes --count 800 --out out/scenes
  egm calibrate out/egm-nano-cpu --data out/scenes/held_out.jsonl --shifted
  egm calibrate out/egm-4b-cpu --data refcoco_val.jsonl --held-out refcoco_testA.jsonl --images coco --limit 2000
  egm calibrate out/egm-nano-cpu --remove

With --held-out alone the bundle's own map is looked at and nothing is written.
Without --held-out every second picture of the data is held out. Rows without a box (negatives) are welcome.
The map is written into the bundle's manifest (its name stays); --out gets calibration.json, .md and two plots.
"""


def main(argv: list[str]) -> int:
    """Run the verb."""
    parser = _parser()
    arguments = parser.parse_args(argv)
    if arguments.remove:
        of_fitting = ("data", "held_out", "images", "limit", "samples", "shifted", "out", "keep_in", "dry_run", "memory", "threads")
        parser.refuse(arguments, of_fitting, "no --remove", "both")
    if not arguments.data:
        parser.refuse(arguments, ("keep_in",), "--data FILE")
    from egm_edge.bundle import CONFIDENCE_MAP, Bundle
    from egm_edge.confidence.store import keep_with, store

    bundle_dir = resolve(arguments.bundle, takes=(SourceKind.BUNDLE,)).directory
    keeps = arguments.remove or (bool(arguments.data) and not arguments.dry_run)
    if keeps and arguments.bundle == SHIPPED_NAME and not Path(SHIPPED_NAME).is_dir():
        hint = f"egm build {SHIPPED_NAME} -o out/{SHIPPED_NAME}-cpu, then calibrate that"
        raise InputError("a bundle of your own", f"{SHIPPED_NAME}, which this installation shares", hint)
    if arguments.remove:
        store(Bundle.open(bundle_dir), None)
        told = {"bundle": arguments.bundle, "map": None}
        print(json.dumps(told, ensure_ascii=False) if arguments.json else f"{arguments.bundle} is uncalibrated")
        return 0
    known = Bundle.open(bundle_dir, verify="sizes").manifest.calibration
    if not arguments.data and not (arguments.held_out and known):
        raise InputError("--data FILE...", "none", "pass rows with boxes, or --held-out to look at a bundle's own map")
    from egm_edge.confidence.logistic_calibration import LogisticCalibration
    from egm_edge.confidence.report import pictures, to_markdown
    from egm_edge.data.pictures import find_pictures
    from egm_edge.evaluate.rows import with_sizes
    from egm_edge.files import check_place, make_folder, replace_text
    from egm_edge.grounder import Grounder

    if arguments.keep_in:
        check_place(Path(arguments.keep_in) / CONFIDENCE_MAP)
    out = make_folder(Path(arguments.out)) if arguments.out else None
    if out:
        check_place(out / "calibration.json")
    fit_rows, held_rows, roots = _rows(arguments)
    files = find_pictures([*fit_rows, *held_rows], roots)
    fit_rows, held_rows = with_sizes(fit_rows, files), with_sizes(held_rows, files)
    with Grounder.from_bundle(bundle_dir, memory=arguments.memory, threads=arguments.threads) as grounder:
        grounder.model.confidence_map = None  # an earlier map's operating point would hide boxes
        ask = partial(_ask, grounder, files, arguments)
        fitted = _fitted(ask, fit_rows, arguments.samples) if arguments.data else LogisticCalibration.from_dict(known or {})
        parts = _parts(ask, held_rows, fitted, shifted=arguments.shifted)
    calibrated = store(grounder.bundle, fitted) if keeps else grounder.bundle
    if arguments.keep_in and not arguments.dry_run:
        keep_with(Path(arguments.keep_in), fitted)
    markdown = to_markdown(parts, fitted)
    values = {"bundle": calibrated.hash, "map": fitted.to_dict(), "parts": parts}
    if out:
        replace_text(out / "calibration.json", json.dumps(values, indent=1, ensure_ascii=False) + "\n")
        replace_text(out / "calibration.md", markdown + "\n")
        for file_name, svg in pictures(parts).items():
            replace_text(out / file_name, svg)
    print(json.dumps(values, ensure_ascii=False) if arguments.json else markdown)
    return 0


def _ask(
    grounder: Grounder, files: dict[str, Path], arguments: argparse.Namespace, rows: list[Row], name: str, shift: Any = None
) -> list[Answered]:
    from egm_edge.confidence.run import ask_rows
    from egm_edge.reporting.progress import ProgressBar

    bar = ProgressBar(name, None if arguments.json else sys.stderr)
    return ask_rows(grounder, rows, files, samples=arguments.samples, shift=shift, on_row=bar)


def _fitted(ask: Callable[..., list[Answered]], rows: list[Row], samples: int) -> LogisticCalibration:
    """The map of these rows' answers."""
    from egm_edge.confidence.logistic_calibration import fit

    boxed = [(answer, row.split) for answer, row in zip(ask(rows, "fit"), rows, strict=True) if answer.evidence]
    ids = canonical_hash({"ids": [row.id for row in rows]})
    facts = {"answers": len(boxed), "rows": len(rows), "data": ids}
    evidence, right, splits = [a.evidence for a, _ in boxed], [a.right for a, _ in boxed], [split for _, split in boxed]
    return fit(evidence, right, samples=samples, fitted_on=facts, splits=splits)


def _parts(
    ask: Callable[..., list[Answered]], rows: list[Row], fitted: LogisticCalibration, *, shifted: bool
) -> list[dict[str, Any]]:
    """The report's parts: all held-out rows, each split of several, and with `shifted` each kind of harmed picture."""
    from egm_edge.confidence.report import part
    from egm_edge.confidence.shifts import SHIFTS

    held = ask(rows, "held out")
    parts = [part("held out", held, fitted)]
    splits = dict.fromkeys(row.split for row in rows)
    for split in splits if len(splits) > 1 else ():
        parts.append(part(split, [a for a, row in zip(held, rows, strict=True) if row.split == split], fitted))
    return parts + [part(name, ask(rows, name, shift), fitted) for name, shift in SHIFTS.items() if shifted]


def _rows(arguments: argparse.Namespace) -> tuple[list[Row], list[Row], list[Path]]:
    """Rows to fit on, rows held out, and where their pictures are. No picture is in both."""
    from egm_edge.evaluate.rows import evaluation_rows
    from egm_edge.evaluate.run import spread

    def read(names: list[str]) -> list[Row]:
        return spread(evaluation_rows(Path(name) for name in names), arguments.limit) if names else []

    fit_rows, held_rows = read(arguments.data or []), read(arguments.held_out or [])
    named = [Path(name) for name in [*(arguments.data or []), *(arguments.held_out or [])]]
    roots = [Path(arguments.images)] if arguments.images else list(dict.fromkeys(path.parent for path in named))
    if not arguments.held_out:
        place = {image: i for i, image in enumerate(dict.fromkeys(row.image for row in fit_rows))}
        held_rows = [row for row in fit_rows if place[row.image] % 2]
        fit_rows = [row for row in fit_rows if not place[row.image] % 2]
    return fit_rows, held_rows, roots


def _parser() -> Parser:
    parser = Parser(prog="egm calibrate", description="Fit a bundle's confidence on data.", epilog=EPILOG)
    parser.add_argument("bundle", metavar="BUNDLE", help="bundle directory; its manifest is rewritten")
    parser.add_argument("--data", nargs="+", metavar="FILE", help="jsonl or refs pickle, as for egm evaluate")
    parser.add_argument("--held-out", nargs="+", metavar="FILE", help="other data for the report (default: half of --data)")
    parser.add_argument("--images", metavar="DIR", help="where the pictures are (default: beside the data)")
    parser.add_argument("--limit", type=positive_int, metavar="N", help="at most N rows of every split")
    parser.add_argument("--samples", type=whole_number(1, 32), default=1, metavar="N", help="answers that vote (default: 1)")
    parser.add_argument("--shifted", action="store_true", help="report on blurred, noisy, darker and recoloured pictures too")
    parser.add_argument("--out", metavar="DIR", help="write the report and its plots there")
    parser.add_argument("--keep-in", metavar="CHECKPOINT", help="write the map beside these weights too, for later builds")
    parser.add_argument("--dry-run", action="store_true", help="report only, write no map")
    parser.add_argument("--remove", action="store_true", help="take the map out of the bundle")
    add_engine_options(parser)
    parser.add_argument("--json", action="store_true", help="print the report as JSON")
    return parser
