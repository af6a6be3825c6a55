"""The one-slot mailbox."""

from __future__ import annotations

import time
from types import SimpleNamespace

from egm_ros.mailbox import Mailbox


def test_only_the_newest_frame_is_kept_and_the_others_are_counted() -> None:
    mailbox = Mailbox()
    assert mailbox.newest(1.0) is None
    for name in ("a", "b", "c"):
        mailbox.put(name)
    newest = mailbox.newest(60.0)
    assert newest is not None
    assert (newest.message, newest.sequence) == ("c", 3)
    assert (mailbox.received, mailbox.skipped) == (3, 2)
    assert mailbox.newest(60.0) is newest, "reading does not take it away: a second sentence may ask about it"
    mailbox.put("d")
    assert mailbox.skipped == 2, "a frame that was looked at is not a skipped one"


def test_old_frames_are_not_handed_over() -> None:
    mailbox = Mailbox()
    mailbox.put("a")
    time.sleep(0.02)
    assert mailbox.newest(0.01) is None
    mailbox.clear()
    assert mailbox.newest(1.0) is None


def test_stamp_in_nanoseconds() -> None:
    mailbox = Mailbox()
    mailbox.put(SimpleNamespace(header=SimpleNamespace(stamp=SimpleNamespace(sec=3, nanosec=5))))
    newest = mailbox.newest(60.0)
    assert newest is not None
    assert newest.stamp_ns == 3_000_000_005
