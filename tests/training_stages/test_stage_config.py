"""Configurations: every shipped one loads; everything wrong with one is reported at once, with its line."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from egm_edge.errors import InputError
from training.stage_config import CONFIGS, GrpoConfig, SftConfig, config_hash, load_grpo, load_sft
from training.typed_yaml import ConfigError

SHIPPED = sorted(p.stem for p in CONFIGS.glob("*-*.yaml"))


@pytest.mark.parametrize("name", SHIPPED)
def test_shipped_configurations_load(name: str) -> None:
    config = load_sft(name) if name.endswith("-sft") else load_grpo(name)
    family, _size, task, _ = name.replace("qwen3-vl", "qwen3_vl").split("-")
    assert config.task == task and config.run.output.endswith(name)
    assert ("vision" in config.model.train) == name.endswith("grpo")  # upstream freezes the tower in SFT only
    per_step = config.run.batch_per_device * config.run.accumulation * 8
    if isinstance(config, SftConfig):
        assert (per_step, config.optim.learning_rate, config.max_tokens) == (128, 1e-5, 8192)
    else:
        assert isinstance(config, GrpoConfig)
        assert per_step == 256 * config.sampling.generations and config.loss.ratio == "sequence"
        assert (config.loss.kl, config.sampling.temperature) == ((0.005, 0.7) if family == "qwen3_vl" else (0.0, 1.0))


def test_one_configuration_for_every_model_task_and_stage() -> None:
    sizes = {"qwen3-vl": ("2b", "4b", "8b"), "internvl3": ("1b", "2b", "8b")}
    wanted = {f"{f}-{s}-{t}-{g}" for f in sizes for s in sizes[f] for t in ("modal", "amodal") for g in ("sft", "grpo")}
    assert wanted == set(SHIPPED)


def test_all_problems_are_reported_together_with_their_lines(tmp_path: Path) -> None:
    path = tmp_path / "bad.yaml"
    path.write_text(
        "task: both\n"
        "model: {base: x, attention: fast}\n"
        "data:\n"
        "  train: rows.jsonl\n"
        "  imagess: here\n"
        "optim: {learning_rate: quick, warmup_ratio: 3}\n"
        "run:\n"
        "  output: out\n"
        "  batch_per_device: 0\n"
        "  gradient_checkpointing: 1\n"
        "colour: red\n"
    )
    with pytest.raises(ConfigError) as caught:
        load_sft(str(path))
    found = {(p.line, p.found.partition(":")[0]) for p in caught.value.problems}
    assert found == {
        (1, "task"),
        (2, "model.attention"),
        (4, "data.train"),
        (5, "data.imagess"),
        (3, "data.images"),
        (6, "optim.learning_rate"),
        (6, "optim.warmup_ratio"),
        (9, "run.batch_per_device"),
        (10, "run.gradient_checkpointing"),
        (11, "colour"),
    }
    assert "\n" not in str(caught.value) and "bad.yaml:9" in str(caught.value)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        pytest.param("task: [", "YAML", id="no YAML"),
        pytest.param("task: modal\ntask: amodal\n", "task again", id="a key twice"),
        pytest.param("- a\n- b\n", "keys and values", id="a list"),
        pytest.param("a: &x [1]\nb: *x\n", "aliases", id="an alias"),
        pytest.param("task: !!python/name:os.system\n", "a plain value", id="a Python name"),
        pytest.param("task: !!python/object/apply:os.system ['true']\n", "bad.yaml:1", id="a Python object"),
        pytest.param("task: modal\nmax_tokens: 2026-13-45\n", "bad.yaml:2: expected a plain value", id="no date"),
    ],
)
def test_files_that_are_no_configuration(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "bad.yaml"
    path.write_text(text)
    with pytest.raises(InputError, match=message):
        load_sft(str(path))


def test_unknown_reward_is_found_when_the_configuration_is_read(tmp_path: Path) -> None:
    text = (CONFIGS / "qwen3-vl-2b-modal-grpo.yaml").read_text().replace("grounding: 1.0", "speed: 1.0")
    (tmp_path / "bad.yaml").write_text(text)
    with pytest.raises(ConfigError, match="a reward"):
        load_grpo(str(tmp_path / "bad.yaml"))


def test_faults_of_sections_are_told_together_with_their_lines() -> None:
    overrides = {"model.train": "[]", "model.dtype": "int8", "run.reports": "[mail]", "run.workers": "2.0"}
    with pytest.raises(ConfigError) as caught:
        load_grpo("qwen3-vl-2b-modal-grpo", overrides)
    found = {(p.line, p.expected, p.found) for p in caught.value.problems}
    assert found == {
        (9, "at least 1 values", "model.train: []"),
        (8, "'bfloat16', 'float16' or 'float32'", "model.dtype: 'int8'"),
        (52, "'tensorboard' or 'wandb'", "run.reports.0: 'mail'"),
        (40, "a valid integer", "run.workers: 2.0"),
    }


def test_what_yaml_may_mean_otherwise(tmp_path: Path) -> None:
    text = (
        (CONFIGS / "qwen3-vl-2b-modal-sft.yaml").read_text().replace("1.0e-5", "2e-6").replace("epochs: 1", "epochs: 2")
    )
    (tmp_path / "mine.yaml").write_text(text.replace("output: runs/qwen3-vl-2b-modal-sft", "output: 2026-11-28"))
    config = load_sft(str(tmp_path / "mine.yaml"))
    assert (config.optim.learning_rate, config.run.output) == (2e-6, "2026-11-28")
    assert isinstance(config.run.epochs, float) and config.run.epochs == 2.0


def test_overrides_win_and_change_the_hash() -> None:
    plain = load_sft("qwen3-vl-2b-modal-sft")
    changed = load_sft("qwen3-vl-2b-modal-sft", {"run.seed": "7", "optim.learning_rate": "1e-4"})
    assert (changed.run.seed, changed.optim.learning_rate) == (7, 1e-4)
    assert config_hash(plain) != config_hash(changed) and config_hash(plain) == config_hash(
        load_sft("qwen3-vl-2b-modal-sft")
    )
    with pytest.raises(ConfigError, match="unknown key"):
        load_sft("qwen3-vl-2b-modal-sft", {"run.sed": "7"})


def test_unknown_name_lists_what_ships() -> None:
    with pytest.raises(InputError, match="internvl3-1b-amodal-grpo"):
        load_sft("qwen9")


@pytest.mark.parametrize("stage", ["sft", "grpo"])
def test_a_bad_configuration_is_told_of_before_torch_is_loaded(stage: str, tmp_path: Path) -> None:
    (tmp_path / "bad.yaml").write_text("task: neither\n")
    code = (
        "import sys\n"
        "from egm_edge.cli import main\n"
        f"print(main(['train', {stage!r}, 'bad.yaml']), sorted({{'torch', 'transformers'}} & sys.modules.keys()))"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=True)
    assert done.stdout == "2 []\n" and "bad.yaml:1" in done.stderr
