"""Report and the model card of EGM-Nano: measured numbers in, README.md out. Knows nothing of how they were measured."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Any

from egm_edge.reporting.intervals import Paired
from egm_edge.reporting.page import markdown_table
from egm_edge.synthetic.vocabulary import ALL_COLOURS, NOUNS, SHAPES
from training.nano.compare import Results, SuiteScore
from training.nano.evaluate import Score
from training.nano.state import Cost
from training.nano.suites import AMODAL, MODAL, NEGATIVE


@dataclass(frozen=True, slots=True)
class Report:
    """Everything measured.

    Attributes:
        arms: names of the compared checkpoints, in order.
        best: the one that is shipped.
        results: suite -> arm -> raw results.
        extra: suite -> name -> raw results of the shipped one alone.
        pairs: (suite, first arm, second arm) -> second against first on the same scenes.
        costs: arm, or each run that an arm averages -> what its training took, None when unknown.
        parameters: of the model.
        notes: what a reader must know about this very run, Markdown.
        nouns: what it was shown.
        how: arm -> how it was trained, in a few words.
        recipe: the course of all arms, Markdown.
        adopted: checkpoint the first run began with, "" for random weights; costs are counted from there.
    """

    arms: tuple[str, ...]
    best: str
    results: Results
    extra: Results
    pairs: dict[tuple[str, str, str], Paired]
    costs: dict[str, Cost | None]
    parameters: int
    notes: str = ""
    how: dict[str, str] = field(default_factory=dict)
    nouns: tuple[str, ...] = tuple(NOUNS)
    recipe: str = ""
    adopted: str = ""


def report_values(report: Report) -> dict[str, Any]:
    """The report as JSON values, without the raw results."""
    return {
        "best": report.best,
        "parameters": report.parameters,
        "costs": {name: asdict(cost) if cost else None for name, cost in report.costs.items()},
        "suites": {
            suite: {name: measured_values(measured) for name, measured in found.items()}
            for suite, found in (report.results | report.extra).items()
        },
        "pairs": [
            {"suite": suite, "first": first, "second": second, **asdict(found)}
            for (suite, first, second), found in report.pairs.items()
        ],
    }


def measured_values(measured: SuiteScore) -> dict[str, Any]:
    """One checkpoint on one suite as JSON values."""
    kinds = {
        kind: {
            "acc@0.5": round(s.accuracy, 4),
            "ci95": _rounded(s.interval95),
            "mean_iou": round(s.mean_iou, 4),
            "n": s.count,
        }
        for kind, s in measured.by_kind().items()
    }
    share, interval = measured.rejection
    return {"kinds": kinds, "answered_not_there": {"share": round(share, 4), "ci95": _rounded(interval)}}


def _rounded(interval: tuple[float, float]) -> list[float]:
    return [round(value, 4) for value in interval]


def model_card(report: Report) -> str:
    """Render the card."""
    modal, amodal, negative = (report.results[suite.name] for suite in (MODAL, AMODAL, NEGATIVE))
    arms = "\n".join(
        f"| {name}{' (shipped)' if name == report.best else ''} | {report.how.get(name, '')} | {_cell(modal[name])} | "
        f"{_cell(amodal[name])} | {_cell(negative[name])} | {_share(modal[name])} |"
        for name in report.arms
    )
    shipped = {suite: found[report.best] for suite, found in report.results.items()}
    extra = {suite: measured for suite, found in report.extra.items() for measured in found.values()}
    pairs = "\n".join(
        f"| {second} against {first} | {suite} | {p.acc50_gain:+.3f} | {p.acc50_gain95[0]:+.3f} to {p.acc50_gain95[1]:+.3f} | "
        f"{p.only_second} / {p.only_first} | {p.mcnemar_p:.2g} |"
        for (suite, first, second), p in report.pairs.items()
    )
    costs = "\n".join(
        f"| {name} | {cost.cpu_minutes:.0f} | {cost.stages} | {cost.scenes:,} | {cost.queries:,} |"
        for name, cost in report.costs.items()
        if cost
    )
    household = not set(report.nouns) <= set(SHAPES)
    return _CARD.format(
        arms=arms,
        worlds=", drawn ones and household objects on tables" if household else "",
        start=f"the weights of `{report.adopted}` as they were" if report.adopted else "random weights",
        recipe=report.recipe.strip(),
        kinds=controls(shipped | extra).rstrip(),
        pairs=f"{_PAIRS}{pairs}\n\n" if pairs else "",  # one arm has none
        costs=costs,
        parameters=report.parameters / 1e6,
        notes=f"\n{report.notes.strip()}\n" if report.notes.strip() else "",
        count=len(modal[report.best].ious),
        nouns=", ".join(report.nouns),
        data="meshes of the household objects: ATTRIBUTION.md" if household else "no external data",
        colours=", ".join(ALL_COLOURS),
    )


def controls(found: dict[str, SuiteScore]) -> str:
    """One checkpoint on every suite, a Markdown table."""
    rows = []
    for suite, measured in found.items():
        kinds = measured.by_kind()
        for kind, s in kinds.items():
            if kind != "all" and len(kinds) == 2:
                continue
            interval = f"{s.interval95[0]:.3f} - {s.interval95[1]:.3f}"
            share = _share(measured) if kind == "all" else ""
            rows.append([suite, kind, f"{s.count:,}", f"{s.accuracy:.3f}", interval, f"{s.mean_iou:.3f}", share])
    return markdown_table(("suite", "queries", "scenes", "Acc@0.5", "95 %", "mean IoU", 'answered "not there"'), rows) + "\n"


def _cell(measured: SuiteScore) -> str:
    found: Score = measured.by_kind()["all"]
    return f"{found.accuracy:.3f} ({found.interval95[0]:.3f} - {found.interval95[1]:.3f})"


def _share(measured: SuiteScore) -> str:
    share, (low, high) = measured.rejection
    return f"{share:.3f} ({low:.3f} - {high:.3f})"


_PAIRS = """\
The same scenes, pair by pair (gain in Acc@0.5 with its bootstrap interval; scenes that only one of the two got right; exact
McNemar test):

| pair | suite | gain | 95 % interval | only second / only first | p |
|---|---|---|---|---|---|
"""
_CARD = """\
---
license: apache-2.0
library_name: transformers
pipeline_tag: image-text-to-text
tags: [visual-grounding, referring-expression-comprehension, robotics]
---

# EGM-Nano

A {parameters:.1f} M parameter visual grounding model of the true EGM architecture (`Qwen3VLForConditionalGeneration`): a
picture and a referring expression in, a short reasoning text and a box out. It is trained from scratch, by this
repository's `training/`, on procedural scenes{worlds}. It is the embedded default, the demo and the fixture of the end-to-end
tests.
**It knows only the worlds it was trained on; it is not meant for photographs.** Use `nvidia/EGM-4B` or `nvidia/EGM-8B` for
those: everything that runs for Nano runs for them by changing one path.

## Measured

Greedy decoding, held-out seeds, 640x480 frames (unless the suite says otherwise) shrunk to 256x192 by the image processor's
bicubic resize, one question a scene, {count:,} scenes a suite, query kinds in turn; bf16 weights as shipped, fp32
arithmetic. Acc@0.5: the box's IoU is at least 0.5; where the thing asked for is not there, the empty list counts. Brackets
are 95 % Wilson intervals.

| checkpoint | how | Acc@0.5 modal | amodal, target really occluded | negatives rejected | wrongly "not there" (modal) |
|---|---|---|---|---|---|
{arms}

{pairs}The shipped checkpoint by query kind:

{kinds}

## Training

![loss and held-out accuracy](curves.png)

CPU minutes of one thread of an AMD EPYC virtual CPU, counted from {start}:

| run | CPU-min | stages | scenes | queries |
|---|---|---|---|---|
{costs}

{recipe}

Measure with `egm train nano --evaluate CHECKPOINT` or `make nano-results`.
{notes}
## What it understands

- Nouns: {nouns}; object. Colours: {colours}. Synonyms of most (cup, sphere, package, burger, gray ...).
- Sizes: small, medium, large; leftmost, rightmost, largest, smallest; first ... fifth X from the left / right;
  X left of / right of / in front of / behind the Y, and two such steps.
- Prompts are EGM's, letter for letter: `Locate {{expression}}, output its bbox coordinates using JSON format`, and
  `Locate {{expression}} amodally, output its bbox coordinates using JSON format`. No system prompt.
- The thought lists the candidates with their boxes and names the target's number; when nothing fits it lists the nearest
  rivals and ends in "none", and the answer is an empty list. Closing the thought at once
  (a line break, `</think>`, a blank line) gives the direct mode. The label in the answer is the short noun phrase, not the
  whole expression.

## Limits

- Weakest are ordinals and amodal boxes: one missed or doubled object in the list shifts the count, and how far a hidden
  object reaches behind another is a guess.
- Other words are spelled in bytes; a noun or attribute outside the vocabulary above ends in "unknown word: none".
- Coordinates are multiples of 5 on the 0-1000 grid. Amodal boxes stay inside the frame: the scenes hold no object that leaves it.
- One object is the answer, or none.
- Frames: 4:3 (256x192), 16:9 (288x160) and square (192x192) were trained; other aspect ratios interpolate the position grid.

Licence: Apache-2.0. No pretrained weights; {data}.
"""
