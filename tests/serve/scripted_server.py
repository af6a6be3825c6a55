"""A server process over a scripted engine, for what a fast real one cannot show: long answers, full queues, failures.

python -m tests.serve.scripted_server BUNDLE '{"token_s": 0.05, "settings": {"max_waiting": 1}}'
"""

from __future__ import annotations

import json
import sys
from typing import Any

from egm_edge.bundle import Bundle
from egm_edge.serve.app import Service
from egm_edge.serve.server import bind, run, start_logging
from egm_edge.serve.settings import ServeSettings
from tests.benchmark.scripted import ScriptedSession, scripted_grounder

THOUGHT = "The mug stands to the left of the kettle, near the edge of the table."
REPLY = THOUGHT + '</think>[{"bbox_2d": [100, 200, 500, 600], "label": "mug"}]'


def main() -> int:
    bundle, options = Bundle.open(sys.argv[1]), json.loads(sys.argv[2])

    def reply_to(words: str) -> str:
        if "explode" in words:
            raise ZeroDivisionError("secret detail of the engine")
        return REPLY

    grounder = scripted_grounder(bundle, reply_to)
    grounder.speculate = False
    backend: Any = grounder.backend
    extend = ScriptedSession.extend

    def slow_extend(session: ScriptedSession, *arguments: Any, **more: Any) -> Any:
        backend.pause(options.get("token_s", 0.0))
        return extend(session, *arguments, **more)

    ScriptedSession.extend = slow_extend  # type: ignore[method-assign]
    settings = ServeSettings(**options.get("settings", {}))
    start_logging(debug=False)
    with bind("127.0.0.1", 0) as bound:
        service = Service(grounder, settings, "scripted")
        port = bound.getsockname()[1]
        try:
            return run(service, bound, lambda: print(f"serving scripted at http://127.0.0.1:{port}", flush=True))
        finally:
            service.engine.close()


if __name__ == "__main__":
    raise SystemExit(main())
