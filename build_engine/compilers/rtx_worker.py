"""Builds TensorRT-RTX engines in a process of their own: `command(JOBS.json)`, in the folder of the graphs.

TensorRT orders some of an engine's records by the addresses of its objects, so that two builds of one graph differ in a few
hundred bytes. A process with the same arguments and environment whose address space is not randomised lays its objects out
the same way every time, if its threads do not race for an address: on one processor and without preemption by one another
(SCHED_BATCH) 24 decoders of 24 were equal, on two processors 32 of 40. The working directory stays out of Python's path: its
length would move every object. The process also gives the memory of a build back to the system.

JOBS.json: {"sm": [...], "jobs": [{"graph": path, "engine": path, "profiles": [{input: [min, typical, max]}]}]}. One line
"egm-engine NAME" on stdout after each; a line "egm-refused TEXT" and exit code 3 when TensorRT refuses.
"""

from __future__ import annotations

import ctypes
import json
import os
import signal
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

ADDR_NO_RANDOMIZE = 0x0040000
PR_SET_PDEATHSIG = 1  # linux/prctl.h
STEADY = "EGM_STEADY_ADDRESSES"
EXIT_REFUSED = 3
MAGIC = b"vtrt"


def command(jobs: str) -> list[str]:
    """What runs this module on a file of jobs."""
    run = f"import sys; sys.path.pop(0); from {__name__} import main; raise SystemExit(main(sys.argv[1:]))"
    return [sys.executable, "-c", run, jobs]


class RefusedError(Exception):
    """TensorRT's own words."""


def main(argv: Sequence[str]) -> int:
    """Build every job; the arguments are those of the module."""
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)  # a killed build takes its worker with it
    if STEADY not in os.environ:
        _restart_without_randomisation(argv)
    work: dict[str, Any] = json.loads(Path(argv[0]).read_text(encoding="utf-8"))
    import tensorrt_rtx as trt

    try:
        for job in work["jobs"]:
            engine = build_engine(trt, Path(job["graph"]), work["sm"], job["profiles"])
            Path(job["engine"]).write_bytes(engine)
            _say(f"egm-engine {Path(job['engine']).stem}")
    except RefusedError as refusal:
        _say(f"egm-refused {' '.join(str(refusal).split())[:400]}")
        return EXIT_REFUSED
    return 0


def build_engine(trt: Any, graph: Path, sms: Sequence[str], profiles: Sequence[Mapping[str, Any]]) -> bytes:
    """One engine for several compute capabilities ("sm86"); the graph's own types are kept.

    Raises:
        RefusedError: TensorRT refuses the graph, a capability or a shape.
    """
    words: list[str] = []

    class Logger(trt.ILogger):  # type: ignore[misc, name-defined, unused-ignore]
        def __init__(self) -> None:
            trt.ILogger.__init__(self)

        def log(self, severity: Any, message: str) -> None:
            if severity in (trt.ILogger.INTERNAL_ERROR, trt.ILogger.ERROR):
                words.append(message)

    logger = Logger()
    builder = trt.Builder(logger)
    builder.max_threads = 1
    network = builder.create_network(1 << int(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED))
    parser = trt.OnnxParser(network, logger)
    if not parser.parse_from_file(str(graph)):
        raise RefusedError("; ".join(str(parser.get_error(i)) for i in range(min(3, parser.num_errors))))
    config = builder.create_builder_config()
    config.num_compute_capabilities = len(sms)
    for i, sm in enumerate(sms):
        capability = getattr(trt.ComputeCapability, sm.upper(), None)
        if capability is None or not config.set_compute_capability(capability, i):
            raise RefusedError(f"{sm} is no compute capability of TensorRT-RTX {trt.__version__}")
    for shapes in profiles:
        profile = builder.create_optimization_profile()
        for i in range(network.num_inputs):
            name = network.get_input(i).name
            profile.set_shape(name, *(tuple(shape) for shape in shapes[name]))
        config.add_optimization_profile(profile)
    blob = builder.build_serialized_network(network, config)
    engine = b"" if blob is None else bytes(blob)
    if not engine.startswith(MAGIC):
        raise RefusedError("; ".join(words[-3:]) or f"an engine that begins with {engine[:4]!r}")
    return engine


def _restart_without_randomisation(argv: Sequence[str]) -> None:
    """Replace this process by one whose addresses are the same every time (Linux; elsewhere it goes on as it is)."""
    personality = getattr(ctypes.CDLL(None), "personality", None)
    if personality is None or personality(ADDR_NO_RANDOMIZE) == -1:
        return
    os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
    os.sched_setscheduler(0, os.SCHED_BATCH, os.sched_param(0))
    steady = {STEADY: "1", "PYTHONHASHSEED": "0", "OMP_NUM_THREADS": "1"}
    os.execve(sys.executable, command(*argv), os.environ | steady)  # noqa: S606 - ourselves, by absolute path


def _say(line: str) -> None:
    sys.stdout.write(line + "\n")
    sys.stdout.flush()
