"""`egm data ...`: check a data set, convert one, mirror it, filter it, look for leaks, generate reasoning traces, write
held-out scenes."""

from __future__ import annotations

import argparse
import json
import math
import os
import sys
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

from egm_edge.cli.parser import Parser, number_up_to, positive_float, positive_int, whole_number
from egm_edge.data.problems import DataError
from egm_edge.data.readers import load_rows
from egm_edge.data.refcoco import SplitCount, split_counts
from egm_edge.data.rows import Row, write_rows
from egm_edge.files import check_place
from training.data.check import CheckReport, check_directory
from training.data.difficulty import filter_by_difficulty, read_ious
from training.data.flip import flipped
from training.data.leaks import without_leaks
from training.data.sources import SOURCES, Converted, convert
from training.data.splits import SPLITS, by_split


def main(argv: list[str]) -> int:
    """Run one data verb; returns the exit code (0 fine, 2 problems found). EgmError reaches the caller, every problem listed."""
    arguments = _parser().parse_args(argv)
    _check_places(arguments)
    try:
        return int(arguments.run(arguments))
    except DataError as error:
        for problem in error.problems:
            print(problem, file=sys.stderr)
        raise


def _parser() -> argparse.ArgumentParser:
    parser = Parser(prog="egm data", description="Grounding data: check, convert, mirror, filter.")
    verbs = parser.add_subparsers(dest="verb", required=True, metavar="VERB")

    def verb(name: str, run: Callable[[argparse.Namespace], int], text: str, *, rows: bool = True) -> argparse.ArgumentParser:
        made: argparse.ArgumentParser = verbs.add_parser(name, help=text)
        made.set_defaults(run=run)
        made.add_argument("--json", action="store_true", help="one JSON object on stdout")
        if rows:
            made.add_argument("rows", type=Path, nargs="+")
        return made

    check = verb("check", _check, "list every problem of a directory, with file and line", rows=False)
    check.add_argument("directory", type=Path)
    check.add_argument("--images", type=Path, help="root of the pictures (default: DIRECTORY)")
    check.add_argument("--decode", action="store_true", help="decode every picture, not only its header")
    convert = verb("convert", _convert, "read a public format, write rows", rows=False)
    convert.add_argument("source", type=Path, nargs="+", help="files, or folders of them")
    convert.add_argument("--kind", choices=sorted(SOURCES), required=True)
    convert.add_argument("--split", choices=SPLITS, help="of every row (default: the source's own, else its file's name)")
    convert.add_argument("--skip-bad", action="store_true", help="pass over unusable rows, counted, instead of refusing all")
    convert.add_argument("--pictures", type=Path, metavar="DIR", help="where pictures inside a parquet are written")
    split = verb("split", _split, "one file a split, so that each can be named where it belongs")
    split.add_argument("--val", type=positive_float, metavar="SHARE", help="of the training pictures for val, for want of one")
    split.add_argument("--out", "-o", type=Path, required=True, metavar="DIR", help="for train.jsonl, val.jsonl, ...")
    flip = verb("flip", _flip, "add mirrored copies of the rows that can be mirrored")
    flip.add_argument("--any-language", action="store_true", help="mirror text that is not English too, words unchanged")
    leaks = verb("leaks", _leaks, "take out training rows whose picture an evaluation split holds")
    leaks.add_argument("--evaluation", type=Path, nargs="+", required=True, metavar="ROWS")
    difficulty = verb("filter", _filter, "hard but solvable rows and as many easy ones, for RL")
    difficulty.add_argument("--own", type=Path, required=True, metavar="JSONL", help="{id, iou} of the SFT checkpoint")
    difficulty.add_argument("--oracle", type=Path, required=True, metavar="JSONL", help="{id, iou} of a large model")
    traces = verb("traces", _traces, "generate reasoning traces with an OpenAI-compatible endpoint (resumes)")
    traces.add_argument("--images", type=Path, required=True)
    traces.add_argument("--endpoint", required=True, metavar="URL", help="for example http://localhost:8000/v1")
    traces.add_argument("--model", required=True)
    traces.add_argument("--key-variable", default="OPENAI_API_KEY", help="environment variable that holds the key")
    traces.add_argument("--ledger", type=Path, help="where every paid answer is kept (default: OUT.ledger.jsonl)")
    traces.add_argument("--concurrency", type=positive_int, default=16)
    price = number_up_to(math.inf, zero=True)
    traces.add_argument("--price", type=price, nargs=2, default=(0.0, 0.0), metavar=("IN", "OUT"), help="per million tokens")
    scenes = verb("scenes", _scenes, "write held-out tabletop scenes: pictures, and rows for `egm evaluate`", rows=False)
    scenes.add_argument("--count", type=positive_int, default=500, help="questions of each suite (default: 500)")
    suites = "easy,modal,amodal-occluded,negative"
    scenes.add_argument("--suites", default=suites, help="comma-separated; all: see the model card")
    scenes.add_argument("--fit", action="store_true", help="other scenes of the same kinds, to fit a confidence on")
    offset = whole_number(0, 1_900_000)  # training.nano.suites: two million apart
    scenes.add_argument("--seed-offset", type=offset, default=0, metavar="N", help="other scenes again: their seeds, N higher")
    scenes.add_argument("--out", "-o", type=Path, required=True, help="folder to write")
    for writer in (convert, flip, leaks, difficulty, traces):
        writer.add_argument("--out", "-o", type=Path, required=True, help="jsonl to write")
    return parser


def _check_places(arguments: argparse.Namespace) -> None:
    """What is to be written can be, and is nothing that is read, nor is a file of a folder that is filled."""
    given = [getattr(arguments, name, None) or [] for name in ("rows", "source", "evaluation", "own", "oracle")]
    read = [path for paths in given for path in (paths if isinstance(paths, list) else [paths])]
    out: Path | None = getattr(arguments, "out", None)
    written = [out, getattr(arguments, "ledger", None)]
    if out and arguments.verb in ("split", "scenes"):
        written = [out / f"{name}.jsonl" for name in SPLITS]
    for path in filter(None, written):
        if os.path.isdir(path.parent):  # it is made otherwise
            check_place(path, never=read)


def _check(arguments: argparse.Namespace) -> int:
    report = check_directory(arguments.directory, arguments.images, decode=arguments.decode)
    if arguments.json:
        print(json.dumps(asdict(report) | {"ok": report.ok}))
    else:
        _show(report)
    return 0 if report.ok else 2


def _show(report: CheckReport) -> None:
    for problem in report.problems:
        print(problem)
    for count in report.counts:
        print(count)
    verdict = "no problems" if report.ok else f"{len(report.problems)} problems"
    print(f"{verdict}; {report.files} files, {report.rows} usable rows, {report.pictures} pictures")


def _convert(arguments: argparse.Namespace) -> int:
    found: Converted = convert(
        arguments.source,
        arguments.kind,
        split=arguments.split,
        skip_bad=arguments.skip_bad,
        pictures=arguments.pictures,
    )
    counts = split_counts(found.rows)
    return _tell(arguments, [_write(arguments.out, found.rows)], found, counts)


def _split(arguments: argparse.Namespace) -> int:
    parts = by_split(load_rows(arguments.rows), arguments.val)
    return _tell(arguments, [_write(arguments.out / f"{name}.jsonl", rows) for name, rows in parts.items()])


def _flip(arguments: argparse.Namespace) -> int:
    rows = load_rows(arguments.rows)
    mirrored, report = flipped(rows, any_language=arguments.any_language)
    return _tell(arguments, [_write(arguments.out, [*rows, *mirrored])], report)


def _leaks(arguments: argparse.Namespace) -> int:
    kept, report = without_leaks(load_rows(arguments.rows), load_rows(arguments.evaluation))
    return _tell(arguments, [_write(arguments.out, kept)], report)


def _filter(arguments: argparse.Namespace) -> int:
    rows = load_rows(arguments.rows)
    chosen, report = filter_by_difficulty(rows, read_ious(arguments.own), read_ious(arguments.oracle))
    return _tell(arguments, [_write(arguments.out, chosen)], report)


def _traces(arguments: argparse.Namespace) -> int:
    from training.data.traces.run import TraceRun, run_traces

    rows = load_rows(arguments.rows)
    run = TraceRun(
        endpoint=arguments.endpoint,
        model=arguments.model,
        images=arguments.images,
        ledger=arguments.ledger or arguments.out.with_suffix(".ledger.jsonl"),
        key_variable=arguments.key_variable,
        concurrency=arguments.concurrency,
        price_per_million=tuple(arguments.price),
    )
    reasoned, report = run_traces(rows, run)
    _tell(arguments, [_write(arguments.out, reasoned)], report)
    return 0 if len(reasoned) == len(rows) else 1


def _scenes(arguments: argparse.Namespace) -> int:
    from egm_edge.reporting.progress import ProgressBar
    from training.nano.held_out import FIT_OFFSET, write_held_out

    paths = write_held_out(
        arguments.out, arguments.count, arguments.suites.split(","), ProgressBar("scenes", sys.stderr),
        seed_offset=arguments.seed_offset + (FIT_OFFSET if arguments.fit else 0),
    )  # fmt: skip
    if arguments.json:
        print(json.dumps({"written": [{"path": str(path)} for path in paths]}, ensure_ascii=False))
    else:
        print("rows in " + ", ".join(map(str, paths)))
    return 0


@dataclass(frozen=True, slots=True)
class _Written:
    """A file of rows."""

    rows: int
    path: str

    def __str__(self) -> str:
        return f"{self.rows} rows in {self.path}"


def _write(path: Path, rows: list[Row]) -> _Written:
    return _Written(write_rows(path, rows), str(path))


def _tell(
    arguments: argparse.Namespace, written: Sequence[_Written], report: Any = None, splits: Sequence[SplitCount] = ()
) -> int:
    """What was found and written: lines for people, or one JSON object."""
    if arguments.json:
        values = {"written": [asdict(one) for one in written], "splits": [asdict(one) for one in splits]}
        print(json.dumps(values | ({"report": _facts(report)} if report is not None else {}), ensure_ascii=False))
    else:
        print(*splits, *([report] if report is not None else []), *written, sep="\n")
    return 0


def _facts(report: Any) -> dict[str, Any]:
    """A report's fields, JSON-ready: rows as their number, pairs in keys joined by a space."""
    found = {field.name: getattr(report, field.name) for field in fields(report)}
    found |= {"rows": len(found["rows"])} if not isinstance(found.get("rows", 0), int) else {}
    return {
        name: {" ".join(key) if isinstance(key, tuple) else key: count for key, count in value.items()}
        if isinstance(value, dict)
        else value
        for name, value in found.items()
    }
