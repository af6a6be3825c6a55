"""Bags that were cut at any byte: what comes before the cut is read. rosbags writes them; what it wrote is the oracle."""

from __future__ import annotations

import random
import shutil
import sqlite3
import tracemalloc
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import rclpy
from conftest import REPOSITORY
from egm_ros.cut_bag import BagMessage, salvage
from egm_ros.replay_bag import Bag, Replayer, read_bag
from rclpy.serialization import serialize_message
from std_msgs.msg import String

from egm_edge.errors import InputError

rosbags = pytest.importorskip("rosbags.rosbag2")
TOPICS = {"/a": "std_msgs/msg/String", "/b": "sensor_msgs/msg/Image"}
COUNT, CUTS = 120, 25


def record(folder: Path, compression: str) -> list[BagMessage]:
    """Two topics; payloads of which some do not compress, so that there are several chunks or pages of overflow."""
    from rosbags.typesys import Stores, get_typestore

    store, dice = get_typestore(Stores.ROS2_JAZZY), random.Random(3)
    plugin = rosbags.StoragePlugin.SQLITE3 if compression == "sqlite3" else rosbags.StoragePlugin.MCAP
    writer = rosbags.Writer(folder, version=9, storage_plugin=plugin)
    if compression == "zstd":
        writer.set_compression(rosbags.CompressionMode.STORAGE, rosbags.CompressionFormat.ZSTD)
    messages = []
    with writer:
        known: dict[str, Any] = {
            name: writer.add_connection(name, kind, typestore=store) for name, kind in TOPICS.items()
        }
        for number in range(COUNT):
            topic = dice.choice(list(TOPICS))
            cdr = b"\0\1\0\0" + dice.randbytes(dice.choice([8, 300, 60_000]))
            messages.append(BagMessage(topic, TOPICS[topic], 1000 + number, cdr))
            writer.write(known[topic], 1000 + number, cdr)
    return messages


@pytest.mark.parametrize("compression", ["", "zstd", "sqlite3"])
def test_everything_before_a_cut_is_read(tmp_path: Path, compression: str) -> None:
    messages = record(tmp_path / "bag", compression)
    bag = read_bag(tmp_path / "bag")
    assert [list(bag.read()) for _ in range(2)] == [messages, messages], "as often as it is played"
    assert (bag.types, bag.count, bag.cut) == (TOPICS, COUNT, "")
    file = next(path for path in (tmp_path / "bag").iterdir() if path.suffix in (".mcap", ".db3"))
    whole, dice = file.read_bytes(), random.Random(compression)
    assert salvage(file) == messages, "the oracle of the cuts: a whole one is read whole"
    read: list[tuple[int, int]] = []
    for length in sorted([0, 1, 8, 9, len(whole) - 1, len(whole), *(dice.randrange(len(whole)) for _ in range(CUTS))]):
        file.write_bytes(whole[:length])
        found = salvage(file)
        assert found == messages[: len(found)], "in order, none invented, none damaged"
        read.append((length, len(found)))
    counts = [count for _, count in read]
    assert counts == sorted(counts)
    assert counts[0] == 0
    assert counts[-1] == COUNT
    for length, count in read:  # a message is up to 60 kB; SQLite's last pages have no parent yet
        assert sum(len(message.cdr) for message in messages[:count]) > 0.85 * length - 100_000


@pytest.mark.parametrize("suffix", [".mcap", ".db3"])
def test_a_cut_bag_says_what_was_read_and_what_repairs_it(tmp_path: Path, suffix: str) -> None:
    messages = record(tmp_path / "bag", "" if suffix == ".mcap" else "sqlite3")
    file = next((tmp_path / "bag").glob(f"*{suffix}"))
    file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])
    bag = read_bag(tmp_path / "bag", ["/b"])
    assert 0 < bag.count < len(messages)
    assert list(bag.read()) == [one for one in messages if one.topic == "/b"][: bag.count]
    assert f"{bag.count} messages could be read" in bag.cut
    assert ("mcap recover" if suffix == ".mcap" else ".recover") in bag.cut
    (tmp_path / "bag" / "metadata.yaml").unlink()
    assert "ros2 bag reindex" in read_bag(tmp_path / "bag").cut
    file.write_bytes(b"")
    with pytest.raises(InputError, match="reindex"):
        read_bag(tmp_path / "bag")


def test_damage_inside_ends_the_reading_and_invents_nothing(tmp_path: Path) -> None:
    messages = record(tmp_path / "bag", "")
    file = next((tmp_path / "bag").glob("*.mcap"))
    whole, dice, sent = file.read_bytes(), random.Random(5), {(m.topic, m.stamp_ns) for m in messages}
    for _ in range(100):
        damaged = bytearray(whole)
        at = dice.randrange(len(whole))
        damaged[at : at + 16] = dice.randbytes(16)
        file.write_bytes(damaged)
        found = salvage(file)
        assert len({(m.topic, m.stamp_ns) for m in found} - sent) <= 1, "a message may be damaged itself"


@pytest.mark.parametrize("journal", ["wal", "delete"])
def test_what_the_journal_of_a_killed_recorder_holds_is_read_and_nothing_is_written(
    tmp_path: Path, journal: str
) -> None:
    """A recorder that dies leaves its write-ahead log, or a rollback journal in the middle of a transaction."""
    record(tmp_path / "bag", "sqlite3")
    source = next((tmp_path / "bag").glob("*.db3"))
    live = tmp_path / "live.db3"
    shutil.copyfile(source, live)
    before = len(salvage(live))
    base = sqlite3.connect(live, isolation_level=None)
    base.execute(f"PRAGMA journal_mode={journal}")
    base.execute("PRAGMA cache_size=1")  # pages go to the file before the commit
    base.execute("BEGIN")
    row = base.execute("SELECT id FROM topics").fetchone()
    for number in range(30):
        base.execute(
            "INSERT INTO messages(topic_id, timestamp, data) VALUES(?, ?, ?)", (*row, 5000 + number, b"x" * 9000)
        )
    if journal == "wal":
        base.execute("COMMIT")
    dead = tmp_path / "dead"
    dead.mkdir()
    for path in tmp_path.glob("live.db3*"):
        if not path.name.endswith("-shm"):
            shutil.copyfile(path, dead / path.name)
    base.close()
    held = {path.name: path.read_bytes() for path in dead.iterdir()}
    assert set(held) == {"live.db3", f"live.db3-{'wal' if journal == 'wal' else 'journal'}"}
    found = salvage(dead)
    assert len(found) == before + (30 if journal == "wal" else 0), "committed messages, and no half-written ones"
    assert {path.name: path.read_bytes() for path in dead.iterdir()} == held


def test_a_long_bag_is_not_held_in_memory(tmp_path: Path) -> None:
    record(tmp_path / "bag", "")
    tracemalloc.start()
    try:
        bag = read_bag(tmp_path / "bag")
        held = tracemalloc.get_traced_memory()[0] / 1e6
        total = sum(len(message.cdr) for message in bag.read()) / 1e6
    finally:
        tracemalloc.stop()
    assert total > 1.5, "the oracle: what there is to hold"
    assert held < 0.5 * total, f"{held:.1f} of {total:.1f} MB"


def test_no_bag_gives_nothing(tmp_path: Path) -> None:
    assert salvage(tmp_path) == []
    other = tmp_path / "other.mcap"
    other.write_bytes((REPOSITORY / "README.md").read_bytes())
    assert salvage(other) == []
    other.rename(tmp_path / "other.db3")
    assert salvage(tmp_path / "other.db3") == []


def test_what_cannot_be_published_is_left_out_and_the_rest_is_played() -> None:
    rclpy.init()
    try:
        said = serialize_message(String(data="a"))
        odd = [
            BagMessage("/type", "no_such_package/msg/Thing", 1, said),
            BagMessage("/shape", "String", 1, said),
            BagMessage("/relative", "../msg/String", 1, said),
            BagMessage("/module", "std_msgs/msg/_string", 1, said),
            BagMessage("/not a name", "std_msgs/msg/String", 1, said),
        ]
        whole = [
            BagMessage("/a", "std_msgs/msg/String", 1, said),
            BagMessage("/b", "sensor_msgs/msg/Image", 1, b"\0\1\0\0rubbish"),
            BagMessage("/a", "std_msgs/msg/String", -(2**70), said),  # the clock jumped back, far
        ]
        player = Replayer(Bag.of(lambda: odd + whole), restamp=True, clock=True)
        assert set(player._out) == {"/a", "/b"}
        player.play(SimpleNamespace(is_set=False), rate=1.0)
        player.destroy_node()
        with pytest.raises(InputError, match=f"none of {len(odd)} messages"):
            Replayer(Bag.of(lambda: odd), restamp=False, clock=False)
    finally:
        rclpy.try_shutdown()
