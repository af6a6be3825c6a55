"""`egm measure BUNDLE`: a latency report of this machine; `egm measure compare A.json B.json`: two of them side by side;
`egm measure ros FILE`: what a ROS 2 node's answers cost."""

from __future__ import annotations

import argparse
import json
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from egm_edge.cli.parser import Parser, add_engine_options, number_up_to, positive_int
from egm_edge.errors import CheckpointError
from egm_edge.expression import check_expression
from egm_edge.sources import ALL_KINDS, SourceKind, resolve

if TYPE_CHECKING:
    from egm_edge.benchmark.comparison import PeerChoice

EPILOG = """\
examples:
  egm measure out/egm-nano-cpu --frames examples/frames --out out/latency
  egm measure out/egm-4b-cpu --max-new-tokens 128 --ignore-end --requests 10
  egm measure out/egm-nano-cpu --rate 5 --sweep resolution=320x240,640x480 tokens=16,32,64 commands=1,2,4
  egm measure out/egm-2b-cpu --beside transformers --checkpoint EGM-2B --max-new-tokens 128
  egm measure out/egm-2b-cpu --beside http://localhost:8000/v1 --max-new-tokens 128
  egm measure compare laptop/measure.json jetson/measure.json
  egm measure ros answers.jsonl

--out gets measure.json (everything, every request), measure.md and measure.html (plots; loads nothing from elsewhere).
Sweeps: resolution=WxH, prompt=WORDS, tokens=CAP, commands=PER FRAME.
"""


def main(argv: list[str]) -> int:
    """Run the verb."""
    other = {"compare": _compare, "ros": _ros}.get(argv[0] if argv else "")
    return other(argv[1:]) if other else _measure(argv)


def _measure(argv: list[str]) -> int:
    parser = _parser()
    arguments = parser.parse_args(argv)
    if arguments.beside is None:
        parser.refuse(arguments, ("checkpoint", "peer_model", "beside_dtype", "pairs"), "--beside PEER")
    elif arguments.beside == "transformers":
        parser.refuse(arguments, ("peer_model",), "another --beside", arguments.beside)
    else:
        parser.refuse(arguments, ("checkpoint", "beside_dtype"), "--beside transformers", arguments.beside)
    from egm_edge.auto import directory_of
    from egm_edge.benchmark.benchmark import BenchmarkPlan, measure_bundle
    from egm_edge.benchmark.runner import parse_sweeps
    from egm_edge.benchmark.workload import read_workload
    from egm_edge.files import check_place, make_folder
    from egm_edge.reporting.progress import ProgressBar

    peer = _peer(arguments) if arguments.beside else None
    if arguments.expression is not None:
        check_expression(arguments.expression)
    source = resolve(arguments.bundle, takes=ALL_KINDS - {SourceKind.SERVER})
    sweeps = parse_sweeps(arguments.sweep or [])
    plan = BenchmarkPlan(
        requests=arguments.requests,
        warm_up=arguments.warm_up,
        max_new_tokens=arguments.max_new_tokens,
        ignore_end=arguments.ignore_end,
        speculate=not arguments.no_speculate,
        rate_hz=arguments.rate,
        sweeps=sweeps,
        roofline=not arguments.no_roofline,
        beside=peer,
        pairs=arguments.pairs,
    )
    frames = Path(arguments.frames) if arguments.frames else None
    workload = read_workload(frames, arguments.expression, at_most=plan.most_questions)
    out = make_folder(Path(arguments.out)) if arguments.out else None
    if out:
        check_place(out / "measure.json")
    stream = None if arguments.json else sys.stderr
    report = measure_bundle(
        directory_of(source),
        workload,
        plan,
        memory=arguments.memory,
        threads=arguments.threads,
        told=lambda name: ProgressBar(name, stream),
    )
    markdown = _written(report, out)
    told = markdown + (f"\nwritten to {out}" if out else "")
    print(json.dumps(report, ensure_ascii=False) if arguments.json else told)
    return 0


def _peer(arguments: argparse.Namespace) -> PeerChoice:
    """What is measured beside the bundle."""
    from egm_edge.benchmark.comparison import PeerChoice

    path = arguments.checkpoint if arguments.beside == "transformers" else arguments.peer_model
    peer = PeerChoice(
        arguments.beside,
        None if path is None or "://" in arguments.beside else Path(path),
        dtype=arguments.beside_dtype,
        key=os.environ.get("OPENAI_API_KEY"),
        model=arguments.peer_model if "://" in arguments.beside else None,
    )
    if peer.path is not None and not peer.path.exists():
        raise CheckpointError(f"the model of {peer.name}", f"nothing at {peer.path}", "check the path")
    return peer


def _written(report: dict[str, Any], out: Path | None) -> str:
    """The report in Markdown; in all its forms in a folder, where one is given."""
    from egm_edge.benchmark.html_report import to_html
    from egm_edge.benchmark.report import to_markdown
    from egm_edge.files import replace_text

    markdown = to_markdown(report)
    if out:
        replace_text(out / "measure.json", json.dumps(report, indent=1, ensure_ascii=False, allow_nan=False) + "\n")
        replace_text(out / "measure.md", markdown)
        replace_text(out / "measure.html", to_html(report))
    return markdown


def _compare(argv: list[str]) -> int:
    parser = Parser(prog="egm measure compare", description="Compare two reports of egm measure.")
    parser.add_argument("first", metavar="A.json")
    parser.add_argument("second", metavar="B.json")
    parser.add_argument("--json", action="store_true", help="one JSON object")
    arguments = parser.parse_args(argv)
    from egm_edge.benchmark.compare import compare, to_markdown
    from egm_edge.benchmark.report import load_report

    found = compare(load_report(Path(arguments.first)), load_report(Path(arguments.second)))
    print(json.dumps(found.to_dict(), ensure_ascii=False) if arguments.json else to_markdown(found))
    return 0


def _ros(argv: list[str]) -> int:
    parser = Parser(
        prog="egm measure ros", description="Stages of a ROS 2 node's recorded answers, mailbox and publish too."
    )
    parser.add_argument("records", metavar="FILE.jsonl", help="as `ros2 run egm_ros record_answers` writes it")
    parser.add_argument("--json", action="store_true", help="one JSON object")
    arguments = parser.parse_args(argv)
    from egm_edge.benchmark.ros_records import read_ros_records, ros_markdown, summarise_ros

    summary = summarise_ros(read_ros_records(Path(arguments.records)))
    print(json.dumps(summary) if arguments.json else ros_markdown(summary))
    return 0


def _parser() -> Parser:
    parser = Parser(prog="egm measure", description="Measure a bundle's latency on this machine.", epilog=EPILOG)
    parser.add_argument("bundle", metavar="MODEL", nargs="?", help="bundle, checkpoint or hub id (default: as egm ground)")
    parser.add_argument(
        "--frames", metavar="DIR", help="pictures, with expressions.json or not (default: one synthetic)"
    )
    parser.add_argument("--expression", metavar="TEXT", help="ask this of every frame")
    parser.add_argument("--requests", type=positive_int, default=20, metavar="N", help="counted requests (default: 20)")
    parser.add_argument("--warm-up", type=positive_int, default=3, metavar="N", help="uncounted requests (default: 3)")
    parser.add_argument("--max-new-tokens", type=positive_int, metavar="N", help="token cap (default: the bundle's)")
    parser.add_argument("--ignore-end", action="store_true", help="generate exactly the cap, whatever the model says")
    parser.add_argument("--no-speculate", action="store_true", help="one token a step, no drafts")
    parser.add_argument("--rate", type=number_up_to(1000.0), metavar="HZ", help="also run at this frame rate, count misses")
    parser.add_argument("--sweep", nargs="+", metavar="AXIS=V,V", help="also sweep; see below")
    parser.add_argument("--no-roofline", action="store_true", help="do not measure bandwidth and matrix rate")
    parser.add_argument(
        "--beside", metavar="PEER", help="transformers, openvino, llama.cpp or a server's URL, in turns"
    )
    parser.add_argument("--checkpoint", metavar="DIR", help="the checkpoint, for --beside transformers")
    parser.add_argument(
        "--peer-model", metavar="PATH", help="openvino's directory, llama.cpp's GGUF, a server's model name"
    )
    parser.add_argument("--beside-dtype", choices=("bfloat16", "float32"), default="bfloat16", help="of transformers")
    parser.add_argument("--pairs", type=positive_int, default=5, metavar="N", help="turns beside the peer (default: 5)")
    parser.add_argument("--out", metavar="DIR", help="write measure.json, measure.md and measure.html there")
    add_engine_options(parser)
    parser.add_argument("--json", action="store_true", help="print the report as JSON")
    return parser
