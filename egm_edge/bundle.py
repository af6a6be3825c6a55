"""Open and check a bundle: one read-only directory with everything a robot needs to ground an expression.

`bundle.json` (the manifest) lists every other file with its sha256 and size, and carries a hash of itself. Knows how a
bundle lies on disk; knows nothing of engines, prompts or pixels, which appear here as opaque, hashed sections. Written by
`build_engine.manifest`, never by this module.

Layout of a CPU bundle: bundle.json, tokenizer.json, graphs/*.onnx with their *.data, embedding.npy, LICENSES/.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import MISSING, asdict, dataclass, fields, replace
from pathlib import Path, PurePosixPath
from typing import Any, Literal

from egm_edge.errors import BundleError
from egm_edge.files import whole_file
from egm_edge.hashing import canonical_hash

SCHEMA_VERSION = 2
CONFIDENCE_MAP = "confidence.json"
MANIFEST_NAME = "bundle.json"
GOLDEN = "golden/"  # requests with the reference's replies
PORTABLE = "portable/"  # the graphs that engines were made of, by which a machine without their GPU checks them
VOUCHING = (GOLDEN, PORTABLE)  # decides no answer
ATTESTATIONS = "attestations"  # folder of what machines found that checked the bundle; no part of it
MANIFEST_MAX_BYTES = 4 << 20
HASH_CHUNK_BYTES = 4 << 20
HASH_THREADS = 2
SHA256_HEX = 64
PARITY_STATUSES = ("verified", "unverified", "failed")

Verify = Literal["full", "sizes"]


@dataclass(frozen=True, slots=True)
class FileRecord:
    """What the manifest says of one file: lower-case hex sha256 and size in bytes."""

    sha256: str
    bytes: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Manifest:
    """The content of bundle.json.

    Attributes:
        schema_version: layout of this manifest; one egm-edge reads exactly one.
        egm_edge_version: what wrote it.
        target: device class ("cpu"). precision: "fp32", "int8", "int4"...
        family: "qwen3_vl" or "internvl3".
        model: the engine's own section (dimensions, rotary settings, token ids).
        limits: context_tokens and max_new_tokens.
        pixel_spec, pixel_spec_hash, prompt_spec, prompt_spec_hash: the two contracts and their hashes.
        calibration: confidence map, None when uncalibrated.
        parity: agreement with the checkpoint; `status` is "verified", "unverified" or "failed".
        versions: package name -> version that took part in the build.
        licences: part ("code", "weights"...) -> SPDX id or file under LICENSES/.
        files: relative POSIX path -> FileRecord, every file but bundle.json.
        text_runtime: "edge_llm", "tensorrt_llm" or "http" (a server) where that gives text; "" for an engine that gives logits.
    """

    schema_version: int = SCHEMA_VERSION
    egm_edge_version: str
    target: str
    precision: str
    family: str
    model: dict[str, Any]
    limits: dict[str, Any]
    pixel_spec: dict[str, Any]
    pixel_spec_hash: str
    prompt_spec: dict[str, Any]
    prompt_spec_hash: str
    calibration: dict[str, Any] | None
    parity: dict[str, Any]
    versions: dict[str, Any]
    licences: dict[str, Any]
    files: dict[str, FileRecord]
    text_runtime: str = ""

    def __post_init__(self) -> None:
        problems = list(_field_problems(self))
        if problems:
            raise BundleError("a complete manifest", "; ".join(problems), "rebuild the bundle with egm build")

    @property
    def hash(self) -> str:
        """sha256 that names the bundle: of everything that decides its answers, through `files` to the last byte. What vouches
        for them (parity, golden replies, portable graphs) or for how sure they are (calibration) may change and leaves the name
        as it is."""
        values = {name: value for name, value in asdict(self).items() if name not in ("parity", "calibration")}
        deciding = {name: record for name, record in values["files"].items() if not name.startswith(VOUCHING)}
        return canonical_hash(values | {"files": deciding})

    @property
    def seal(self) -> str:
        """sha256 of all of the manifest, which tells one that was edited."""
        return canonical_hash(asdict(self))

    def to_json(self) -> str:
        """The text of bundle.json: sorted keys, no timestamps, so that equal bundles are equal bytes."""
        values = asdict(self) | {"hash": self.hash, "seal": self.seal}
        return json.dumps(values, sort_keys=True, indent=2, ensure_ascii=False) + "\n"

    @classmethod
    def from_json(cls, text: str) -> Manifest:
        """Inverse of `to_json`.

        Raises:
            BundleError: not JSON, another schema version, missing, unknown or mistyped keys (all named), or a manifest
                that was edited after it was written.
        """
        values = _parse_object(text)
        _check_schema_version(values)
        known = {f.name for f in fields(cls)} | {"hash", "seal"}
        required = {f.name for f in fields(cls) if f.default is MISSING} | {"hash", "seal"}
        problems = [f"missing key {name!r}" for name in sorted(required - values.keys())]
        problems += [f"unknown key {name!r}" for name in sorted(values.keys() - known)]
        if problems:
            raise BundleError(f"a {MANIFEST_NAME} of schema {SCHEMA_VERSION}", "; ".join(problems), _REBUILD)
        written_hash, written_seal = values.pop("hash"), values.pop("seal")
        manifest = cls(**(values | {"files": _file_records(values["files"])}))
        if (manifest.hash, manifest.seal) != (written_hash, written_seal):
            raise BundleError(
                f"{MANIFEST_NAME} with hash {str(written_hash)[:12]}… and seal {str(written_seal)[:12]}…",
                f"content with hash {manifest.hash[:12]}… and seal {manifest.seal[:12]}… (it was edited)",
                _REBUILD,
            )
        return manifest


_REBUILD = "copy the bundle again or rebuild it with `egm build CHECKPOINT --target cpu -o DIR`"


def _field_problems(manifest: Manifest) -> list[str]:
    kinds: dict[str, type] = {"schema_version": int}
    kinds |= dict.fromkeys(
        ("egm_edge_version", "target", "precision", "family", "pixel_spec_hash", "prompt_spec_hash"), str
    )
    kinds |= dict.fromkeys(
        ("model", "limits", "pixel_spec", "prompt_spec", "parity", "versions", "licences", "files"), dict
    )
    problems = [
        f"{name!r} is {type(getattr(manifest, name)).__name__}, not {kind.__name__}"
        for name, kind in kinds.items()
        if not isinstance(getattr(manifest, name), kind) or (kind is str and not getattr(manifest, name))
    ]
    if not isinstance(manifest.text_runtime, str):
        problems.append(f"'text_runtime' is {type(manifest.text_runtime).__name__}, not str")
    if manifest.calibration is not None and not isinstance(manifest.calibration, dict):
        problems.append(f"'calibration' is {type(manifest.calibration).__name__}, not dict or null")
    if isinstance(manifest.parity, dict) and manifest.parity.get("status") not in PARITY_STATUSES:
        problems.append(f"parity status {manifest.parity.get('status')!r} is not one of {', '.join(PARITY_STATUSES)}")
    if isinstance(manifest.files, dict):
        problems += [f"unsafe file name {name!r}" for name in manifest.files if not is_safe_name(name)]
        problems += [
            f"bad record of {name!r}"
            for name, record in manifest.files.items()
            if not isinstance(record, FileRecord) or not _is_record(record.sha256, record.bytes)
        ]
    return problems


def _is_record(sha256: Any, size: Any) -> bool:
    hex_digits = isinstance(sha256, str) and len(sha256) == SHA256_HEX and set(sha256) <= set("0123456789abcdef")
    return hex_digits and type(size) is int and size >= 0


def is_safe_name(name: str) -> bool:
    """Whether `name` is a plain relative POSIX path that stays inside the bundle and is not the manifest itself."""
    parts = PurePosixPath(name).parts
    return (
        bool(name)
        and name == "/".join(parts)
        and not name.startswith("/")
        and ".." not in parts
        and name.isprintable()
        and not set(name) & set('\\:')
        and name != MANIFEST_NAME
    )


def _file_records(values: Any) -> dict[str, FileRecord]:
    if not isinstance(values, dict):
        raise BundleError("'files' as an object", type(values).__name__, _REBUILD)
    bad = [
        name
        for name, record in values.items()
        if not isinstance(record, dict)
        or record.keys() != {"sha256", "bytes"}
        or not _is_record(record["sha256"], record["bytes"])
    ]
    if bad:
        raise BundleError("sha256 and bytes of every file", f"bad records of {', '.join(bad[:5])}", _REBUILD)
    return {name: FileRecord(**record) for name, record in values.items()}


def _parse_object(text: str) -> dict[str, Any]:
    try:
        values = json.loads(text, parse_constant=_refuse_constant)
    except (ValueError, RecursionError) as error:
        raise BundleError(f"{MANIFEST_NAME} as JSON", f"text that does not parse ({error})", _REBUILD) from None
    if not isinstance(values, dict):
        raise BundleError(f"{MANIFEST_NAME} as a JSON object", f"a JSON {type(values).__name__}", _REBUILD)
    return values


def _refuse_constant(name: str) -> None:
    raise ValueError(f"{name} is not JSON")


def _check_schema_version(values: Mapping[str, Any]) -> None:
    found = values.get("schema_version")
    if type(found) is not int:
        raise BundleError(f"a {MANIFEST_NAME} with an integer 'schema_version'", f"{found!r}", _REBUILD)
    if found != SCHEMA_VERSION:
        writer = values.get("egm_edge_version", "of unknown version")
        raise BundleError(
            f"a bundle of schema {SCHEMA_VERSION}",
            f"schema {found}, written by egm-edge {writer}",
            f"rebuild it with this egm-edge, or install egm-edge {writer}",
        )


@dataclass(frozen=True, slots=True)
class Bundle:
    """An opened, checked bundle.

    Example:
        bundle = Bundle.open("out/egm-nano-cpu")
        session = onnxruntime.InferenceSession(bundle.path("graphs/vision.onnx"))
    """

    root: Path
    manifest: Manifest

    @classmethod
    def open(cls, path: str | Path, *, verify: Verify = "full") -> Bundle:
        """Open a bundle read-only.

        Args:
            path: the bundle's directory.
            verify: "full" recomputes the sha256 of every file; "sizes" only looks at presence and size.

        Raises:
            BundleError: nothing there, not a bundle, another version, or a file missing, truncated or altered.
        """
        root = Path(path)
        try:
            manifest = Manifest.from_json(_read_manifest(root))
            bundle = cls(root.resolve(), manifest)
            absent = bundle.left_out
            expected = {name: record for name, record in manifest.files.items() if name not in absent}
            for name, record in expected.items():
                bundle._check_size(name, record)
            if verify == "full":
                with ThreadPoolExecutor(HASH_THREADS) as pool:  # hashlib releases the GIL
                    list(pool.map(bundle._check_hash, expected, expected.values()))
        except OSError as error:
            raise BundleError(
                "a readable bundle", f"{error.filename or root}: {error.strerror or error}", "check the path and its permissions"
            ) from None
        return bundle

    @property
    def hash(self) -> str:
        return self.manifest.hash

    @property
    def left_out(self) -> list[str]:
        """Portable graphs that are listed and not here: a copy for a robot may leave them out."""
        listed = (name for name in self.manifest.files if name.startswith(PORTABLE))
        return [name for name in listed if not os.path.lexists(self.root / name)]

    def path(self, name: str) -> Path:
        """Where a listed file is. Files that the manifest does not list are not part of the bundle.

        Raises:
            BundleError: `name` is not listed.
        """
        if name not in self.manifest.files:
            raise BundleError(f"{name} in the bundle {self.root}", "no such entry in its manifest", _REBUILD)
        return self.root / name

    def vouched(self, hint: str, **sections: dict[str, Any] | None) -> Bundle:
        """The same bundle with other `parity` or `calibration`: bundle.json is replaced in one step and no other file touched.
        Its hash stays, its seal changes.

        Args:
            hint: what to do where it cannot be written.

        Raises:
            BundleError: it cannot be written.
        """
        manifest = replace(self.manifest, **sections)  # type: ignore[arg-type]
        path = self.root / MANIFEST_NAME
        try:
            with whole_file(path) as stream:
                stream.write(manifest.to_json())
        except OSError as error:
            raise BundleError(f"a bundle that can be written at {self.root}", error.strerror or str(error), hint) from None
        return Bundle(self.root, manifest)

    def _check_size(self, name: str, record: FileRecord) -> None:
        path = self.root / name
        if not path.resolve().is_relative_to(self.root):
            raise BundleError(f"{name} inside {self.root}", f"a link to {path.resolve()}", _REBUILD)
        if not path.is_file():
            raise BundleError(f"{name} in the bundle {self.root}", "no such file", _REBUILD)
        size = path.stat().st_size
        if size != record.bytes:
            raise BundleError(f"{name} of {record.bytes:,} bytes in {self.root}", f"{size:,} bytes", _REBUILD)

    def _check_hash(self, name: str, record: FileRecord) -> None:
        found = sha256_of(self.root / name)
        if found != record.sha256:
            raise BundleError(
                f"{name} with sha256 {record.sha256[:12]}… in {self.root}", f"sha256 {found[:12]}… (it was altered)", _REBUILD
            )


def _read_manifest(root: Path) -> str:
    build = f"build one with `egm build CHECKPOINT --target cpu -o {root}`"
    if not root.exists():
        raise BundleError(f"a bundle at {root}", "nothing there", build)
    if not root.is_dir():
        raise BundleError(f"a bundle directory at {root}", "a file", build)
    path = root / MANIFEST_NAME
    if not path.is_file():
        raise BundleError(f"a bundle at {root}", f"a directory without {MANIFEST_NAME}", build)
    if path.stat().st_size > MANIFEST_MAX_BYTES:
        raise BundleError(f"{path} of at most {MANIFEST_MAX_BYTES:,} bytes", f"{path.stat().st_size:,} bytes", _REBUILD)
    try:
        return path.read_text(encoding="utf-8")
    except UnicodeDecodeError:
        raise BundleError(f"{path} as UTF-8 JSON", "other bytes", _REBUILD) from None


def sha256_of(path: Path) -> str:
    """Lower-case hex sha256 of a file, read in chunks."""
    digest = hashlib.sha256()
    with path.open("rb") as stream:
        while chunk := stream.read(HASH_CHUNK_BYTES):
            digest.update(chunk)
    return digest.hexdigest()
