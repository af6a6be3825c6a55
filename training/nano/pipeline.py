"""train_plan: every run of a plan, the comparison of its arms, the best one with its card. Knows nothing of losses.

    out/<run>/            state.pt, checkpoint/, log.jsonl of every run
    out/answers/          raw results per held-out scene
    out/report.json       every number of the model card
    out/curves.png
    out/notes.md          written by hand, if at all: goes into the card
    out/best/             the best arm's checkpoint with card and curves: what is shipped

Calling it again goes on where it stopped, at any point.
"""

from __future__ import annotations

import json
import logging
import math
import shutil
from pathlib import Path

import torch

from egm_edge.errors import CheckpointError
from egm_edge.files import replace_text, take_place
from egm_edge.synthetic.household.assets import attribution
from egm_edge.synthetic.vocabulary import NOUNS, SHAPES
from training.nano.average import average_runs
from training.nano.card import Report, model_card, report_values
from training.nano.compare import SUITES, Asked, measure, pair
from training.nano.config import RunConfig, TrainingPlan
from training.nano.curves import draw_curves
from training.nano.evaluate import load_fast
from training.nano.state import cost_of, load_state
from training.nano.suites import AMODAL, MODAL, TABLE
from training.nano.train import Run
from training.nano.validate import Validation

log = logging.getLogger("egm.train.nano")


def train_plan(
    plan: TrainingPlan,
    out: Path,
    device: torch.device,
    only: str | None = None,
    *,
    carried_from: Path | None = None,
    wall_minutes: float = math.inf,
) -> Path | None:
    """Do whatever of the plan is not done yet.

    Args:
        only: train this run and nothing else, so that arms can be trained side by side; None does everything.
        carried_from, wall_minutes: of `Run`, for the one run named by `only`.

    Returns:
        The best checkpoint (with `only`: that run's); None when a signal stopped the work.
    """
    for number, run in enumerate(plan.runs, 1):
        if only not in (None, run.name) or is_finished(out / run.name, run):
            continue
        if run.start and not carried_from and not is_finished(out / run.start, plan.run(run.start)):
            raise CheckpointError(
                f"the finished run {run.start!r} in {out}",
                "none, or one cut short",
                f"train it first: --only {run.start}",
            )
        if run.average:
            log.info("run %d of %d: %s, the mean of %s", number, len(plan.runs), run.name, ", ".join(run.average))
            average_runs(plan, run, out)
            continue
        log.info("run %d of %d: %s, %g CPU-min", number, len(plan.runs), run.name, run.cpu_minutes)
        start = out / run.start if run.start else None
        one = Run(plan, run, out / run.name, start, device, carried_from=carried_from, wall_minutes=wall_minutes)
        if not one.run():
            return None
    if only:
        return out / only / "checkpoint"
    return compare_arms(plan, out, device)


def is_finished(folder: Path, run: RunConfig) -> bool:
    saved = load_state(folder / "state.pt")
    return saved is not None and saved[0].stage >= len(run.stages)


def compare_arms(plan: TrainingPlan, out: Path, device: torch.device) -> Path:
    """Measure every arm, choose the best on validation scenes, and write report, curves, card and `best/`."""
    asked = [_asked(plan, out, name) for name in plan.arms]
    results = measure(asked, list(SUITES), plan.count, out / "answers", device)
    household = any(stage.household for run in plan.runs for stage in run.stages)
    best = choose(asked, max(8, plan.count // 10), device, household)
    log.info("best on validation scenes: %s", best.name)
    controls = [suite for suite in TABLE.values() if suite not in SUITES]
    extra = measure([best], controls, max(4, plan.count // 4), out / "answers", device)
    closed = Asked(f"{best.name}, thought closed at once", best.checkpoint, reasoning=False)
    if best.reasoning:
        extra |= {
            f"{suite}, no reasoning": measured
            for suite, measured in measure(
                [closed], [MODAL, AMODAL], plan.count, out / "answers" / "closed", device
            ).items()
        }
    pairs = {
        (suite.name, first, second): pair(results, suite.name, first, second)
        for suite in SUITES
        for first, second in zip(plan.arms, plan.arms[1:], strict=False)
    }
    # an average took what each of the averaged runs took
    trained = dict.fromkeys(part for arm in plan.arms for part in plan.run(arm).average or (arm,))
    logs = {name: [out / run.name / "log.jsonl" for run in plan.lineage(name)] for name in trained}
    report = Report(
        arms=plan.arms,
        best=best.name,
        results=results,
        extra=extra,
        pairs=pairs,
        costs={name: cost_of(*paths) for name, paths in logs.items()},
        parameters=sum(weight.numel() for weight in load_fast(best.checkpoint).model.parameters()),
        notes=notes.read_text() if (notes := out / "notes.md").exists() else "",
        nouns=tuple(NOUNS) if household else SHAPES,
        how={run.name: run.how for run in plan.runs},
        recipe=plan.recipe,
        adopted=plan.adopt,
    )
    draw_curves(plan, out, out / "curves.png")
    replace_text(out / "report.json", json.dumps(report_values(report), indent=1) + "\n")
    return _publish(best.checkpoint, model_card(report), out)


def choose(asked: list[Asked], count: int, device: torch.device, household: bool) -> Asked:
    """The checkpoint with the highest mean accuracy over the validation suites: the held-out scenes of the card have no
    say."""
    scores = {}
    for one in asked:
        found = Validation(count, reasoning=one.reasoning, household=household).scores(
            load_fast(one.checkpoint, device)
        )
        log.info("%s on validation scenes: %s", one.name, ", ".join(f"{k} {v:.3f}" for k, v in found.items()))
        scores[one.name] = found["mean"]
    return max(asked, key=lambda one: scores[one.name])


def _asked(plan: TrainingPlan, out: Path, name: str) -> Asked:
    """An arm that never learnt to think is asked for the box at once."""
    trained = next(run for run in reversed(plan.lineage(name)) if run.stages)
    thinks = any(stage.direct_share < 1 for stage in trained.stages)
    return Asked(name, out / name / "checkpoint", thinks)


def _publish(checkpoint: Path, card: str, out: Path) -> Path:
    """Copy the checkpoint with card and curves to `out/best`, swapped in by rename."""
    beside, best = out / ".best-new", out / "best"
    shutil.rmtree(beside, ignore_errors=True)
    shutil.copytree(checkpoint, beside)
    (beside / "README.md").write_text(card)
    if "ATTRIBUTION.md" in card:
        (beside / "ATTRIBUTION.md").write_text(attribution(), encoding="utf-8")
    shutil.copy(out / "curves.png", beside / "curves.png")
    take_place(beside, best)
    shutil.rmtree(beside, ignore_errors=True)
    return best
