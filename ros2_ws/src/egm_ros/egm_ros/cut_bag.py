"""What is left of a bag that a crash has cut: MCAP record by record, SQLite row by row, until the cut.

Knows nothing of ROS, nor of metadata.yaml and the index at a bag's end, which are what is missing most often. Layouts: the MCAP
specification (mcap.dev/spec), tables `topics` and `messages` of rosbag2_storage_sqlite3. Every length is checked against
what is there before it is read.
"""

from __future__ import annotations

import contextlib
import shutil
import sqlite3
import struct
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

MAGIC = b"\x89MCAP0\r\n"
SCHEMA, CHANNEL, MESSAGE, CHUNK, DATA_END = 3, 4, 5, 6, 15
MOST_CHUNK_BYTES = 1 << 30
SUFFIXES = (".mcap", ".db3")
JOURNALS = ("-wal", "-journal")


@dataclass(frozen=True, slots=True)
class BagMessage:
    """One message of a bag: topic, type name ("pkg/msg/Name"), time of recording, CDR bytes."""

    topic: str
    type_name: str
    stamp_ns: int
    cdr: bytes


class _CutError(Exception):
    """Nothing more can be read."""


def bag_files(path: Path) -> list[Path]:
    """The storage files of a bag's folder in the order of recording, or the one file that was named."""
    return sorted(file for file in (path.iterdir() if path.is_dir() else [path]) if file.suffix in SUFFIXES)


def salvage(path: Path, topics: Sequence[str] = ()) -> list[BagMessage]:
    """What can be read of a bag, in the order of recording; all topics where none is named; [] for what is no bag."""
    found: list[BagMessage] = []
    for file in bag_files(path):
        with contextlib.suppress(_CutError, OSError, sqlite3.Error, struct.error, UnicodeDecodeError):
            for message in _mcap(file) if file.suffix == ".mcap" else _sqlite(file):
                if not topics or message.topic in topics:
                    found.append(message)  # one by one: what comes before the cut stays
    return sorted(found, key=lambda message: message.stamp_ns)


class _Fields:
    """Reads the fields of one record. Raises: _CutError: it ends too soon."""

    def __init__(self, data: bytes) -> None:
        self._data, self._at = data, 0

    def take(self, count: int) -> bytes:
        if self._at + count > len(self._data):
            raise _CutError
        self._at += count
        return self._data[self._at - count : self._at]

    def numbers(self, layout: str) -> tuple[int, ...]:
        return struct.unpack(f"<{layout}", self.take(struct.calcsize(f"<{layout}")))

    def text(self) -> str:
        return self.take(self.numbers("I")[0]).decode()

    def rest(self) -> bytes:
        return self._data[self._at :]


def _mcap(path: Path) -> Iterator[BagMessage]:
    schemas: dict[int, str] = {}
    channels: dict[int, tuple[str, str]] = {}
    with path.open("rb") as file:
        if file.read(len(MAGIC)) != MAGIC:
            return
        for kind, data in _records(file, path.stat().st_size):
            if kind == CHUNK:
                for inner, record in _in_chunk(data):
                    yield from _message(inner, record, schemas, channels)
            else:
                yield from _message(kind, data, schemas, channels)


def _records(file: BinaryIO, size: int) -> Iterator[tuple[int, bytes]]:
    """Kind and content until the data end; of the last chunk, what there is of it."""
    while len(head := file.read(9)) == 9:
        kind, length = struct.unpack("<BQ", head)
        if kind == DATA_END:
            return
        left = size - file.tell()
        if length > left and kind != CHUNK:
            return
        yield kind, file.read(min(length, left))


def _in_chunk(data: bytes) -> Iterator[tuple[int, bytes]]:
    fields = _Fields(data)
    *_, size, _crc = fields.numbers("QQQI")
    compression = fields.text()
    fields.numbers("Q")
    records = _decompressed(fields.rest(), compression, min(size, MOST_CHUNK_BYTES))
    at = 0
    while at + 9 <= len(records):
        kind, length = struct.unpack_from("<BQ", records, at)
        at += 9
        if at + length > len(records):
            return
        yield kind, records[at : at + length]
        at += length


def _decompressed(data: bytes, compression: str, size: int) -> bytes:
    """Of a stream that ends too soon, its beginning."""
    if not compression:
        return data
    try:
        return bytes(_decompressor(compression).decompress(data, size))
    except Exception as error:  # each of the two has errors of its own
        raise _CutError from error


def _decompressor(compression: str) -> Any:
    """From rosbags' own requirements. Raises: _CutError: another method."""
    if compression == "lz4":
        from lz4.frame import LZ4FrameDecompressor

        return LZ4FrameDecompressor()
    if compression == "zstd":
        try:
            from compression.zstd import ZstdDecompressor
        except ImportError:
            from backports.zstd import ZstdDecompressor
        return ZstdDecompressor()
    raise _CutError


def _message(
    kind: int, data: bytes, schemas: dict[int, str], channels: dict[int, tuple[str, str]]
) -> Iterator[BagMessage]:
    """Note schemas and channels as they come; one BagMessage for a message of a channel that is known."""
    fields = _Fields(data)
    if kind == SCHEMA:
        (number,) = fields.numbers("H")
        schemas[number] = fields.text()
    elif kind == CHANNEL:
        number, schema = fields.numbers("HH")
        channels[number] = fields.text(), schemas.get(schema, "")
    elif kind == MESSAGE:
        number, _sequence, stamp_ns, _published_ns = fields.numbers("HIQQ")
        if number in channels:
            yield BagMessage(*channels[number], stamp_ns, fields.rest())


def _sqlite(path: Path) -> Iterator[BagMessage]:
    """On a copy where a journal is left: playing it back writes."""
    journals = [journal for end in JOURNALS if (journal := path.with_name(path.name + end)).exists()]
    with tempfile.TemporaryDirectory() as folder:
        if journals:
            for file in [path, *journals]:
                shutil.copyfile(file, Path(folder) / file.name)
            path = Path(folder) / path.name
        mode = "rw" if journals else "ro"
        with contextlib.closing(sqlite3.connect(f"{path.absolute().as_uri()}?mode={mode}", uri=True)) as base:
            base.execute("PRAGMA writable_schema=ON")  # or SQLite refuses a file that is shorter than its header says
            topics = {number: (name, kind) for number, name, kind in base.execute("SELECT id, name, type FROM topics")}
            for topic, stamp_ns, cdr in base.execute("SELECT topic_id, timestamp, data FROM messages ORDER BY id"):
                if topic in topics:
                    yield BagMessage(*topics[topic], stamp_ns, bytes(cdr))
