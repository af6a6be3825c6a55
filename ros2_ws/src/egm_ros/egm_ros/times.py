"""ROS times and durations to whole nanoseconds and back."""

from __future__ import annotations

from builtin_interfaces.msg import Duration, Time

SECOND_NS = 1_000_000_000
LEAST_S, MOST_S = -(2**31), 2**31 - 1  # of the messages' `sec`; a stamp from a broken clock may be that far from now


def nanoseconds(time: Time | Duration) -> int:
    """Of a stamp or a duration."""
    return int(time.sec) * SECOND_NS + int(time.nanosec)


def to_time(time_ns: int) -> Time:
    return Time(sec=_seconds(time_ns), nanosec=time_ns % SECOND_NS)


def to_duration(duration_ns: int) -> Duration:
    """Also of a negative one, as it comes about when a clock jumps back: seconds are floored, nanoseconds positive."""
    return Duration(sec=_seconds(duration_ns), nanosec=duration_ns % SECOND_NS)


def _seconds(ns: int) -> int:
    return min(max(ns // SECOND_NS, LEAST_S), MOST_S)
