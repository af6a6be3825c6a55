"""`egm evaluate BUNDLE --data FILE...`: accuracy on data, resumable; `egm evaluate compare DIR DIR`: two runs row by row.

Everything cheap (data, pictures, output folder) is checked before the model is loaded.
"""

from __future__ import annotations

import argparse
import json
import sys
from dataclasses import asdict
from pathlib import Path

from egm_edge.cli.parser import Parser, positive_int
from egm_edge.errors import InputError
from egm_edge.grounding import Task

EPILOG = """\
examples:
  egm evaluate out/egm-4b-cpu --data refcoco_val.jsonl refcoco_testA.jsonl --images coco --out out/eval
  egm evaluate out/egm-nano-cpu --data 'refcoco+/refs(unc).p' --images coco --limit 200
  egm evaluate out/egm-nano-cpu --data scenes.jsonl --budgets 8,16,32,64,128
  egm evaluate compare out/eval-fp32 out/eval-int8

Data: EGM's evaluation jsonl, jsonl of this project, or the original refs pickle with instances.json beside it.
--out gets records.jsonl (one line per answer), report.json, report.md, gallery.html and, with --budgets, the curves. The
same command goes on where a killed run stopped. Accuracy is Acc@0.5: IoU strictly above 0.5.
"""


def main(argv: list[str]) -> int:
    """Run the verb."""
    return _compare(argv[1:]) if argv[:1] == ["compare"] else _evaluate(argv)


def _evaluate(argv: list[str]) -> int:
    arguments = _parser().parse_args(argv)
    from egm_edge.evaluate.pictures import find_pictures
    from egm_edge.evaluate.records import RecordLog
    from egm_edge.evaluate.refer import read_refer
    from egm_edge.evaluate.rows import read_jsonl
    from egm_edge.evaluate.run import data_identity, evaluate_rows, spread

    paths = [Path(p) for p in arguments.data]
    task = Task(arguments.task) if arguments.task else None
    rows = [row for path in paths for row in (read_refer if path.suffix == ".p" else read_jsonl)(path, task)]
    rows = spread(rows, arguments.limit)
    roots = [Path(arguments.images)] if arguments.images else list(dict.fromkeys(path.parent for path in paths))
    pictures = find_pictures(rows, roots)

    from egm_edge.bundle import Bundle
    from egm_edge.grounder import Grounder
    from egm_edge.measure.files import replace_text
    from egm_edge.measure.progress import Progress

    bundle = Bundle.open(arguments.bundle)
    budgets = arguments.budgets or [int(bundle.manifest.limits["max_new_tokens"])]
    identity = {
        "bundle_hash": bundle.hash,
        "family": bundle.manifest.family,
        "target": bundle.manifest.target,
        "precision": bundle.manifest.precision,
        "pixel_spec_hash": bundle.manifest.pixel_spec_hash,
        "prompt_spec_hash": bundle.manifest.prompt_spec_hash,
        "data": data_identity(paths),
        "task": arguments.task or "as the data says",
        "limit_per_split": arguments.limit,
        "budgets": budgets,
    }
    out = Path(arguments.out or f"out/evaluate-{bundle.hash[:12]}")
    with RecordLog(out, identity) as log:
        if len(log.records) < len(rows) * len(budgets):
            grounder = Grounder.from_opened(bundle, memory=arguments.memory, threads=arguments.threads)
            try:
                progress = Progress("evaluate", None if arguments.json else sys.stderr)
                evaluate_rows(grounder, rows, pictures, budgets, log, progress)
            finally:
                grounder.close()
        records = log.records

        from egm_edge.evaluate.gallery import gallery, worst
        from egm_edge.evaluate.report import curve_svgs, to_json, to_markdown
        from egm_edge.evaluate.summary import summarise

        summary = summarise(records)
        values = to_json(identity, summary)
        markdown = to_markdown(identity, summary)
        replace_text(out / "report.json", json.dumps(values, indent=2, ensure_ascii=False) + "\n")
        replace_text(out / "report.md", markdown)
        mirrored = frozenset(row.id for row in rows if row.mirrored)
        replace_text(out / "gallery.html", gallery(worst(records), pictures, mirrored))
        for name, svg in curve_svgs(summary).items():
            replace_text(out / name, svg)
    print(json.dumps(values, ensure_ascii=False) if arguments.json else f"{markdown}\nwritten to {out}")
    return 0


def _compare(argv: list[str]) -> int:
    parser = Parser(prog="egm evaluate compare", description="Compare two evaluations on the rows that both answered.")
    parser.add_argument("first", metavar="DIR", help="output folder of the first run")
    parser.add_argument("second", metavar="DIR", help="output folder of the second run")
    parser.add_argument("--json", action="store_true", help="one JSON object")
    arguments = parser.parse_args(argv)
    from egm_edge.evaluate.intervals import paired
    from egm_edge.evaluate.records import read_records
    from egm_edge.evaluate.report import paired_markdown

    first, second = (
        {r.key: r for r in read_records(Path(d)) if r.target is not None} for d in (arguments.first, arguments.second)
    )
    common = [key for key in first if key in second]
    if not common:
        raise InputError(
            "rows that both runs answered at one budget", "none", "evaluate the same data with the same --budgets"
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
        print(f"token budget {budget}; {left_out} rows were answered by one run only")
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = Parser(prog="egm evaluate", description="Accuracy of a bundle on grounding data.", epilog=EPILOG)
    parser.add_argument("bundle", metavar="BUNDLE", help="bundle directory")
    parser.add_argument("--data", metavar="FILE", nargs="+", required=True, help="jsonl files or refs pickles")
    parser.add_argument("--images", metavar="DIR", help="folder of the pictures (default: beside the data)")
    parser.add_argument("--out", metavar="DIR", help="where records and reports go (default: out/evaluate-HASH)")
    parser.add_argument("--limit", type=positive_int, metavar="N", help="at most N rows of every split, evenly spaced")
    parser.add_argument("--budgets", type=_budgets, metavar="N,N,...", help="ask every row once with each token cap")
    parser.add_argument("--task", choices=[t.value for t in Task], help="ask all rows so (default: as the data says)")
    parser.add_argument("--memory", choices=("auto", "fast", "low"), default="auto", help="as in egm ground")
    parser.add_argument("--threads", type=positive_int, metavar="N", help="CPU threads (default: the physical cores)")
    parser.add_argument("--json", action="store_true", help="print the report as JSON")
    return parser


def _budgets(text: str) -> list[int]:
    return sorted({positive_int(part) for part in text.split(",")})
