"""`egm verify BUNDLE`: does it still give the checkpoint's boxes? Exit code 1 when not.

By the golden replies that the bundle carries, on this machine and with any runtime, needing neither torch nor the checkpoint;
or with `--reference CHECKPOINT` stage by stage. What is found is kept beside the bundle; its name stays.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

from build_engine.parity.contradictions import contradictions
from build_engine.parity.stand_in import ENGINE, GRAPHS, NAMES, open_graphs, section
from egm_edge.assets import SHIPPED_NAME
from egm_edge.backends import Backend, load_backend
from egm_edge.bundle import Bundle
from egm_edge.cli.parser import Parser, whole_number
from egm_edge.errors import BackendError, BundleError, InputError
from egm_edge.golden.attestation import Machine, attest
from egm_edge.golden.check import GoldenReport, check_golden
from egm_edge.golden.replies import read_golden
from egm_edge.machine import has_nvidia_gpu
from egm_edge.reporting.progress import ProgressBar
from egm_edge.sources import SourceKind, resolve

if TYPE_CHECKING:
    from build_engine.parity.report import ParityReport

EXIT_FAILED = 1
NANO_SCENES = 40
MAX_NEW_TOKENS = 256
RTX, TORCH = "rtx", "torch"  # targets

EPILOG = """\
Without --reference: the bundle's golden replies are asked of the bundle here, or of a server that serves its checkpoint
(--url). Logits are compared along the reference's replies where the runtime gives them, text and boxes everywhere.
Where no GPU is (or with --graphs), an rtx bundle's portable graphs are asked on the CPU; its engines stay unverified.

With --reference: both sides see the same pictures and sentences. Compared in order: pixels, prompt, vision embedding,
deep-stack, prefill logits, decode logits, rounding, text and boxes; the first stage that differs is named. The reference is
transformers in float32 with the checkpoint's own image processor, chat template and tokenizer.

examples:
  egm verify out/egm-nano-cpu
  egm verify out/egm-nano-rtx --graphs
  egm verify out/egm-4b-cpu --url http://127.0.0.1:8000
  egm verify out/egm-nano-cpu --reference egm-nano --scenes 1000
  egm verify out/egm-4b-cpu --reference /models/EGM-4B --data refcoco_val.jsonl --images /data/coco --limit 200
"""


def main(argv: list[str]) -> int:
    """Run the verb."""
    arguments = _parse(argv)
    bundle = Bundle.open(resolve(arguments.bundle, takes=(SourceKind.BUNDLE,)).directory)
    return _against_golden(bundle, arguments) if arguments.reference is None else _against_checkpoint(bundle, arguments)


def _against_golden(bundle: Bundle, arguments: argparse.Namespace) -> int:
    golden = read_golden(bundle)
    stand_in = GRAPHS if arguments.url is None and _asks_graphs(bundle, arguments) else ""
    grounder = _reached(bundle, arguments, graphs=bool(stand_in))
    try:
        report = check_golden(grounder, grounder.facts, golden, brief=arguments.brief, known=contradictions(bundle, golden))
    finally:
        grounder.close()
    values = section(stand_in, report.to_dict()) if stand_in else report.to_dict()
    if not arguments.no_store and arguments.url is None:
        attest(bundle, Machine.of(grounder.facts), values)
    return _told(report, values, stand_in, as_json=arguments.json)


def _asks_graphs(bundle: Bundle, arguments: argparse.Namespace) -> bool:
    """Whether an RTX bundle's portable graphs stand in for its engines: where it was asked for, or no GPU could run these."""
    if arguments.graphs and bundle.manifest.target != RTX:
        raise InputError("an rtx bundle with --graphs", f"one for {bundle.manifest.target}", "leave --graphs out")
    return bundle.manifest.target == RTX and (arguments.graphs or not has_nvidia_gpu())


def _told(report: GoldenReport | ParityReport, values: dict[str, Any], stand_in: str, *, as_json: bool) -> int:
    """Print what was found; the exit code."""
    lines = report.lines()
    if stand_in:
        lines = [f"{NAMES[stand_in]}: {lines[0]}", *lines[1:], f"  the bundle: {values['why']}"]
    print(json.dumps(values, ensure_ascii=False) if as_json else "\n".join(lines))
    return 0 if report.passed else EXIT_FAILED


def _reached(bundle: Bundle, arguments: argparse.Namespace, *, graphs: bool) -> Any:
    """What answers: a server, the bundle's own runtime, or the portable graphs on this CPU."""
    from egm_edge.auto import open_grounder

    if arguments.url is not None:
        from egm_edge.backends.text_runtime.http import RemoteGrounder

        return RemoteGrounder.from_url(arguments.url, served_model=bundle.root, model=arguments.model)
    if graphs:
        from egm_edge.grounder import Grounder
        from egm_edge.loaded_model import read_tokenizer

        return Grounder(open_graphs(bundle, threads=arguments.threads), bundle, read_tokenizer(bundle))
    try:
        return open_grounder(bundle, threads=arguments.threads, check=False)
    except BackendError as error:
        if bundle.manifest.target != RTX:
            raise
        hint = f"{error.hint}; or ask its portable graphs on the CPU: egm verify {bundle.root} --graphs"
        raise BackendError(error.expected, error.found, hint) from None


def _against_checkpoint(bundle: Bundle, arguments: argparse.Namespace) -> int:
    from build_engine.hub import resolve_checkpoint

    checkpoint = resolve_checkpoint(arguments.reference)
    _require_comparable(bundle)
    from build_engine.checkpoint import Checkpoint
    from build_engine.parity.build_gate import STREAMED_PROBES, too_large
    from build_engine.parity.gate import compare
    from build_engine.parity.streamed_reference import StreamedReference
    from egm_edge.backends.transformers_reference import TransformersReference

    cases = _cases(arguments)
    with Checkpoint(checkpoint) as opened:
        streamed = arguments.device == "cpu" and bool(too_large(opened.parameter_count()))
    if streamed and not (arguments.data or arguments.scenes):
        cases = cases[STREAMED_PROBES]

    graphs = _asks_graphs(bundle, arguments)

    def open_engine(candidate: Bundle) -> Backend:
        if graphs or (bundle.manifest.target == RTX and candidate is not bundle):  # the twin without rounding has no engines
            return open_graphs(candidate, threads=arguments.threads)
        return load_backend(candidate, memory="fast", threads=arguments.threads)

    quiet = arguments.json or arguments.quiet
    reference = (StreamedReference if streamed else TransformersReference)(
        checkpoint, max_pixels=bundle.manifest.limits.get("max_pixels"), device=arguments.device
    )
    bar = ProgressBar("verify", None if quiet else sys.stderr, len(cases))
    bar.stage("comparing")
    limit = min(arguments.max_new_tokens, int(bundle.manifest.limits["max_new_tokens"]))
    report = compare(bundle, open_engine, reference, cases, max_new_tokens=limit, advance=bar.advance)
    bar.finish()
    values = report.to_dict()
    stand_in = GRAPHS if graphs else ENGINE if bundle.manifest.target == TORCH and report.machine["device"] == "cpu" else ""
    values = section(stand_in, values, bundle.manifest.parity) if stand_in else values
    if not arguments.no_store:
        bundle.vouched("make it writable, or pass --no-store", parity=values)
    return _told(report, values, stand_in, as_json=arguments.json)


def _parse(argv: list[str]) -> argparse.Namespace:
    parser = Parser(prog="egm verify", description="Check that a bundle gives its checkpoint's boxes.", epilog=EPILOG)
    parser.add_argument("bundle", metavar="BUNDLE", nargs="?", help="bundle directory (default: the bundle of egm ground)")
    parser.add_argument(
        "--url", metavar="URL", help="ask a server that serves the bundle's checkpoint (no --reference)"
    )
    parser.add_argument("--model", metavar="NAME", help="its name on that server (default: the only one there)")
    parser.add_argument(
        "--brief", action="store_true", help="one golden request only, as at the first open on a machine"
    )
    parser.add_argument(
        "--reference", metavar="CHECKPOINT", help="the checkpoint it was built from: directory, hub id, egm-nano"
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
    parser.add_argument(
        "--graphs", action="store_true", help="ask an rtx bundle's portable graphs on the CPU, though a GPU is here"
    )
    parser.add_argument("--device", default="cpu", help="where transformers runs, a torch device (default: cpu)")
    parser.add_argument("--threads", type=whole_number(1, 512), metavar="N", help="CPU threads of the bundle's engine")
    parser.add_argument("--no-store", action="store_true", help="keep nothing of what was found")
    parser.add_argument("--quiet", action="store_true", help="no progress")
    parser.add_argument("--json", action="store_true", help="print the report as JSON")
    arguments = parser.parse_args(argv)
    if arguments.reference is None:
        of_reference = ("scenes", "data", "images", "limit", "max_new_tokens", "device")
        parser.refuse(arguments, of_reference, "--reference CHECKPOINT")
    else:
        parser.refuse(arguments, ("url", "brief"), "no --reference", "both")
    if arguments.data is None:
        parser.refuse(arguments, ("images", "limit"), "--data ROWS.jsonl")
    else:
        parser.refuse(arguments, ("scenes",), "no --data", "both")
    if arguments.url is None:
        parser.refuse(arguments, ("model",), "--url URL")
    else:
        parser.refuse(arguments, ("graphs", "threads"), "no --url", "both")
    return arguments


def _cases(arguments: argparse.Namespace) -> Sequence[Any]:
    from build_engine.parity.cases import probes, rows, scenes

    if arguments.data is not None:
        return rows(arguments.data, arguments.images, arguments.limit)
    count = arguments.scenes or (NANO_SCENES if arguments.reference == SHIPPED_NAME else 0)
    return [*probes(), *islice(scenes(count), count)]


def _require_comparable(bundle: Bundle) -> None:
    from build_engine.precisions import PRECISIONS

    if bundle.manifest.precision not in PRECISIONS:
        known = ", ".join(PRECISIONS)
        raise BundleError(f"a bundle of precision {known}", bundle.manifest.precision, "verify it on its own device")
