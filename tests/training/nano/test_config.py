"""The configuration reports everything that is wrong with it at once, and refuses arms that cannot be compared."""

from __future__ import annotations

from pathlib import Path

import pytest

from egm_edge.errors import InputError
from training.nano.config import load_plan, smoke

SHIPPED = Path(__file__).parents[3] / "training" / "configs" / "nano.yaml"
STAGE = "{name: s, cpu_minutes: 1}"


def written(folder: Path, text: str) -> Path:
    path = folder / "bad.yaml"
    path.write_text(text)
    return path


def test_the_shipped_configuration_loads() -> None:
    plan = load_plan(SHIPPED)
    assert plan.arms == ("direct", "sft", "grpo")
    assert [run.name for run in plan.lineage("grpo")] == ["base", "reasoning", "grpo"]
    assert sum(plan.frames.values()) == pytest.approx(1.0)
    assert plan.count >= 2000


def test_the_gpu_configuration_is_the_same_recipe() -> None:
    here, gpu = load_plan(SHIPPED), load_plan(SHIPPED.with_name("nano_gpu.yaml"))
    assert gpu.shape == here.shape and gpu.arms == here.arms and gpu.workers > 0
    assert [(run.name, run.start, [s.name for s in run.stages]) for run in gpu.runs] == [
        (run.name, run.start, [s.name for s in run.stages]) for run in here.runs
    ]


def test_the_arms_have_equal_budgets_in_earnest_and_in_the_smoke_run() -> None:
    for plan in (load_plan(SHIPPED), smoke(load_plan(SHIPPED))):
        spent = {round(sum(run.cpu_minutes for run in plan.lineage(name)), 6) for name in plan.arms}
        assert len(spent) == 1


def test_an_average_took_what_every_run_in_it_took(tmp_path: Path) -> None:
    runs = (
        f"runs: [{{name: base, stages: [{STAGE}]}}, {{name: a, start: base, stages: [{STAGE}]}}, "
        f"{{name: b, start: base, stages: [{STAGE}]}}, {{name: m, start: b, average: [a, b]}}, "
        f"{{name: after, start: m, stages: [{STAGE}]}}]\n"
    )
    plan = load_plan(written(tmp_path, f"arms: [after]\n{runs}"))
    assert [run.name for run in plan.lineage("after")] == ["base", "a", "b", "m", "after"]
    with pytest.raises(InputError, match="arms of unequal CPU minutes"):
        load_plan(written(tmp_path, f"arms: [m, a]\n{runs}"))


def test_the_smoke_run_needs_no_sprites() -> None:
    stages = [s for run in smoke(load_plan(SHIPPED.with_name("nano_household.yaml"))).runs for s in run.stages]
    assert stages and not any(stage.household or stage.solid for stage in stages)


def test_every_problem_is_named_with_its_line(tmp_path: Path) -> None:
    path = written(
        tmp_path,
        "seed: 12\nsped: 2\nshape: {wdth: 3}\narms: [a]\nruns:\n  - name: a\n"
        "    stages: [{name: s, cpu_minutes: x, imagse: 4}, {}]\n",
    )
    with pytest.raises(InputError) as caught:
        load_plan(path)
    for words in ("bad.yaml:1", "sped", "shape.wdth", "stages.0.imagse", "stages.0.cpu_minutes", "stages.1.name"):
        assert words in str(caught.value)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        pytest.param(f"arms: [a]\nruns: [{{name: a, stages: [{STAGE}], average: [b, c]}}]\n", "both in run 'a'", id="both"),
        pytest.param(
            f"arms: [a]\nruns: [{{name: a, stages: [{STAGE}]}}, {{name: m, start: a, average: [x, a]}}]\n",
            "m averages 'x', which is no run before it",
            id="unknown average",
        ),
        pytest.param(
            f"arms: [m]\nruns: [{{name: a, stages: [{STAGE}]}}, {{name: b, start: a, stages: [{STAGE}]}}, "
            "{name: m, start: b, average: [a, b], shares: [1.0]}]\n",
            "1 of 2 in run 'm'",
            id="a share missing",
        ),
        pytest.param(
            f"arms: [m]\nruns: [{{name: a, stages: [{STAGE}]}}, {{name: b, start: a, stages: [{STAGE}]}}, "
            "{name: m, start: b, average: [a, b], shares: [1.0, 0.5]}]\n",
            "nothing is adopted",
            id="shares of nothing",
        ),
        pytest.param(f"arms: [b]\nruns: [{{name: a, stages: [{STAGE}]}}]\n", "arm 'b' is no run", id="unknown arm"),
        pytest.param(
            f"arms: [a]\nruns: [{{name: a, start: b, stages: [{STAGE}]}}]\n", "no run before it", id="unknown start"
        ),
        pytest.param(
            f"arms: [a, b]\nruns: [{{name: a, stages: [{STAGE}]}}, {{name: b, stages: [{STAGE}, {STAGE}]}}]\n",
            "unequal CPU minutes",
            id="unequal arms",
        ),
        pytest.param("arms: [a]\nruns: [{name: a, stages: []}]\n", "at least one stage", id="no stages"),
        pytest.param(
            f"arms: [../a]\nruns: [{{name: ../a, stages: [{STAGE}]}}]\n", "a run name", id="a name that is a path"
        ),
        pytest.param(
            "arms: [a]\nruns: [{name: a, stages: [{name: s, cpu_minutes: 1, kinds: {attributes: 1}}]}]\n",
            "attribute, superlative",
            id="unknown kind of question",
        ),
        pytest.param(
            "arms: [a]\nruns: [{name: a, stages: [{name: s, cpu_minutes: 1, queries: 2, vision_lr: 0, "
            "grpo: {rewards: {iou: 1}}}]}]\n",
            "grounding, format",
            id="unknown reward",
        ),
        pytest.param(
            "arms: [a]\nruns: [{name: a, stages: [{name: s, cpu_minutes: 1, queries: 2, grpo: {}}]}]\n",
            "a frozen tower",
            id="grpo that would train the tower",
        ),
        pytest.param(
            "arms: [a]\nruns: [{name: a, stages: [{name: s, cpu_minutes: 1, objects: [1, 2, 3]}]}]\n",
            "bad.yaml:2: expected at most 2 values",
            id="a range of three",
        ),
        pytest.param("", "runs", id="empty"),
        pytest.param("[1, 2]", "keys and values", id="a list"),
        pytest.param("seed: [", "YAML", id="broken"),
        pytest.param("seed: 1\nruns: 3\n", "a list", id="runs is a number"),
    ],
)
def test_not_a_plan(tmp_path: Path, text: str, words: str) -> None:
    with pytest.raises(InputError, match=r"bad\.yaml") as caught:
        load_plan(written(tmp_path, text))
    assert words in str(caught.value)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"absent\.yaml"):
        load_plan(tmp_path / "absent.yaml")
