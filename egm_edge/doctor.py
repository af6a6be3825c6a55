"""What this machine has for egm-edge, what is missing, and the command that mends each gap.

Looks at package metadata and the file system; imports nothing heavy (onnxruntime apart) and changes nothing.
"""

from __future__ import annotations

import os
import platform
import shutil
import sys
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from enum import Enum
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from egm_edge import __version__
from egm_edge.assets import SHIPPED_NAME, shipped_bundle, shipped_checkpoint
from egm_edge.bundle import Bundle
from egm_edge.errors import EgmError
from egm_edge.machine import board_name, cpu_flags, cpu_name, memory_gb, nvidia_gpus, usable_cpus
from egm_edge.sources import VARIABLE, SourceKind, resolve

MIN_PYTHON = (3, 10)
RUNTIME_PACKAGES = ("numpy", "onnxruntime", "opencv-python-headless", "pillow", "tokenizers")
BUILD_PACKAGES = ("jinja2", "ml_dtypes", "onnx", "pyyaml", "safetensors")
TRAIN_PACKAGES = ("torch", "transformers", "accelerate", "trl", "deepspeed")
GPU_RUNTIMES = ("tensorrt", "tensorrt-rtx", "tensorrt-edgellm", "tensorrt-llm")
MODULES = {  # import names where they differ; a system package or another wheel (opencv-python) serves as well
    "opencv-python-headless": "cv2",
    "pillow": "PIL",
    "pyyaml": "yaml",
    "tensorrt-rtx": "tensorrt_rtx",
    "tensorrt-edgellm": "tensorrt_edgellm",
    "tensorrt-llm": "tensorrt_llm",
}
ROS_DISTROS = ("humble", "jazzy", "kilted")


class Status(str, Enum):
    """OK; NOTE: absent, and only some uses need it; MISSING: the main job does not run without it."""

    OK = "ok"
    NOTE = "note"
    MISSING = "missing"


@dataclass(frozen=True, slots=True)
class Finding:
    """One line of the report: what was looked at, what was found, and the command that mends it ("" when none is due)."""

    section: str
    name: str
    status: Status
    found: str
    hint: str = ""


def examine() -> list[Finding]:
    """Everything, in the order in which it is printed."""
    parts = (_machine, _runtime, _building, _gpu, _ros, _models)
    return [finding for part in parts for finding in part()]


def main_job_works(findings: list[Finding]) -> bool:
    """Whether a sentence can be grounded here."""
    return all(finding.status is not Status.MISSING for finding in findings)


def to_dict(findings: list[Finding]) -> dict[str, Any]:
    """JSON-ready."""
    rows = [asdict(finding) | {"status": finding.status.value} for finding in findings]
    return {"egm_edge_version": __version__, "main_job_works": main_job_works(findings), "findings": rows}


def _machine() -> Iterator[Finding]:
    python_ok = sys.version_info >= MIN_PYTHON
    hint = "" if python_ok else "install Python 3.10 or newer"
    status = Status.OK if python_ok else Status.MISSING
    yield Finding("machine", "python", status, f"{platform.python_version()} ({sys.executable})", hint)
    yield Finding("machine", "platform", Status.OK, f"{board_name() or platform.platform()}, {platform.machine()}")
    flags = " ".join(cpu_flags()) or "no known int8 flags"
    yield Finding("machine", "cpu", Status.OK, f"{cpu_name()}, {usable_cpus()} usable; {flags}")
    total, available = memory_gb()
    yield Finding("machine", "memory", Status.OK, f"{total:.1f} GB, {available:.1f} GB available")
    free_gb = shutil.disk_usage(Path.home()).free / 1e9
    yield Finding("machine", "disk", Status.OK, f"{free_gb:.1f} GB free at {Path.home()}")


def _runtime() -> Iterator[Finding]:
    for package in RUNTIME_PACKAGES:
        yield _package("runtime", package, Status.MISSING, "pip install egm-edge")
    try:
        import onnxruntime

        providers = ", ".join(name.removesuffix("ExecutionProvider") for name in onnxruntime.get_available_providers())
        yield Finding("runtime", "providers", Status.OK, providers)
    except Exception as error:  # a broken native library raises more than ImportError
        found = f"onnxruntime does not import ({' '.join(str(error).split())[:200]})"
        hint = "pip install --force-reinstall onnxruntime"
        yield Finding("runtime", "providers", Status.MISSING, found, hint)


def _building() -> Iterator[Finding]:
    for package in BUILD_PACKAGES:
        yield _package("building", package, Status.NOTE, "pip install 'egm-edge[build]'")
    for package in TRAIN_PACKAGES:
        yield _package("training", package, Status.NOTE, "pip install 'egm-edge[train]'")


def _gpu() -> Iterator[Finding]:
    found = "; ".join(map(", ".join, nvidia_gpus("name", "memory.total", "driver_version", "compute_cap")))
    yield Finding("gpu", "nvidia gpu", Status.OK if found else Status.NOTE, found or "none seen (the CPU target needs none)")
    for package in GPU_RUNTIMES:
        yield _package("gpu", package, Status.NOTE, "")


def _ros() -> Iterator[Finding]:
    systems = [name for name in ROS_DISTROS if Path("/opt/ros", name).is_dir()]
    sourced = os.environ.get("ROS_DISTRO", "")
    here = find_spec("rclpy") is not None
    found = [f"{sourced} sourced"] if sourced else []
    found += [f"/opt/ros/{name}" for name in systems]
    found += ["rclpy in this Python"] if here else []
    clone = Path(__file__).resolve().parent.parent
    in_clone = (clone / "ros2_ws" / "src").is_dir()
    if (clone / ".venv-ros" / "bin" / "python").exists():
        found.append(f"Jazzy wheels in {clone / '.venv-ros'}")
    if in_clone:
        hint = f"make -C {clone} ros"
    else:
        hint = "sudo apt install ros-jazzy-ros-base ros-jazzy-vision-msgs (Ubuntu 24.04; on 22.04 humble)"
    if not found:
        yield Finding("ros 2", "ros 2", Status.NOTE, "none seen", hint)
        return
    yield Finding("ros 2", "ros 2", Status.OK, ", ".join(found))
    if systems and not sourced:
        yield Finding("ros 2", "environment", Status.NOTE, "not sourced", f"source /opt/ros/{systems[-1]}/setup.bash")


def _models() -> Iterator[Finding]:
    yield Finding("egm", "egm-edge", Status.OK, f"{__version__} ({Path(__file__).parent})")
    if os.environ.get(VARIABLE):
        yield _chosen()
    try:
        checkpoint, bundle = shipped_checkpoint(), shipped_bundle()
    except EgmError as error:
        yield Finding("egm", "shipped model", Status.NOTE, error.found, "pass --bundle to egm ground")
        return
    size_mb = sum(p.stat().st_size for p in checkpoint.rglob("*") if p.is_file()) / 1e6
    yield Finding("egm", "shipped checkpoint", Status.OK, f"{SHIPPED_NAME}, {size_mb:.1f} MB at {checkpoint}")
    yield _bundle("shipped bundle", bundle, "pip install --force-reinstall egm-edge")


def _chosen() -> Finding:
    """What is asked instead of the shipped bundle; a server and the hub are left alone."""
    hint = f"unset {VARIABLE}, or name a bundle, a checkpoint, a hub id or a server with it"
    try:
        source = resolve(None)
    except EgmError as error:
        return Finding("egm", VARIABLE, Status.MISSING, str(error), hint)
    if source.kind is SourceKind.BUNDLE:
        return _bundle(VARIABLE, source.directory, hint)
    return Finding("egm", VARIABLE, Status.OK, f"{source.text}, a {source.kind.value}")


def _bundle(name: str, directory: Path, hint: str) -> Finding:
    try:
        manifest = Bundle.open(directory).manifest
    except EgmError as error:
        return Finding("egm", name, Status.MISSING, str(error), hint)
    return Finding("egm", name, Status.OK, f"{manifest.precision}, parity {manifest.parity['status']}, {directory}")


def _package(section: str, name: str, if_missing: Status, hint: str) -> Finding:
    try:
        return Finding(section, name, Status.OK, version(name))
    except PackageNotFoundError:
        if find_spec(MODULES.get(name, name)) is not None:
            return Finding(section, name, Status.OK, "here, but not from pip")
        return Finding(section, name, if_missing, "not installed", hint)
