"""Find everything that is wrong with a directory of grounding data, without executing or trusting any of it.

Reads every jsonl (EGM's forms and our own), RefCOCO's pickles, COCO-Amodal annotations, and the header of every picture
that a row names. Knows nothing of how problems are shown.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from egm_edge.data.pictures import find_picture, load_picture
from egm_edge.data.problems import Problem, collected
from egm_edge.data.readers import at_row, read_rows, repeated_ids
from egm_edge.data.refcoco import REFS_FILE, SplitCount, split_counts
from egm_edge.data.rows import Row
from egm_edge.data.safe_pickle import load_safe_pickle
from egm_edge.errors import EgmError
from egm_edge.files import read_json_object
from egm_edge.images import read_image_wh
from training.data.coco_amodal import is_coco_amodal, read_coco_amodal
from training.data.leaks import EVALUATION_SPLITS, find_leaks

PICKLES = (".p", ".pkl", ".pickle")


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
        report.problems += repeated_ids(found)
        rows += found
    if not rows and not report.problems:
        report.problems.append(Problem(str(directory), 0, "jsonl, refs(…).p or COCO-Amodal files", "none"))
    _check_pictures(rows, root, report, decode=decode)
    _check_leaks(rows, report.problems)
    report.rows = len(rows)
    report.counts = split_counts(rows)
    return report


def _rows_of(path: Path, problems: list[Problem]) -> Iterator[Row]:
    if path.suffix == ".jsonl" or REFS_FILE.search(path.name):
        yield from read_rows(path, problems)
    elif path.suffix in PICKLES:
        with collected(problems, path, 0):
            load_safe_pickle(path)
    elif path.suffix == ".json" and path.name != "instances.json":
        with collected(problems, path, 0):
            if is_coco_amodal(read_json_object(path)):
                yield from read_coco_amodal(path, problems, Counter())


def _check_pictures(rows: list[Row], root: Path, report: CheckReport, *, decode: bool) -> None:
    sizes: dict[str, tuple[int, int] | EgmError] = {}
    for row in rows:
        if row.image not in sizes:
            try:
                sizes[row.image] = read_image_wh(find_picture(row.image, [root]), upright=True)
                if decode:
                    load_picture(row, root)
            except EgmError as error:
                sizes[row.image] = error
        found = sizes[row.image]
        if isinstance(found, EgmError):
            report.problems.append(at_row(row, found.expected, found.found))
        elif row.image_wh is not None and found != row.image_wh:
            wanted = f"{row.image} of {row.image_wh[0]}x{row.image_wh[1]} pixels"
            report.problems.append(at_row(row, wanted, f"{found[0]}x{found[1]}"))
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
            problems.append(at_row(report.rows[0], "no training picture in an evaluation split", str(report)))
