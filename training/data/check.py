"""Find everything that is wrong with a directory of grounding data, without executing or trusting any of it.

Reads every jsonl (EGM's forms and our own), RefCOCO's pickles, COCO-Amodal annotations, and the header of every picture
that a row names. Knows nothing of how problems are shown.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from egm_edge.errors import EgmError
from egm_edge.evaluate.plain_pickle import load_plain_pickle
from training.data.coco_amodal import is_coco_amodal, read_coco_amodal
from training.data.egm_jsonl import egm_row, is_egm, read_egm_jsonl
from training.data.jsonl import read_objects
from training.data.leaks import EVALUATION_SPLITS, find_leaks
from training.data.pictures import inside, load_picture, picture_wh
from training.data.problems import Problem
from training.data.refcoco import REFS_FILE, SplitCount, read_json_object, read_refcoco, split_counts
from training.data.rows import Row, row_from_dict

PICKLES = (".p", ".pkl", ".pickle")
PREDICTION_KEYS = {"id", "iou"}


@dataclass(slots=True)
class CheckReport:
    """What was found.

    Attributes:
        problems: everything wrong, in reading order.
        files: data files read; rows: usable rows; pictures: distinct pictures looked at.
        counts: expressions per split, beside the published numbers.
    """

    problems: list[Problem] = field(default_factory=list)
    files: int = 0
    rows: int = 0
    pictures: int = 0
    counts: list[SplitCount] = field(default_factory=list)

    @property
    def ok(self) -> bool:
        return not self.problems


def check_directory(directory: Path, images: Path | None = None, *, decode: bool = False) -> CheckReport:
    """Check every data file under `directory`.

    Args:
        images: root that the rows' picture paths start from; None is `directory`.
        decode: decode every picture instead of reading its header (slow; finds damaged ones).
    """
    report = CheckReport()
    root = images or directory
    if not directory.is_dir():
        report.problems.append(Problem(str(directory), 0, "a directory of grounding data", "no such directory"))
        return report
    rows: list[Row] = []
    for path in sorted(p for p in directory.rglob("*") if p.is_file() and not p.name.startswith(".")):
        before = len(report.problems)
        found = list(_rows_of(path, report.problems))
        report.files += bool(found) or len(report.problems) > before
        _check_ids(found, report.problems)
        rows += found
    if not rows and not report.problems:
        report.problems.append(Problem(str(directory), 0, "jsonl, refs(…).p or COCO-Amodal files", "none"))
    _check_pictures(rows, root, report, decode=decode)
    _check_leaks(rows, report.problems)
    report.rows = len(rows)
    report.counts = split_counts(rows)
    return report


def _rows_of(path: Path, problems: list[Problem]) -> Iterator[Row]:
    if path.suffix == ".jsonl":
        yield from _jsonl_rows(path, problems)
    elif REFS_FILE.search(path.name):
        yield from read_refcoco(path, problems)
    elif path.suffix in PICKLES:
        try:
            load_plain_pickle(path)
        except EgmError as error:
            problems.append(Problem(str(path), 0, error.expected, error.found))
    elif path.suffix == ".json" and path.name != "instances.json":
        try:
            values = read_json_object(path)
        except EgmError as error:
            problems.append(Problem(str(path), 0, error.expected, error.found))
            return
        if is_coco_amodal(values):
            yield from read_coco_amodal(path, problems)


def _jsonl_rows(path: Path, problems: list[Problem]) -> Iterator[Row]:
    first = next((values for _, values in read_objects(path, [])), {})
    if is_egm(first) or ("bbox" in first and "expression" not in first):
        # Duplicate ids are reported by the reader itself.
        yield from read_egm_jsonl(path, problems)
        return
    for line, values in read_objects(path, problems):
        if values.keys() >= PREDICTION_KEYS and "image" not in values:
            continue  # predictions for the difficulty filter
        try:
            if is_egm(values):
                yield egm_row(values, f"{path.stem}-{line}", f"{path}:{line}")
            else:
                yield row_from_dict(values, str(path), line)
        except EgmError as error:
            problems.append(Problem(str(path), line, error.expected, error.found))


def _check_ids(rows: list[Row], problems: list[Problem]) -> None:
    first: dict[str, str] = {}
    for row in rows:
        if row.id in first:
            problems.append(
                _at(row, "ids that are unique in a file", f"id {row.id!r} again (first at {first[row.id]})")
            )
        else:
            first[row.id] = row.origin


def _check_pictures(rows: list[Row], root: Path, report: CheckReport, *, decode: bool) -> None:
    sizes: dict[str, tuple[int, int] | EgmError] = {}
    for row in rows:
        if row.image not in sizes:
            try:
                path = inside(root, row.image)
                sizes[row.image] = picture_wh(path)
                if decode:
                    load_picture(row, root)
            except EgmError as error:
                sizes[row.image] = error
        found = sizes[row.image]
        if isinstance(found, EgmError):
            report.problems.append(_at(row, found.expected, found.found))
        elif found != row.image_wh:
            wanted = f"{row.image} of {row.image_wh[0]}x{row.image_wh[1]} pixels"
            report.problems.append(_at(row, wanted, f"{found[0]}x{found[1]}"))
    report.pictures = len(sizes)


def _check_leaks(rows: list[Row], problems: list[Problem]) -> None:
    evaluation = [row for row in rows if row.split in EVALUATION_SPLITS]
    by_file: dict[str, list[Row]] = {}
    for row in rows:
        if row.split == "train":
            by_file.setdefault(row.origin.rpartition(":")[0], []).append(row)
    for training in by_file.values():
        report = find_leaks(training, evaluation)
        if report.rows:
            problems.append(_at(report.rows[0], "no training picture in an evaluation split", str(report)))


def _at(row: Row, expected: str, found: str) -> Problem:
    file, _, line = row.origin.rpartition(":")
    return Problem(file, int(line) if line.isdigit() else 0, expected, found)
