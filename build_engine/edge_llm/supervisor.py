"""Runs a tool, and ends it with its children when whoever asked for it is gone: `python supervisor.py TOOL [ARGUMENT...]`.

A process that is killed with SIGKILL takes no child with it. So standard input here is a pipe whose other end the asking process
holds: end of file means that it is no more. Standard library only, started as the leader of a process group of its own.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Sequence

EXIT_NO_TOOL = 127


def main(argv: Sequence[str]) -> int:
    """The tool's exit code; where a signal ended the tool, the same signal ends this process."""
    signal.signal(signal.SIGTERM, lambda number, frame: None)  # the whole group gets it: wait for the tool to obey
    try:
        tool = subprocess.Popen(argv, stdin=subprocess.DEVNULL)
    except OSError as error:
        sys.stdout.write(f"expected to start {argv[0]}; found {error.strerror or error}\n")
        return EXIT_NO_TOOL
    threading.Thread(target=_end_with_parent, daemon=True).start()
    code = tool.wait()
    if code < 0:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        os.kill(os.getpid(), -code)
    return code


def _end_with_parent() -> None:
    while os.read(0, 4096):
        pass
    os.killpg(0, signal.SIGKILL)


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
