"""`egm serve BUNDLE`: an OpenAI-compatible server over one bundle, and a page to try it.

Arguments, address and bundle are checked, in that order, before the engine is loaded.
"""

from __future__ import annotations

import argparse
import json
import os
import sys

from egm_edge.cli.parser import Parser, whole_number
from egm_edge.sources import ALL_KINDS, SourceKind, resolve

DEFAULT_PORT = 30000
MEMORY_MODES = ("auto", "fast", "low")
KEY_VARIABLE = "EGM_API_KEY"
LOOPBACK_NAMES = ("localhost", "127.0.0.1", "[::1]")

EPILOG = f"""\
examples:
  egm serve out/egm-nano-cpu                        # http://127.0.0.1:30000, this machine only
  {KEY_VARIABLE}=... egm serve out/egm-nano-cpu --host 0.0.0.0

Routes: / (a page to try it), /v1/chat/completions, /v1/models, /health, /ready, /metrics, /openapi.json.
SIGTERM or Ctrl-C finishes the accepted requests and exits with 0; a second one stops at once.
"""


def main(argv: list[str]) -> int:
    """Run the verb."""
    arguments = _parse(argv)
    source = resolve(arguments.bundle, takes=ALL_KINDS - {SourceKind.SERVER})

    from egm_edge.auto import directory_of
    from egm_edge.bundle_from_checkpoint import open_directory
    from egm_edge.grounder import Grounder
    from egm_edge.machine import limit_heaps
    from egm_edge.reporting.progress import told_when_slow
    from egm_edge.serve.app import Service
    from egm_edge.serve.server import bind, is_loopback, run, start_logging
    from egm_edge.serve.settings import MIB, ServeSettings

    api_key = arguments.api_key if arguments.api_key is not None else os.environ.get(KEY_VARIABLE, "")
    with bind(arguments.host, arguments.port) as bound:
        loopback = is_loopback(bound)
        hosts = tuple(host.lower() for host in arguments.allow_host)
        settings = ServeSettings(
            model_names=tuple(arguments.model_name),
            api_key=api_key,
            cors_origins=tuple(arguments.cors_origin),
            allowed_hosts=LOOPBACK_NAMES + hosts if loopback or hosts else (),
            verbatim=arguments.verbatim,
            strict=arguments.strict,
            fetch_pictures=arguments.fetch_pictures or bool(arguments.fetch_network),
            fetch_networks=tuple(arguments.fetch_network),
            max_waiting=arguments.queue,
            max_body_bytes=arguments.max_body_mib * MIB,
            max_held_bytes=max(256, 2 * arguments.max_body_mib) * MIB,
            max_pixels=arguments.max_megapixels * 1_000_000,
            kept_frames=arguments.kept_frames,
            request_s=arguments.timeout_s,
            drain_s=arguments.drain_s,
        )
        limit_heaps()
        with told_when_slow(f"checksums of {source.text}", sys.stderr):
            opened = open_directory(directory_of(source))
        start_logging(debug=os.environ.get("EGM_DEBUG") == "1")
        with told_when_slow(f"opening {source.text}", sys.stderr):
            grounder = Grounder.from_opened(opened, memory=arguments.memory, threads=arguments.threads)
        with grounder:
            grounder.warm_up()
            service = Service(grounder, settings, source.name)
            host, port = bound.getsockname()[:2]
            url = f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"
            if not (loopback or api_key):
                warning = f"anyone who reaches {host} can ask: no API key is set"
                sys.stderr.write(f"egm: warning: {warning}; set {KEY_VARIABLE}, or leave out --host\n")
            told = f"serving {source.text} at {url}"
            if arguments.json:
                told = json.dumps({"serving": source.text, "url": url}, ensure_ascii=False)
            try:
                return run(service, bound, lambda: print(told, flush=True))
            finally:
                service.engine.close()


def _parse(argv: list[str]) -> argparse.Namespace:
    parser = Parser(prog="egm serve", description="Answer OpenAI clients with a bundle's boxes.", epilog=EPILOG)
    parser.add_argument("bundle", metavar="MODEL", nargs="?", help="bundle, checkpoint or hub id (default: as egm ground)")
    parser.add_argument("--json", action="store_true", help="tell the address as one JSON object")
    parser.add_argument(
        "--host", default="127.0.0.1", metavar="ADDRESS", help="default: %(default)s, this machine only"
    )
    parser.add_argument(
        "--port", type=whole_number(0, 65535), default=DEFAULT_PORT, metavar="N", help="default: %(default)s; 0: any"
    )
    parser.add_argument(
        "--api-key", metavar="KEY", help=f"ask for this key under /v1 (better: ${KEY_VARIABLE}, which ps does not show)"
    )
    parser.add_argument(
        "--model-name",
        action="append",
        default=[],
        metavar="NAME",
        help="answer to this name only; repeatable (default: to every name)",
    )
    parser.add_argument(
        "--verbatim", action="store_true", help="feed EGM clients' sentences as sent, not in the bundle's own words"
    )
    parser.add_argument(
        "--strict",
        action="store_true",
        help="refuse fields that cannot be honoured, instead of naming them in egm.ignored",
    )
    parser.add_argument(
        "--fetch-pictures", action="store_true", help="fetch http(s) picture addresses that are public (default: none)"
    )
    parser.add_argument(
        "--fetch-network",
        action="append",
        default=[],
        metavar="CIDR",
        help="fetch pictures from this network too, for example 192.168.0.0/16; repeatable",
    )
    parser.add_argument(
        "--queue",
        type=whole_number(0, 10_000),
        default=64,
        metavar="N",
        help="requests that may wait; more get 429 (default: %(default)s)",
    )
    parser.add_argument(
        "--timeout-s",
        type=whole_number(1, 86_400),
        default=600,
        metavar="S",
        help="one request, waiting included (default: %(default)s)",
    )
    parser.add_argument(
        "--drain-s",
        type=whole_number(0, 86_400),
        default=60,
        metavar="S",
        help="after SIGTERM, time for accepted requests (default: %(default)s)",
    )
    parser.add_argument(
        "--max-body-mib",
        type=whole_number(1, 1024),
        default=20,
        metavar="N",
        help="one request's body (default: %(default)s)",
    )
    parser.add_argument(
        "--max-megapixels", type=whole_number(1, 64), default=32, metavar="N", help="one picture (default: %(default)s)"
    )
    parser.add_argument(
        "--kept-frames",
        type=whole_number(0, 1024),
        default=4,
        metavar="N",
        help="pictures kept for the next sentence (default: %(default)s)",
    )
    parser.add_argument(
        "--allow-host",
        action="append",
        default=[],
        metavar="NAME",
        help="a further name that the Host header may carry; repeatable",
    )
    parser.add_argument(
        "--cors-origin",
        action="append",
        default=[],
        metavar="ORIGIN",
        help="a web origin that may call /v1; repeatable (default: none)",
    )
    parser.add_argument(
        "--memory", choices=MEMORY_MODES, default="auto", help="low: smaller and slower; auto: by free RAM"
    )
    parser.add_argument("--threads", type=whole_number(1, 512), metavar="N", help="CPU threads (default: all cores)")
    return parser.parse_args(argv)
