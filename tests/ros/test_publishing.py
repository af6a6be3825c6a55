"""The thread that publishes: a pause leaves nothing under way. Without ROS."""

from __future__ import annotations

import threading

from egm_ros.publishing import PublishingThread


def test_a_pause_waits_for_what_is_kept_and_takes_nothing_current() -> None:
    errors: list[Exception] = []
    thread = PublishingThread("test", errors.append)
    published: list[str] = []
    begun, may_end = threading.Event(), threading.Event()

    def slow() -> None:
        begun.set()
        may_end.wait(10.0)
        published.append("an answer under way")

    thread.keep(slow)
    assert begun.wait(10.0)
    thread.keep(lambda: published.append("an answer"))
    thread.newest(lambda: published.append("tracks of before"))
    threading.Timer(0.05, may_end.set).start()
    thread.pause(10.0)
    assert published == ["an answer under way", "an answer"]
    thread.newest(lambda: published.append("tracks of a pause"))
    thread.keep(lambda: published.append("a refusal"))
    thread.pause(10.0)
    assert published[2:] == ["a refusal"]
    resumed = threading.Event()
    thread.resume()
    thread.newest(resumed.set)
    assert resumed.wait(10.0)
    thread.stop(10.0)
    assert not errors


def test_a_pause_does_not_wait_for_a_subscriber_that_stalls() -> None:
    errors: list[Exception] = []
    thread = PublishingThread("test", errors.append)
    may_end = threading.Event()
    thread.keep(lambda: print(may_end.wait(10.0)))
    thread.pause(0.05)
    assert not may_end.is_set()
    may_end.set()
    thread.stop(10.0)
