"""`egm build CHECKPOINT --target cpu -o BUNDLE`: arguments in, one line per result out."""

from __future__ import annotations

import argparse
import json
import sys

from egm_edge.cli.parser import Parser
from egm_edge.errors import BuildError
from egm_edge.shipped import SHIPPED_NAME, shipped_checkpoint

TARGETS = ("cpu",)


def main(argv: list[str]) -> int:
    """Run the verb; EgmError reaches the caller."""
    args = _parser().parse_args(argv)
    try:
        from build_engine.compilers.cpu import build_cpu
    except ImportError as error:
        if isinstance(error.__cause__, KeyboardInterrupt):  # Ctrl-C while a native module was loading
            raise KeyboardInterrupt from None
        raise BuildError("the build extra", str(error), "pip install 'egm-edge[build]'") from None
    bundle = build_cpu(
        shipped_checkpoint() if args.checkpoint == SHIPPED_NAME else args.checkpoint,
        args.output,
        precision=args.precision,
        force=args.force,
        gate=not args.no_gate,
        progress_stream=None if args.quiet or args.json else sys.stderr,
    )
    manifest = bundle.manifest
    size = sum(record.bytes for record in manifest.files.values())
    summary = {
        "bundle": str(bundle.root),
        "hash": bundle.hash,
        "target": manifest.target,
        "precision": manifest.precision,
        "family": manifest.family,
        "bytes": size,
        "parity": manifest.parity,
    }
    if args.json:
        print(json.dumps(summary))
    else:
        print(
            f"{bundle.root}  {manifest.family} {manifest.precision} for {manifest.target}, {size / 1e6:.1f} MB, {bundle.hash[:12]}"
        )
        print(
            f"parity: {manifest.parity['status']}"
            + "".join(f"  {k} {v}" for k, v in manifest.parity.items() if k != "status")
        )
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = Parser(prog="egm build", description="Turn a checkpoint into a bundle for one target.")
    parser.add_argument(
        "checkpoint",
        help="Hugging Face directory of an EGM, Qwen3-VL or InternVL3 (-hf) model, or egm-nano for the shipped one",
    )
    parser.add_argument("--target", choices=TARGETS, default="cpu")
    parser.add_argument(
        "--precision", choices=("fp32", "int8", "int4"), default="int8", help="weight precision (default: int8)"
    )
    parser.add_argument("-o", "--output", required=True, help="directory of the bundle; appears complete or not at all")
    parser.add_argument("--force", action="store_true", help="replace a damaged bundle at the output")
    parser.add_argument(
        "--no-gate", action="store_true", help="skip the comparison with full precision on probe requests"
    )
    parser.add_argument("--quiet", action="store_true", help="no progress")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    return parser
