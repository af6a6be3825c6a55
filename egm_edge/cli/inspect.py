"""`egm inspect BUNDLE|CHECKPOINT`: what a bundle is, after checking every file of it; what a checkpoint is, by its headers."""

from __future__ import annotations

import json

from egm_edge.bundle import Bundle
from egm_edge.cli import Verb, run_verb
from egm_edge.cli.parser import Parser
from egm_edge.sources import LOCAL_KINDS, SourceKind, resolve

DESCRIPTION = "Check every file of a bundle against its manifest and show what it is; or show what a checkpoint is."
OF_CHECKPOINTS = Verb("build_engine.inspect_cli:main", "what a checkpoint is", extra="build")


def main(argv: list[str]) -> int:
    """Run the verb."""
    parser = Parser(prog="egm inspect", description=DESCRIPTION)
    parser.add_argument(
        "bundle",
        metavar="BUNDLE|CHECKPOINT",
        nargs="?",
        help="bundle or checkpoint directory (default: the bundle of egm ground)",
    )
    parser.add_argument("--json", action="store_true", help="print the manifest, or the checkpoint's facts, as JSON")
    arguments = parser.parse_args(argv)
    prefers = SourceKind.CHECKPOINT if arguments.bundle else SourceKind.BUNDLE
    source = resolve(arguments.bundle, takes=LOCAL_KINDS, prefers=prefers)
    if source.kind is SourceKind.CHECKPOINT:
        return run_verb("inspect", OF_CHECKPOINTS, argv)
    bundle = Bundle.open(source.directory)
    if arguments.json:
        print(json.dumps(json.loads(bundle.manifest.to_json()), ensure_ascii=False))
    else:
        print(describe(bundle), end="")
    return 0


def describe(bundle: Bundle) -> str:
    """The manifest for people, files largest first."""
    manifest, absent = bundle.manifest, bundle.left_out
    total_bytes = sum(record.bytes for record in manifest.files.values())
    rows = {
        "hash": manifest.hash,
        "target": f"{manifest.target}, {manifest.precision}",
        "family": manifest.family,
        "built by": f"egm-edge {manifest.egm_edge_version} (schema {manifest.schema_version})",
        "pixel spec": manifest.pixel_spec_hash,
        "prompt spec": manifest.prompt_spec_hash,
        "parity": _pairs(manifest.parity),
        "confidence": "calibrated" if manifest.calibration else "uncalibrated",
        "limits": _pairs(manifest.limits),
        "versions": _pairs(manifest.versions),
        "licences": _pairs(manifest.licences),
        "files": f"{len(manifest.files)}, {total_bytes:,} bytes, all checksums right"
        + (f"; {len(absent)} left out of this copy" if absent else ""),
    }
    lines = [f"{name:<12} {text}" for name, text in rows.items()]
    by_size = sorted(manifest.files.items(), key=lambda item: (-item[1].bytes, item[0]))
    lines += [f"{record.bytes:>16,}  {record.sha256[:12]}  {name}" for name, record in by_size]
    return "\n".join(lines) + "\n"


def _pairs(values: dict[str, object]) -> str:
    return ", ".join(f"{key} {value}" for key, value in values.items() if not isinstance(value, (dict, list)))
