"""Loss and held-out accuracy of a plan's runs as one picture. Knows nothing of how they were trained."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from egm_edge.data.jsonl import read_objects
from training.nano.config import TrainingPlan

Series = list[tuple[float, float]]
_LOSS_KEYS = ("loss", "dense")
_SMOOTHED = 15


@dataclass(slots=True)
class RunCurves:
    """One run, over CPU minutes since random or adopted weights.

    Attributes:
        loss: of the rows (of the vision tower's lessons where there are none), smoothed.
        reward: mean reward of the sampled answers, for GRPO.
        accuracy: held-out Acc@0.5 by name.
    """

    loss: Series = field(default_factory=list)
    reward: Series = field(default_factory=list)
    accuracy: dict[str, Series] = field(default_factory=dict)


def read_curves(log: Path) -> RunCurves:
    """What a run's log.jsonl holds; a line that a kill cut short is skipped."""
    curves = RunCurves()
    loss: Series = []
    for _, values in read_objects(log, []):
        if "total_cpu_s" not in values:
            continue
        minute = values["total_cpu_s"] / 60
        for name, value in values.get("held_out", {}).items():
            curves.accuracy.setdefault(name, []).append((minute, value))
        found = next((values[key] for key in _LOSS_KEYS if key in values), None)
        if found is not None and "held_out" not in values:
            loss.append((minute, found))
        if "reward" in values:
            curves.reward.append((minute, values["reward"]))
    curves.loss, curves.reward = _smooth(loss), _smooth(curves.reward)
    return curves


def _smooth(series: Series) -> Series:
    """Means of up to `_SMOOTHED` neighbours."""
    return [
        (
            sum(x for x, _ in series[i : i + _SMOOTHED]) / len(series[i : i + _SMOOTHED]),
            sum(y for _, y in series[i : i + _SMOOTHED]) / len(series[i : i + _SMOOTHED]),
        )
        for i in range(0, len(series), _SMOOTHED)
    ]


def draw_curves(plan: TrainingPlan, root: Path, picture: Path) -> None:
    """Write a PNG: loss, reward and held-out Acc@0.5 of every run in `root` over CPU minutes."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, (above, below) = pyplot.subplots(2, 1, figsize=(8, 6.4), sharex=True, layout="constrained")
    for number, run in enumerate(plan.runs):
        log = root / run.name / "log.jsonl"
        if not log.exists():
            continue
        curves, colour = read_curves(log), f"C{number}"
        for series, style in ((curves.loss, "-"), (curves.reward, "--")):
            if series:
                above.plot(*zip(*series, strict=True), style, color=colour, label=run.name)
        for (name, series), marker in zip(sorted(curves.accuracy.items()), "oosv^D<>ph*XPd", strict=False):
            if name in _SHOWN:
                below.plot(
                    *zip(*series, strict=True),
                    _SHOWN[name],
                    color=colour,
                    marker=marker,
                    ms=3,
                    label=f"{run.name}: {name}",
                )
    above.set(ylabel="training loss (dashed: mean reward)", yscale="log")
    begun = "the adopted weights" if plan.adopt else "random weights"
    below.set(ylabel="held-out Acc@0.5", xlabel=f"CPU minutes since {begun}", ylim=(0, 1))
    for axes in (above, below):
        axes.grid(alpha=0.3)
        axes.legend(fontsize=7, ncols=2)
    figure.savefig(picture, dpi=90)
    pyplot.close(figure)


_SHOWN = {
    "modal": "-", "amodal, occluded": "--", "negative": ":",
    "3-6 all: all": "-", "1-3 attribute: all": "-.",
}  # fmt: skip
"""Held-out series that are drawn, and their line; the last two are what runs before the validation suites logged."""
