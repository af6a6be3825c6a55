"""`python -m tests.bench.ros stream|follow|cancel|deadline|soak|threads --bundle DIR --picture FILE`: the README's figures."""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
from pathlib import Path

EXPRESSIONS = ["the red bowl", "the blue bottle", "the left thing"]


def _machine() -> str:
    """CPU, cores and load, for the line above every table."""
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    name = next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), os.uname().machine)
    return f"{name}, {os.cpu_count()} logical cores, load average {os.getloadavg()[0]:.1f} before the run"


def _say(text: str) -> None:
    sys.stdout.write(text + "\n")
    sys.stdout.flush()


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m tests.bench.ros", description=__doc__)
    parser.add_argument("what", choices=("stream", "follow", "cancel", "deadline", "soak", "threads", "cameras"))
    parser.add_argument("--bundle", help="directory of the bundle to run")
    parser.add_argument("--picture", help="what the camera shows; the expression should be in it")
    parser.add_argument("--expression", default=EXPRESSIONS[0])
    parser.add_argument("--seconds", type=float, default=20.0, help="of each stream or thread measurement")
    parser.add_argument("--seed", type=int, default=0, help="of follow: which tabletop")
    parser.add_argument("--sequence", type=Path, nargs="+", help="of follow: real footage, as tests.bench.tracking takes it")
    parser.add_argument("--latencies", type=float, nargs="+", default=[1.0], help="of follow --sequence, s")
    parser.add_argument("--cameras", type=int, default=2, help="of cameras")
    parser.add_argument("--queries", type=int, default=8, help="of cameras: standing queries of each")
    parser.add_argument("--rounds", type=int, default=60, help="of cancel and deadline")
    parser.add_argument("--minutes", type=float, default=30.0, help="of soak")
    parser.add_argument("--log", type=Path, default=Path(tempfile.gettempdir()) / "egm_ros_measure.log")
    return parser


def main(arguments: list[str] | None = None) -> int:
    parser = _parser()
    options = parser.parse_args(arguments)
    if not (options.bundle and (options.picture or options.what == "follow")):
        parser.error("--bundle and --picture are needed")
    parameters: dict[str, object] = {"bundle_path": options.bundle}
    _say(f"{_machine()}; node's log: {options.log}\n")
    if options.what == "threads":
        from tests.bench.ros import threads

        _say(threads.HEADER)
        for row in threads.measure_threads(options.bundle, options.picture, options.expression, options.seconds):
            _say(row.row())
    elif options.what == "stream":
        from tests.bench.ros import stream

        _say(stream.HEADER)
        for size in ((640, 480), (1280, 720)):
            figures = stream.measure_stream(
                parameters, options.picture, options.expression, size, options.seconds, options.log
            )
            _say(figures.row())
    elif options.what == "cameras":
        from tests.bench.ros import cameras

        _say(cameras.HEADER)
        for count, queries in ((1, 1), (1, options.cameras * options.queries), (options.cameras, options.queries)):
            found = cameras.measure_cameras(parameters, options.picture, count, queries, options.seconds, options.log)
            _say(found.row())
    elif options.what == "follow" and options.sequence:
        from tests.bench.ros import follow, follow_bag

        _say(follow.HEADER)
        with tempfile.TemporaryDirectory(prefix="egm-bags-") as bags:
            for folder in options.sequence:
                for delay_s in options.latencies:
                    bag = Path(bags) / f"{folder.name}-{delay_s:g}"
                    _say(follow_bag.measure_bag(options.bundle, folder, delay_s, bag, options.log).row())
    elif options.what == "follow":
        from tests.bench.ros import follow

        _say(follow.HEADER)
        for motion in follow.MOTIONS:
            for delay_s in follow.DELAYS_S:
                found = follow.measure_follow(
                    options.bundle, motion, delay_s, options.seconds, options.seed, options.log
                )
                _say(found.row())
    elif options.what == "cancel":
        from tests.bench.ros import cancel

        figures = cancel.measure_cancel(parameters, options.picture, options.expression, options.rounds, options.log)
        _say(figures.text())
    elif options.what == "deadline":
        from tests.bench.ros import deadline

        late = deadline.measure_deadlines(parameters, options.picture, options.expression, options.rounds, options.log)
        _say(late.text())
    else:
        from tests.bench.ros import soak

        expressions = [options.expression, *EXPRESSIONS]
        _say(soak.measure_soak(parameters, options.picture, expressions, options.minutes, options.log).text())
    return 0


if __name__ == "__main__":
    sys.exit(main())
