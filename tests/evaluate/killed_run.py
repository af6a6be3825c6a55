"""`python killed_run.py CALLS KILL_AFTER TORN ARGUMENTS...`: egm evaluate that kills itself with SIGKILL after some records.

CALLS gets one line per request that reached the model. KILL_AFTER 0 lets it live; TORN 1 dies in the middle of a line.
"""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path
from typing import Any

from egm_edge.cli.evaluate import main
from egm_edge.evaluate.records import Record, RecordLog
from egm_edge.grounder import Grounder

calls, kill_after, torn, arguments = Path(sys.argv[1]), int(sys.argv[2]), sys.argv[3] == "1", sys.argv[4:]
ground, append = Grounder.ground, RecordLog.append
appended = 0


def counted_ground(self: Grounder, image: Any, expression: str, **options: Any) -> Any:
    with calls.open("a") as stream:
        stream.write(f"{expression} {options.get('max_new_tokens')}\n")
    return ground(self, image, expression, **options)


def fatal_append(self: RecordLog, record: Record) -> None:
    global appended
    appended += 1
    if appended == kill_after and torn:
        os.write(self._journal._file, b'{"id": "half a li')
        os.kill(os.getpid(), signal.SIGKILL)
    append(self, record)
    if appended == kill_after:
        os.kill(os.getpid(), signal.SIGKILL)


Grounder.ground, RecordLog.append = counted_ground, fatal_append  # type: ignore[method-assign,assignment]
raise SystemExit(main(arguments))
