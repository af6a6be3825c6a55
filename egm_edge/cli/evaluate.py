"""`egm evaluate BUNDLE|URL --data FILE...`: accuracy on data, resumable. `egm evaluate score DIR`: a finished run again, under
any scoring rule, without asking. `egm evaluate compare DIR DIR`: two runs row by row.

Everything cheap (data, pictures, output folder) is checked before the model is loaded.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import sys
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from egm_edge.boxes import Coordinates
from egm_edge.cli.parser import Parser, add_engine_options, positive_int, whole_number
from egm_edge.errors import InputError
from egm_edge.evaluate.budget import Budgets
from egm_edge.grounding import Task
from egm_edge.sources import resolve

if TYPE_CHECKING:
    from egm_edge.evaluate.records import Record
    from egm_edge.evaluate.report import EvaluationReport

EPILOG = """\
examples:
  egm evaluate out/egm-4b-cpu --data refcoco_val.jsonl refcoco_testA.jsonl --images coco --out out/eval
  egm evaluate out/egm-nano-cpu --data 'refcoco+/refs(unc).p' --images coco --limit 200
  egm evaluate out/egm-nano-cpu --data scenes.jsonl --budgets 8,16,32,64,128
  egm evaluate out/egm-nano-cpu --data scenes.jsonl --max-think-tokens 0,16,32,64
  egm evaluate http://localhost:8000/v1 --data refcoco_testA.jsonl --images coco --concurrency 32
  egm evaluate http://localhost:8000 --data refcoco_testA.jsonl --images coco --coordinates pixels
  egm evaluate score out/eval --rule egm
  egm evaluate compare out/eval-fp32 out/eval-int8

Data: EGM's evaluation jsonl, jsonl of this project, or the original refs pickle with instances.json beside it.
--out gets records.jsonl (one line per answer), report.json, report.md, gallery.html and, with --budgets, the curves. The
same command goes on where a killed run stopped. Accuracy is Acc@0.5: IoU strictly above 0.5. The report also scores the
same replies as EGM's script, VLMEvalKit and lmms-eval do; --rule says whose accuracy heads it.
A server is asked --concurrency rows at a time, in the family's own words, greedily; its key is read from OPENAI_API_KEY.
"""
SERVER_TOKENS = 4096  # as the EGM evaluation asks for


def main(argv: list[str]) -> int:
    """Run the verb."""
    verbs = {"compare": _compare, "score": _score}
    return verbs[argv[0]](argv[1:]) if argv and argv[0] in verbs else _evaluate(argv)


def _evaluate(argv: list[str]) -> int:
    parser = _parser()
    arguments = parser.parse_args(argv)
    if _is_address(arguments.bundle):
        parser.refuse(arguments, ("memory", "threads", "max_think_tokens", "deadline_ms"), "a bundle", arguments.bundle)
    else:
        of_server = ("coordinates", "model", "family", "concurrency", "tries", "timeout_s", "key_variable")
        parser.refuse(arguments, of_server, "a server's address", arguments.bundle)
    from egm_edge.data.pictures import find_pictures
    from egm_edge.evaluate.records import RecordLog
    from egm_edge.evaluate.rows import evaluation_rows, with_sizes
    from egm_edge.evaluate.run import data_identity, in_order, spread

    paths = [Path(p) for p in arguments.data]
    task = Task(arguments.task) if arguments.task else None
    rows = spread(evaluation_rows(paths, task), arguments.limit)
    roots = [Path(arguments.images)] if arguments.images else list(dict.fromkeys(path.parent for path in paths))
    pictures = find_pictures(rows, roots)
    rows = with_sizes(rows, pictures)

    from egm_edge.files import replace_text
    from egm_edge.reporting.progress import ProgressBar

    evaluated = (_server if _is_address(arguments.bundle) else _bundle)(arguments)
    identity = evaluated.identity | {
        "data": data_identity(paths),
        "task": arguments.task or "as the data says",
        "limit_per_split": arguments.limit,
        "budget_kind": evaluated.budgets.kind.name,
        "budgets": list(evaluated.budgets.values),
    }
    out = Path(arguments.out or f"out/evaluate-{evaluated.name}")
    with RecordLog(out, identity) as log:
        if len(in_order(log.records, rows, evaluated.budgets)) < len(rows) * len(evaluated.budgets.values):
            evaluated.run(rows, pictures, log, ProgressBar("evaluate", None if arguments.json else sys.stderr))
        records = in_order(log.records, rows, evaluated.budgets)

        from egm_edge.evaluate.gallery import gallery, worst
        from egm_edge.evaluate.report import curve_svgs, to_markdown

        report = _report(identity, records, arguments.rule)
        values, markdown = report.to_dict(), to_markdown(report)
        replace_text(out / "report.json", json.dumps(values, indent=2, ensure_ascii=False) + "\n")
        replace_text(out / "report.md", markdown)
        mirrored = frozenset(row.id for row in rows if row.mirrored)
        replace_text(out / "gallery.html", gallery(worst(records), pictures, mirrored))
        for name, svg in curve_svgs(report.summary).items():
            replace_text(out / name, svg)
    print(json.dumps(values, ensure_ascii=False) if arguments.json else f"{markdown}\nwritten to {out}")
    return 0


def _report(identity: dict[str, Any], records: list[Record], rule: str) -> EvaluationReport:
    from egm_edge.evaluate.report import EvaluationReport
    from egm_edge.evaluate.rules import RULES
    from egm_edge.evaluate.summary import summarise

    coordinates = Coordinates(identity.get("coordinates", Coordinates.NORM1000.value))
    return EvaluationReport(identity, summarise(records, RULES[rule], coordinates))


def _score(argv: list[str]) -> int:
    parser = Parser(prog="egm evaluate score", description="Score a run's saved replies again; nothing is evaluated.")
    parser.add_argument("directory", metavar="DIR", help="output folder of a run")
    _add_rule(parser)
    parser.add_argument("--json", action="store_true", help="one JSON object")
    arguments = parser.parse_args(argv)
    from egm_edge.evaluate.records import read_identity, read_records
    from egm_edge.evaluate.report import to_markdown

    directory = Path(arguments.directory)
    records = list(read_records(directory))
    if not records:
        raise InputError("records of a run", f"none in {directory}", "run egm evaluate first")
    report = _report(read_identity(directory), records, arguments.rule)
    print(json.dumps(report.to_dict(), ensure_ascii=False) if arguments.json else to_markdown(report))
    return 0


@dataclass(frozen=True)
class _Evaluated:
    """What is evaluated: its name for the default folder, its identity, its budgets, and how to ask it."""

    name: str
    identity: dict[str, Any]
    budgets: Budgets
    run: Callable[[Any, Any, Any, Any], None]


def _bundle(arguments: argparse.Namespace) -> _Evaluated:
    from egm_edge.auto import directory_of
    from egm_edge.bundle_from_checkpoint import open_directory
    from egm_edge.evaluate.run import evaluate_rows

    bundle = open_directory(directory_of(resolve(arguments.bundle)))
    manifest = bundle.manifest
    budgets = _budgets_of(arguments, int(manifest.limits["max_new_tokens"]))

    def run(rows: Any, pictures: Any, log: Any, progress: Any) -> None:
        from egm_edge.auto import open_grounder

        with open_grounder(bundle, memory=arguments.memory, threads=arguments.threads) as grounder:
            evaluate_rows(grounder, rows, pictures, budgets, log, progress)

    identity = {
        "bundle_hash": bundle.hash,
        "family": manifest.family,
        "target": manifest.target,
        "precision": manifest.precision,
        "pixel_spec_hash": manifest.pixel_spec_hash,
        "prompt_spec_hash": manifest.prompt_spec_hash,
    }
    return _Evaluated(bundle.hash[:12], identity, budgets, run)


def _server(arguments: argparse.Namespace) -> _Evaluated:
    from egm_edge.evaluate.server import EvaluatedServer, evaluate_server
    from egm_edge.families import family_for
    from egm_edge.openai import OpenAIClient, Retry

    retry = Retry(tries=arguments.tries, timeout_s=arguments.timeout_s)
    client = OpenAIClient(arguments.bundle, key=os.environ.get(arguments.key_variable), retry=retry)
    budgets = _budgets_of(arguments, SERVER_TOKENS)
    family = family_for(arguments.family)
    model = arguments.model or client.models()[0]
    coordinates = Coordinates(arguments.coordinates)
    evaluated = EvaluatedServer(client, family, model, arguments.concurrency, coordinates)

    def run(rows: Any, pictures: Any, log: Any, progress: Any) -> None:
        evaluate_server(evaluated.answer, rows, pictures, budgets, log, arguments.concurrency, progress)

    identity = {"server": client.server.base_url, "model": model, "family": family.name, "prompt": family.modal}
    if coordinates is not Coordinates.NORM1000:
        identity["coordinates"] = coordinates.value
    name = re.sub(r"[^A-Za-z0-9]+", "-", f"{client.server.base_url.partition('://')[2]} {model}").strip("-")[:80]
    return _Evaluated(name, identity, budgets, run)


def _budgets_of(arguments: argparse.Namespace, default_tokens: int) -> Budgets:
    for name in ("max_think_tokens", "deadline_ms"):
        if values := getattr(arguments, name):
            return Budgets.of(name, values)
    return Budgets.of("max_new_tokens", arguments.budgets or [default_tokens])


def _is_address(text: str) -> bool:
    return text.lower().startswith(("http://", "https://"))


def _compare(argv: list[str]) -> int:
    parser = Parser(prog="egm evaluate compare", description="Compare two evaluations on the rows that both answered.")
    parser.add_argument("first", metavar="DIR", help="output folder of the first run")
    parser.add_argument("second", metavar="DIR", help="output folder of the second run")
    parser.add_argument("--json", action="store_true", help="one JSON object")
    arguments = parser.parse_args(argv)
    from egm_edge.evaluate.records import read_records
    from egm_edge.evaluate.report import paired_markdown
    from egm_edge.reporting.intervals import paired

    first, second = (
        {r.key: r for r in read_records(Path(d)) if r.target is not None} for d in (arguments.first, arguments.second)
    )
    common = [key for key in first if key in second and first[key].budget_kind == second[key].budget_kind]
    if not common:
        raise InputError(
            "rows that both runs answered at one budget", "none", "evaluate the same data with the same budgets"
        )
    for key in common:
        if (first[key].target, first[key].expression) != (second[key].target, second[key].expression):
            raise InputError(
                f"one target and expression of row {key[0]!r} in both runs", "two", "evaluate the same data"
            )
    budget = max(key[1] for key in common)
    keys = [key for key in common if key[1] == budget]
    ious = [[run[k].iou or 0.0 for k in keys] for run in (first, second)]
    found = paired(ious[0], ious[1], [first[k].cluster for k in keys])
    left_out = len(first.keys() ^ second.keys())
    if arguments.json:
        print(
            json.dumps(asdict(found) | {"differs": found.differs, "budget": budget, "rows_of_one_run_only": left_out})
        )
    else:
        print(paired_markdown(found, arguments.first, arguments.second))
        print(f"{first[keys[0]].budget_kind} {budget}; {left_out} rows were answered by one run only")
    return 0


def _parser() -> Parser:
    parser = Parser(prog="egm evaluate", description="Accuracy of a bundle on grounding data.", epilog=EPILOG)
    parser.add_argument("bundle", metavar="BUNDLE|URL", help="bundle, checkpoint or an OpenAI-compatible server's address")
    parser.add_argument("--data", metavar="FILE", nargs="+", required=True, help="jsonl files or refs pickles")
    parser.add_argument("--images", metavar="DIR", help="folder of the pictures (default: beside the data)")
    parser.add_argument("--out", metavar="DIR", help="where records and reports go (default: out/evaluate-NAME)")
    parser.add_argument("--limit", type=positive_int, metavar="N", help="at most N rows of every split, evenly spaced")
    kinds = parser.add_mutually_exclusive_group()
    kinds.add_argument("--budgets", type=_budgets, metavar="N,N,...", help="ask every row once with each token cap")
    kinds.add_argument("--max-think-tokens", type=_budgets, metavar="N,N,...", help="... with each cap on the thought")
    kinds.add_argument("--deadline-ms", type=_budgets, metavar="MS,MS,...", help="... with each deadline")
    parser.add_argument("--task", choices=[t.value for t in Task], help="ask all rows so (default: as the data says)")
    add_engine_options(parser)
    _add_rule(parser)
    server = parser.add_argument_group("for a server")
    units = [unit.value for unit in Coordinates]
    server.add_argument("--coordinates", choices=units, default=units[0], help="unit of the model's boxes (default: %(default)s)")
    server.add_argument("--model", metavar="NAME", help="as the server names it (default: its first)")
    server.add_argument("--family", default="qwen3_vl", help="whose prompt to use (default: qwen3_vl)")
    server.add_argument("--concurrency", type=whole_number(1, 1024), default=16, metavar="N", help="(default: 16)")
    server.add_argument("--tries", type=whole_number(1, 100), default=6, metavar="N", help="per row (default: 6)")
    server.add_argument("--timeout-s", type=positive_int, default=120, metavar="S", help="per try (default: 120)")
    server.add_argument("--key-variable", default="OPENAI_API_KEY", metavar="NAME", help="variable that holds the key")
    parser.add_argument("--json", action="store_true", help="print the report as JSON")
    return parser


def _add_rule(parser: Parser) -> None:
    from egm_edge.evaluate.rules import DEFAULT_RULE, RULES

    parser.add_argument("--rule", choices=list(RULES), default=DEFAULT_RULE, help="whose accuracy heads the report")


def _budgets(text: str) -> list[int]:
    return sorted({whole_number(0, 2**31 - 1)(part) for part in text.split(",")})
