"""ROS times and durations to whole nanoseconds and back."""

from __future__ import annotations

from builtin_interfaces.msg import Duration, Time

SECOND_NS = 1_000_000_000


def nanoseconds(time: Time | Duration) -> int:
    """Of a stamp or a duration."""
    return int(time.sec) * SECOND_NS + int(time.nanosec)


def to_time(time_ns: int) -> Time:
    return Time(sec=time_ns // SECOND_NS, nanosec=time_ns % SECOND_NS)


def to_duration(duration_ns: int) -> Duration:
    """Also of a negative one, as it comes about when a clock jumps back: seconds are floored, nanoseconds positive."""
    return Duration(sec=duration_ns // SECOND_NS, nanosec=duration_ns % SECOND_NS)
