"""`egm serve BUNDLE`: an OpenAI-compatible server over one bundle, and a page to try it.

Arguments, address and bundle are checked, in that order, before the engine is loaded.
"""

from __future__ import annotations

import argparse
import json
import os
import sys

from egm_edge.cli.parser import Parser, add_engine_options, whole_number
from egm_edge.sources import ALL_KINDS, SourceKind, resolve

DEFAULT_PORT = 30000
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
    add = parser.add_argument
    add("bundle", metavar="MODEL", nargs="?", help="bundle, checkpoint or hub id (default: as egm ground)")
    add("--json", action="store_true", help="tell the address as one JSON object")
    add("--host", default="127.0.0.1", metavar="ADDRESS", help="default: %(default)s, this machine only")
    add("--api-key", metavar="KEY", help=f"ask for this key under /v1 (better: ${KEY_VARIABLE}, which ps does not show)")
    for name, text in SWITCHES.items():
        add(name, action="store_true", help=text)
    for name, (metavar, text) in REPEATED.items():
        add(name, action="append", default=[], metavar=metavar, help=f"{text}; repeatable")
    for name, (low, high, default, metavar, text) in NUMBERS.items():
        add(name, type=whole_number(low, high), default=default, metavar=metavar, help=f"{text} (default: %(default)s)")
    add_engine_options(parser)
    return parser.parse_args(argv)


SWITCHES = {
    "--verbatim": "feed EGM clients' sentences as sent, not in the bundle's own words",
    "--strict": "refuse fields that cannot be honoured, instead of naming them in egm.ignored",
    "--fetch-pictures": "fetch http(s) picture addresses that are public (default: none)",
}
REPEATED = {
    "--model-name": ("NAME", "answer to this name only (default: to every name)"),
    "--fetch-network": ("CIDR", "fetch pictures from this network too, for example 192.168.0.0/16"),
    "--allow-host": ("NAME", "a further name that the Host header may carry"),
    "--cors-origin": ("ORIGIN", "a web origin that may call /v1 (default: none)"),
}
NUMBERS = {
    "--port": (0, 65535, DEFAULT_PORT, "N", "0: any"),
    "--queue": (0, 10_000, 64, "N", "requests that may wait; more get 429"),
    "--timeout-s": (1, 86_400, 600, "S", "one request, waiting included"),
    "--drain-s": (0, 86_400, 60, "S", "after SIGTERM, time for accepted requests"),
    "--max-body-mib": (1, 1024, 20, "N", "one request's body"),
    "--max-megapixels": (1, 64, 32, "N", "one picture"),
    "--kept-frames": (0, 1024, 4, "N", "pictures kept for the next sentence"),
}
"""Option -> least, most, default, placeholder, help."""
