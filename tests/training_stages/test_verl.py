"""verl's own code judges the export: its configuration composed with our overrides, its data set over our parquet, its way
of calling the reward. Ray, which only starts processes, is mocked; nothing else of verl is."""

from __future__ import annotations

import asyncio
import importlib.machinery
import importlib.util
import re
import shlex
import sys
from pathlib import Path
from typing import Any
from unittest.mock import MagicMock

import numpy as np
import pytest

from egm_edge.data.pictures import load_picture
from egm_edge.data.readers import load_rows
from egm_edge.errors import InputError
from tests.support.hf_reference import hf_processor
from tests.training_stages.runs import grpo_yaml, write_data
from training.stage_config import CONFIGS, GrpoConfig, load_grpo
from training.verl import export
from training.verl.settings import verl_settings

pytestmark = pytest.mark.skipif(
    importlib.util.find_spec("verl") is None, reason="verl is not installed; run .ci/venv.sh"
)
GRPO = sorted(path.stem for path in CONFIGS.glob("*-grpo.yaml"))
SHEET = Path("docs/verl.md")
RAY = ("ray", "ray.actor", "ray.exceptions", "ray.util", "ray.util.collective", "ray.util.placement_group",
       "ray.util.scheduling_strategies", "ray.experimental", "ray.experimental.state", "ray.experimental.state.api")  # fmt: skip


@pytest.fixture(scope="module", autouse=True)
def ray() -> Any:
    """Modules that answer to every name of Ray."""
    before = {name: sys.modules.get(name) for name in RAY}
    for name in RAY:
        module = MagicMock(__spec__=importlib.machinery.ModuleSpec(name, None), __path__=[], __version__="2.55.0")
        sys.modules[name] = module
    yield
    for name, module in before.items():
        sys.modules.pop(name)
        if module is not None:
            sys.modules[name] = module


def overrides_of(script: Path) -> list[str]:
    """The arguments that run.sh hands to verl."""
    command = script.read_text().partition("python3 -m verl.trainer.main_ppo")[2].replace("\\\n", " ")
    return [word for word in shlex.split(command) if word != "$@"]


def composed(overrides: list[str]) -> Any:
    """verl's configuration with these overrides; unknown keys raise, as on its command line."""
    from hydra import compose, initialize_config_module

    with initialize_config_module("verl.trainer.config", version_base=None):
        return compose("ppo_trainer", overrides=overrides)


def validated(overrides: list[str]) -> Any:
    """The same, after verl's own validation, called as `verl.trainer.main_ppo.main` calls it."""
    from verl.trainer.ppo.utils import need_critic, need_reference_policy
    from verl.utils.config import validate_config

    config = composed(overrides)
    validate_config(config=config, use_reference_policy=need_reference_policy(config), use_critic=need_critic(config))
    return config


@pytest.mark.slow
@pytest.mark.parametrize("name", GRPO)
@pytest.mark.parametrize("nodes", [1, 4])
def test_verl_accepts_every_shipped_configuration(name: str, nodes: int, tmp_path: Path) -> None:
    config = load_grpo(name)
    script = tmp_path / "run.sh"
    script.write_text(export.launch_script(config, tmp_path, nodes=nodes, gpus=8, validate=True))
    found = validated(overrides_of(script))
    assert found.data.train_batch_size == 256 * nodes and found.actor_rollout_ref.rollout.n == 16
    actor = found.actor_rollout_ref.actor
    assert actor.use_dynamic_bsz and actor.ppo_max_token_len_per_gpu == (25600 if "qwen" in name else 32768)
    assert found.trainer.val_before_train and found.trainer.test_freq == found.trainer.save_freq == 10


@pytest.mark.slow
def test_the_old_export_is_what_verl_refuses(tmp_path: Path) -> None:
    """The check has teeth: without token budgets verl wants micro-batches, and a key it does not know is an error."""
    settings = verl_settings(load_grpo("qwen3-vl-4b-modal-grpo"), tmp_path, nodes=1, gpus=8, validate=True)
    plain = [f"{key}={export.hydra_value(value)}" for key, value in settings.items()]
    fixed = [text for text in plain if "use_dynamic_bsz" not in text]
    with pytest.raises(Exception, match="micro_batch_size"):
        validated(fixed)
    with pytest.raises(Exception, match="no_such_key"):
        composed([*plain, "actor_rollout_ref.actor.no_such_key=1"])


@pytest.mark.slow
def test_every_exported_key_is_read_by_the_file_that_the_sheet_names(tmp_path: Path) -> None:
    rows = re.findall(r"^\| `([^`]+)` \| [^|]* \| `([^`]+)` \|", SHEET.read_text(), re.MULTILINE)
    sheet = dict(rows)
    assert len(sheet) == len(rows) >= 48
    exported: set[str] = set()
    for name in GRPO:
        exported |= verl_settings(load_grpo(name), tmp_path, nodes=1, gpus=8, validate=True).keys()
    assert sheet.keys() == exported
    spec = importlib.util.find_spec("verl")
    assert spec is not None and spec.submodule_search_locations
    root = Path(spec.submodule_search_locations[0]).parent
    for key, file in sheet.items():
        name = key.rpartition(".")[2]
        text = (root / file).read_text()
        read = rf"[.\"']{name}\b" if file.endswith(".py") else rf"oc\.select:{re.escape(key)}\b"
        assert re.search(read, text), f"{file} does not read {key}"


@pytest.fixture(params=["tiny_qwen3_vl", "tiny_internvl3"])
def exported(request: pytest.FixtureRequest, tmp_path: Path) -> tuple[Path, Path]:
    """An export of a few rows, and its checkpoint."""
    checkpoint: Path = request.getfixturevalue(request.param)
    data, val = write_data(tmp_path), write_data(tmp_path, 3, split="val", first=100)
    config = grpo_yaml(
        tmp_path / "c.yaml", checkpoint, data, tmp_path / "runs", validation=f"[{val}]",
        train="[language_model, projector, vision]",
    )  # fmt: skip
    assert export.main([str(config), "--out", str(tmp_path / "verl"), "--gpus", "2"]) == 0
    return tmp_path / "verl", checkpoint


@pytest.mark.slow
def test_its_data_set_shows_the_processor_the_robots_pixels(exported: tuple[Path, Path], tmp_path: Path) -> None:
    from verl.utils.dataset.rl_dataset import collate_fn, get_dataset_class
    from verl.utils.tokenizer import build_multimodal_processor_inputs

    from training.stages.processor import EgmProcessor

    out, checkpoint = exported
    config = composed(
        [*overrides_of(out / "run.sh"), "data.filter_overlong_prompts_workers=null", f"+data.cache_dir={tmp_path}"]
    )
    processor, ours = hf_processor(checkpoint), EgmProcessor(checkpoint)
    chosen = get_dataset_class(config.data)
    assert chosen.__name__ == "EgmDataset"
    data = chosen(config.data.train_files, processor.tokenizer, config.data, processor)
    rows = load_rows([tmp_path / "train.jsonl"])
    assert len(data) == len(rows)
    for index, row in enumerate(rows[:3]):
        messages = data[index]["raw_prompt"]
        images, videos, _ = asyncio.run(
            chosen.process_multi_modal_info(messages, image_patch_size=14, config=config.data)
        )
        text = processor.apply_chat_template(messages, add_generation_prompt=True, tokenize=False)
        seen = build_multimodal_processor_inputs(processor, text=[text], images=images, videos=videos)
        prompt = ours.prompt(
            load_picture(row, tmp_path / "images"), ours.prompt_spec.task_text(row.expression, row.task)
        )
        assert seen["input_ids"][0].tolist() == prompt.ids
        pixels = ours.vision_inputs([prompt.pixels])["pixel_values"]
        np.testing.assert_allclose(seen["pixel_values"].numpy(), pixels.numpy(), atol=1e-5)
    assert len(collate_fn([data[0], data[1]])["raw_prompt"]) == 2


@pytest.mark.slow
def test_its_reward_manager_calls_our_reward(exported: tuple[Path, Path]) -> None:
    import torch
    from verl import DataProto
    from verl.trainer.ppo.reward import load_reward_manager

    out, checkpoint = exported
    config = composed(overrides_of(out / "run.sh"))
    tokenizer = hf_processor(checkpoint).tokenizer
    text = 'It is red.\n</think>\n[{"bbox_2d": [100, 200, 300, 400]}]'
    ids = tokenizer(text, add_special_tokens=False, return_tensors="pt")["input_ids"]
    truth = '{"box_norm1000": [100, 200, 300, 400], "task": "modal"}'
    item = DataProto.from_dict(
        tensors={"responses": ids, "attention_mask": torch.ones_like(ids)},
        non_tensors={
            "data_source": np.array(["grounding"], dtype=object),
            "reward_model": np.array([{"ground_truth": truth}], dtype=object),
            "extra_info": np.array([{"index": 0}], dtype=object),
        },
    )

    async def scored() -> dict[str, Any]:
        return await load_reward_manager(config, tokenizer).run_single(item)

    found = asyncio.run(scored())
    assert found["reward_score"] >= 1.0 and found["reward_extra_info"]["acc"] == 1.0


def test_what_verl_has_no_code_for_is_refused(tmp_path: Path) -> None:
    def config(**overrides: str) -> GrpoConfig:
        return load_grpo("qwen3-vl-4b-modal-grpo", {k.replace("__", "."): v for k, v in overrides.items()})

    for changed in (config(model__train="[language_model]"), config(lora__rank="8"), config(optim__schedule="linear")):
        with pytest.raises(InputError):
            verl_settings(changed, tmp_path, nodes=1, gpus=8, validate=True)
