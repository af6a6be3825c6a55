"""`egm verify BUNDLE --reference CHECKPOINT`: does the bundle still give the checkpoint's boxes? Exit code 1 when not.

The report goes into the bundle's manifest, so that whoever opens it knows.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from itertools import islice
from pathlib import Path

from build_engine.hub import resolve_checkpoint
from build_engine.parity.cases import Case, probes, rows, scenes
from build_engine.parity.store import store
from egm_edge.assets import SHIPPED_NAME
from egm_edge.backends import load_backend
from egm_edge.bundle import Bundle
from egm_edge.cli.parser import Parser, whole_number
from egm_edge.errors import BundleError
from egm_edge.reporting.progress import ProgressBar

EXIT_FAILED = 1
NANO_SCENES = 40
MAX_NEW_TOKENS = 256

EPILOG = """\
Both sides see the same pictures and sentences. Compared in order: pixels, prompt, vision embedding, deep-stack, prefill
logits, text and boxes; the first stage that differs is named. The reference is transformers in float32 with the
checkpoint's own image processor, chat template and tokenizer.

examples:
  egm verify out/egm-nano-cpu --reference egm-nano --scenes 1000
  egm verify out/egm-4b-cpu --reference /models/EGM-4B --data refcoco_val.jsonl --images /data/coco --limit 200
"""


def main(argv: list[str]) -> int:
    """Run the verb."""
    arguments = _parse(argv)
    bundle = Bundle.open(arguments.bundle)
    checkpoint = resolve_checkpoint(arguments.reference)
    _require_comparable(bundle)
    cases = _cases(arguments)
    backend = load_backend(bundle, memory="fast", threads=arguments.threads)
    try:
        from build_engine.parity.gate import compare
        from egm_edge.backends.transformers_reference import TransformersReference

        quiet = arguments.json or arguments.quiet
        reference = TransformersReference(
            checkpoint, max_pixels=bundle.manifest.limits.get("max_pixels"), device=arguments.device
        )
        bar = ProgressBar("verify", None if quiet else sys.stderr, len(cases))
        bar.stage("comparing")
        limit = min(arguments.max_new_tokens, int(bundle.manifest.limits["max_new_tokens"]))
        report = compare(bundle, backend, reference, cases, max_new_tokens=limit, advance=bar.advance)
        bar.finish()
    finally:
        backend.close()
    values = report.to_dict()
    if not arguments.no_store:
        store(bundle, values)
    print(json.dumps(values, indent=2) if arguments.json else "\n".join(report.lines()))
    return 0 if report.passed else EXIT_FAILED


def _parse(argv: list[str]) -> argparse.Namespace:
    parser = Parser(
        prog="egm verify", description="Compare a bundle with its checkpoint, stage by stage.", epilog=EPILOG
    )
    parser.add_argument("bundle", metavar="BUNDLE", help="bundle directory")
    parser.add_argument(
        "--reference",
        required=True,
        metavar="CHECKPOINT",
        help="the checkpoint it was built from: directory, hub id, egm-nano",
    )
    parser.add_argument(
        "--scenes", type=whole_number(1, 100_000), metavar="N",
        help=f"ask N drawn tabletop scenes with known boxes (EGM-Nano's world; default for egm-nano: {NANO_SCENES})",
    )  # fmt: skip
    parser.add_argument("--data", type=Path, metavar="ROWS.jsonl", help="ask these grounding rows instead")
    parser.add_argument(
        "--images", type=Path, metavar="DIR", help="where the pictures of --data lie (default: beside it)"
    )
    parser.add_argument("--limit", type=whole_number(1, 10**9), metavar="N", help="the first N rows of --data only")
    parser.add_argument(
        "--max-new-tokens", type=whole_number(1, 2**31 - 1), default=MAX_NEW_TOKENS, metavar="N",
        help="cap of both sides' answers (default: %(default)s)",
    )  # fmt: skip
    parser.add_argument("--device", default="cpu", help="where transformers runs, a torch device (default: cpu)")
    parser.add_argument("--threads", type=whole_number(1, 512), metavar="N", help="CPU threads of the bundle's engine")
    parser.add_argument("--no-store", action="store_true", help="leave the bundle's manifest as it is")
    parser.add_argument("--quiet", action="store_true", help="no progress")
    parser.add_argument("--json", action="store_true", help="print the report as JSON")
    return parser.parse_args(argv)


def _cases(arguments: argparse.Namespace) -> Sequence[Case]:
    if arguments.data is not None:
        return rows(arguments.data, arguments.images, arguments.limit)
    count = arguments.scenes or (NANO_SCENES if arguments.reference == SHIPPED_NAME else 0)
    return [*islice(scenes(count), count)] if count else probes()


def _require_comparable(bundle: Bundle) -> None:
    from build_engine.parity.bounds import BOUNDS

    if bundle.manifest.precision not in BOUNDS:
        known = ", ".join(BOUNDS)
        raise BundleError(f"a bundle of precision {known}", bundle.manifest.precision, "verify it on its own device")
