"""What `egm train export-verl` writes: parquet that holds the rows, a reward file that runs, and every setting."""

from __future__ import annotations

import doctest
import importlib.util
import io
import json
import subprocess
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from egm_edge.data.pictures import load_picture
from egm_edge.data.readers import load_rows
from egm_edge.errors import InputError
from tests.training_stages.runs import grpo_yaml, write_data
from training.stage_config import load_grpo
from training.verl import export as export_verl
from training.verl import reward as verl_rewards
from training.verl.settings import verl_settings

parquet = pytest.importorskip("pyarrow.parquet")

ALL = "[language_model, projector, vision]"


@pytest.fixture
def exported(tmp_path: Path, tiny_qwen3_vl: Path) -> Path:
    data, val = write_data(tmp_path), write_data(tmp_path, 3, split="val", first=100)
    config = grpo_yaml(tmp_path / "c.yaml", tiny_qwen3_vl, data, tmp_path / "runs", validation=f"[{val}]", train=ALL)
    assert export_verl.main([str(config), "--out", str(tmp_path / "verl"), "--gpus", "2"]) == 0
    return tmp_path / "verl"


def test_parquet_holds_prompts_pixels_and_targets(exported: Path, tmp_path: Path) -> None:
    rows = load_rows([tmp_path / "train.jsonl"])
    table = parquet.read_table(exported / "train.parquet").to_pylist()
    assert len(table) == len(rows) == 8 and len(parquet.read_table(exported / "val.parquet")) == 3
    for row, found in zip(rows, table, strict=True):
        text = found["prompt"][0]["content"]
        assert text == f"<image>Locate {row.expression}, output its bbox coordinates using JSON format"
        assert text.count("<image>") == len(found["images"]) == 1
        picture = np.asarray(Image.open(io.BytesIO(found["images"][0]["bytes"])))
        np.testing.assert_array_equal(picture, load_picture(row, tmp_path / "images"))
        truth = json.loads(found["reward_model"]["ground_truth"])
        assert truth["task"] == "modal" and (truth["box_norm1000"] is None) == (row.box is None)
        assert found["extra_info"]["id"] == row.id and found["data_source"] == "grounding"


def test_the_written_reward_file_scores_as_verl_calls_it(exported: Path) -> None:
    spec = importlib.util.spec_from_file_location("exported_reward", exported / "reward.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    truth = json.dumps({"box_norm1000": [0, 0, 100, 100], "task": "modal"})
    text = 'It is red.\n</think>\n[{"bbox_2d": [0, 0, 100, 100]}]'
    found = module.compute_score(
        data_source="grounding", solution_str=text, ground_truth=truth, extra_info={"index": 0}, num_turns=1
    )
    assert found["score"] == pytest.approx(1.0 + 0.1) and found["acc"] == 1.0
    assert {"grounding", "format", "latency", "not_there"} <= found.keys()


def test_launch_script_is_valid_shell_and_holds_the_recipe(exported: Path) -> None:
    subprocess.run(["bash", "-n", str(exported / "run.sh")], check=True)
    text = (exported / "run.sh").read_text()
    for setting in ("policy_loss.loss_mode=gspo", "kl_loss_coef=0.005", "use_kl_loss=true", "n_gpus_per_node=2"):
        assert setting in text
    assert (exported / "contracts.json").is_file()


def test_shipped_batch_is_upstreams_256_prompts_of_16(tmp_path: Path) -> None:
    config = load_grpo("internvl3-8b-modal-grpo")
    settings = verl_settings(config, tmp_path, nodes=1, gpus=8, validate=True)
    assert settings["data.train_batch_size"] == settings["actor_rollout_ref.actor.ppo_mini_batch_size"] == 256
    assert settings["actor_rollout_ref.rollout.n"] == 16 and settings["actor_rollout_ref.rollout.top_k"] == -1
    assert settings["actor_rollout_ref.actor.use_kl_loss"] is False
    assert settings["actor_rollout_ref.actor.entropy_coeff"] == 0.01


def test_verl_reward_example_and_bad_target() -> None:
    assert doctest.testmod(verl_rewards).failed == 0
    with pytest.raises(InputError, match="box_norm1000 and task"):
        verl_rewards.score("x", "{}", {"grounding": 1.0})
