"""`egm build CHECKPOINT --target T -o BUNDLE`: arguments in, one line per result out."""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any

from build_engine.hub import resolve_checkpoint
from build_engine.parity.report import summary as parity_line
from build_engine.precisions import PRECISIONS
from build_engine.request import MAX_NEW_TOKENS, BuildRequest
from build_engine.targets import TARGETS, Runtime, Target, target_for
from egm_edge.bundle import Bundle
from egm_edge.cli.parser import Parser, positive_int
from egm_edge.errors import BackendError, InputError


def main(argv: list[str]) -> int:
    """Run the verb; EgmError reaches the caller."""
    args = _parser().parse_args(argv)
    target = target_for(args.target)
    precision = target.precision(args.precision)
    progress = None if args.quiet or args.json else sys.stderr
    try:
        compile_bundle = target.load_compiler()
    except ImportError as error:
        if isinstance(error.__cause__, KeyboardInterrupt):  # Ctrl-C while a native module was loading
            raise KeyboardInterrupt from None
        raise BackendError("the build extra", str(error), "pip install 'egm-edge[build]'") from None
    if args.calibration and not Path(args.calibration).is_file():
        raise InputError("rows for --calibration", f"no file {args.calibration}", "check the path")
    if args.calibration and not _is_calibrated(target, precision):
        found = f"target {target.name} in {precision}, which is made without"
        raise InputError("a target and --precision that are calibrated", found, "leave --calibration out")
    if args.no_graphs and target.runtime is not Runtime.TENSORRT_RTX:
        raise InputError("--target rtx with --no-graphs", f"target {target.name}", "leave --no-graphs out")
    request = BuildRequest(
        checkpoint=_checkpoint(args.checkpoint, Path(args.output), target),
        out_dir=Path(args.output),
        target=target,
        precision=precision,
        max_pixels=args.max_pixels,
        max_new_tokens=args.max_new_tokens,
        batch=args.batch,
        quantize_vision=args.quantize_vision,
        calibration=Path(args.calibration) if args.calibration else None,
        force=args.force,
        keep_graphs=not args.no_graphs,
        gate=not args.no_gate,
        progress_stream=progress,
    )
    bundle = compile_bundle(request)
    summary = summarise(bundle)
    print(json.dumps(summary) if args.json else describe(summary))
    return 0


def _is_calibrated(target: Target, precision: str) -> bool:
    """Whether the target's compiler reads calibration rows in this precision; TensorRT Edge-LLM's takes them in any."""
    served = target.runtime in (Runtime.TENSORRT_LLM, Runtime.OPENAI_SERVER) and PRECISIONS[precision].recipe is not None
    return served or target.runtime is Runtime.EDGE_LLM or (target.runtime is Runtime.TENSORRT_RTX and precision == "fp8")


def _checkpoint(given: str, out_dir: Path, target: Target) -> Path:
    """A device that only adds the engine to a bundle needs no checkpoint, and downloads none."""
    if target.runtime is Runtime.EDGE_LLM:
        from build_engine.edge_llm import device

        if device.is_asked_for(Path(given), out_dir, target):
            return Path(given)
    return resolve_checkpoint(given)


def summarise(bundle: Bundle) -> dict[str, Any]:
    """What `--json` prints."""
    manifest = bundle.manifest
    return {
        "bundle": str(bundle.root),
        "hash": bundle.hash,
        "target": manifest.target,
        "precision": manifest.precision,
        "family": manifest.family,
        "bytes": sum(record.bytes for record in manifest.files.values()),
        "parity": manifest.parity,
    }


def describe(summary: dict[str, Any]) -> str:
    """The same for people."""
    size = f"{summary['bytes'] / 1e6:.1f} MB, {summary['hash'][:12]}"
    head = f"{summary['bundle']}  {summary['family']} {summary['precision']} for {summary['target']}, {size}"
    return f"{head}\n{parity_line(summary['parity'])}"


def _parser() -> argparse.ArgumentParser:
    parser = Parser(prog="egm build", description="Turn a checkpoint into a bundle for one target.")
    parser.add_argument(
        "checkpoint",
        help="Hugging Face directory of an EGM, Qwen3-VL or InternVL3 (-hf) model, a hub id (nvidia/EGM-4B, downloaded), "
        "or egm-nano for the shipped one",
    )
    parser.add_argument("--target", default="cpu", help=f"{', '.join(TARGETS)}; `egm targets` tells more (default: cpu)")
    parser.add_argument("--precision", help="weight precision (default: the target's first in `egm targets`)")
    parser.add_argument(
        "--max-pixels", type=positive_int, metavar="N", help="area of the resized image at most (default: the checkpoint's)"
    )
    parser.add_argument(
        "--max-new-tokens", type=positive_int, default=MAX_NEW_TOKENS, metavar="N", help="generation limit (default: %(default)s)"
    )
    parser.add_argument("--batch", type=positive_int, default=1, metavar="N", help="requests answered at once (default: 1)")
    parser.add_argument(
        "--quantize-vision",
        action="store_true",
        help="quantize the vision tower too, in FP8, where the runtime has kernels for it (default: high precision)",
    )
    parser.add_argument("--calibration", metavar="ROWS.jsonl", help="grounding rows that quantization is calibrated on")
    parser.add_argument("-o", "--output", required=True, help="directory of the bundle; appears complete or not at all")
    parser.add_argument("--force", action="store_true", help="replace a damaged bundle at the output")
    parser.add_argument(
        "--no-graphs", action="store_true",
        help="rtx: leave out the graphs that the engines are made of (about half the bundle), by which `egm verify` checks it on "
        "a machine without the GPU",
    )  # fmt: skip
    parser.add_argument("--no-gate", action="store_true", help="skip the comparison with the checkpoint")
    parser.add_argument("--quiet", action="store_true", help="no progress")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    return parser
