"""Which adapter reads which kind of source: the table behind `egm data convert`, and the rows of any training file."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

from egm_edge.data.egm_rows import NORM1000, PIXELS
from egm_edge.data.problems import Problem, require_none
from egm_edge.data.readers import read_rows, repeated_ids
from egm_edge.data.rows import Row
from egm_edge.errors import InputError
from training.data.coco_amodal import read_coco_amodal
from training.data.grounding_json import read_lisa, read_mdetr, read_odvg, read_shikra
from training.data.hf_parquet import read_hf_parquet

Reader = Callable[[Path, list[Problem], Counter[str]], Iterator[Row]]
_SPLIT_WORD = re.compile(r"(?:^|[^a-z])(train|validation|val|testA|testB|test)(?:\d{4})?(?![a-z])", re.IGNORECASE)
_SPLITS = {"train": "train", "val": "val", "validation": "val", "testa": "testA", "testb": "testB", "test": "test"}


@dataclass(frozen=True, slots=True)
class DataSource:
    """One kind: how a file is read, and which files of a folder are of it."""

    read: Reader
    files: str


def _plain(box_frame: str | None = None) -> Reader:
    return lambda path, problems, skipped: read_rows(path, problems, box_frame=box_frame)


SOURCES: dict[str, DataSource] = {
    "egm": DataSource(_plain(), "*.jsonl"),
    "egm-pixels": DataSource(_plain(PIXELS), "*.jsonl"),
    "egm-norm1000": DataSource(_plain(NORM1000), "*.jsonl"),
    "refcoco": DataSource(_plain(), "refs(*).p"),
    "refcoco-parquet": DataSource(read_hf_parquet, "*.parquet"),
    "shikra": DataSource(read_shikra, "*.jsonl"),
    "odvg": DataSource(read_odvg, "*.jsonl"),
    "mdetr": DataSource(read_mdetr, "*.json"),
    "lisa": DataSource(read_lisa, "*.json"),
    "coco-amodal": DataSource(read_coco_amodal, "*.json"),
    "rows": DataSource(_plain(), "*.jsonl"),
}


@dataclass(frozen=True, slots=True)
class Converted:
    """What a conversion kept, and how many objects or lines it passed over, by reason."""

    rows: list[Row]
    skipped: Counter[str]

    def __str__(self) -> str:
        lost = sum(self.skipped.values())
        share = f" ({lost / (lost + len(self.rows)):.0%} of what is there)" if lost else ""
        reasons = "".join(f"; {count} {reason}" for reason, count in self.skipped.most_common() if count)
        return f"{len(self.rows)} rows kept, {lost} passed over{share}{reasons}"


def convert(
    paths: Iterable[Path], kind: str, *, split: str | None = None, skip_bad: bool = False, pictures: Path | None = None
) -> Converted:
    """Rows of files and folders of one kind.

    Args:
        split: of every row; None takes the source's own, else the word in the file's or folder's name.
        skip_bad: pass over what is wrong, counted, instead of refusing all.
        pictures: where pictures that a file carries are written.

    Raises:
        DataError: with every problem of all files.
        InputError: an unknown kind, a folder without files of it, or nothing kept.
    """
    if kind not in SOURCES:
        raise InputError(f"a kind of source ({', '.join(SOURCES)})", repr(kind), "pass one of them with --kind")
    source = SOURCES[kind]
    if pictures and source.read is not read_hf_parquet:
        raise InputError("--kind refcoco-parquet with --pictures", kind, "leave --pictures out")
    read = partial(read_hf_parquet, pictures=pictures) if source.read is read_hf_parquet else source.read
    problems: list[Problem] = []
    skipped: Counter[str] = Counter()
    rows: list[Row] = []
    for path in paths:
        for file in _files(path, source.files):
            for row in read(file, problems, skipped):
                rows.append(replace(row, split=split or row.split or split_of(file)))
    problems += repeated_ids(rows)
    if skip_bad:
        skipped["unusable ones"] += len(problems)
        seen: set[str] = set()
        rows = [row for row in rows if not (row.id in seen or seen.add(row.id))]  # type: ignore[func-returns-value]
    else:
        require_none(problems)
    if not rows:
        passed = ", ".join(f"{count} {reason}" for reason, count in skipped.items() if count)
        raise InputError("rows to keep", f"none{f' ({passed})' if passed else ''}", "check --kind and the files")
    return Converted(rows, skipped)


def split_of(path: Path) -> str:
    """The split that a file's name, or else its folder's, tells; "" for none.

    Example:
        >>> split_of(Path("annotations/COCO_amodal_val2014.json")), split_of(Path("validation/0.json")), split_of(Path("a.p"))
        ('val', 'val', '')
    """
    for name in (path.stem, path.parent.name):
        if found := _SPLIT_WORD.findall(name):
            return _SPLITS[found[-1].lower()]
    return ""


def _files(path: Path, pattern: str) -> list[Path]:
    if not path.is_dir():
        return [path]
    found = sorted(file for file in path.rglob(pattern) if file.is_file() and not file.name.startswith("."))
    if not found:
        raise InputError(f"files {pattern} under {path}", "none", "check --kind and the folder")
    return found
