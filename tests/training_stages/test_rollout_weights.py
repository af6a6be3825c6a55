"""How much a sequence that vLLM generated weighs in TRL's loss, with the real GRPOTrainer and a generator that reports
log-probabilities as vLLM does in TRL's hands (`logprobs_mode="processed_logprobs"`: after temperature, top-k and top-p)."""

from __future__ import annotations

import inspect
import re
from pathlib import Path
from typing import Any

import pytest
import torch
from trl.import_utils import is_vllm_available
from trl.trainer import grpo_trainer

from egm_edge.errors import BackendError
from egm_edge.pixels import preprocess
from tests.training_stages.runs import grpo_yaml, write_data
from training import grpo
from training.stage_config import CONFIGS, load_grpo
from training.stages.processor import _rgb

FILTERED = {"sampling.temperature": "0.7", "sampling.top_p": "0.9", "sampling.top_k": "50"}


class GeneratesLikeVllm:
    """Stands in for `trl.generation.vllm_generation.VLLMGeneration`, whose signatures it takes."""

    def __init__(self, model: Any, accelerator: Any, processing_class: Any, **options: Any) -> None:
        self.model, self.processor, self.options = model, processing_class, options

    def sync_weights(self) -> None:
        """The model is the trainer's own."""

    def generate(
        self, prompts: list[list[int]], images: list[Any] | None, num_generations: int, profiler: Any = None
    ) -> Any:
        chosen, seen = [], []
        for ids, image in zip(prompts, images or [], strict=True):
            pixels = preprocess(_rgb(image), self.processor.pixel_spec)
            inputs = {"input_ids": torch.tensor([ids]), "attention_mask": torch.ones(1, len(ids), dtype=torch.long)}
            inputs |= self.processor.vision_inputs([pixels]) | self.processor.token_types(inputs["input_ids"])
            learning = self.model.training
            self.model.eval()
            with torch.no_grad():
                out = self.model.generate(
                    **inputs, max_new_tokens=self.options["max_completion_length"], do_sample=True, output_scores=True,
                    return_dict_in_generate=True, eos_token_id=self.processor.end_token_ids,
                    pad_token_id=self.processor.tokenizer.pad_token_id,
                    **{key: self.options[key] for key in ("temperature", "top_p", "top_k")},
                )  # fmt: skip
            self.model.train(learning)
            tokens = out.sequences[0, len(ids) :].tolist()
            logprobs = [torch.log_softmax(s[0].float(), -1)[t].item() for s, t in zip(out.scores, tokens, strict=True)]
            chosen.append(tokens)
            seen.append([[value] for value in logprobs])
        return prompts, chosen, seen, None


def weights(
    tmp_path: Path, checkpoint: Path, monkeypatch: pytest.MonkeyPatch, overrides: dict[str, str]
) -> list[torch.Tensor | None]:
    """The weights that the loss of each batch used; None where it used none."""
    found: list[torch.Tensor | None] = []
    compute = grpo_trainer.GRPOTrainer._compute_loss

    def spied(self: Any, model: Any, inputs: dict[str, Any]) -> torch.Tensor:
        found.append(inputs.get("importance_sampling_ratio"))
        return compute(self, model, inputs)

    theirs = inspect.signature(grpo_trainer.VLLMGeneration.generate).parameters
    assert set(inspect.signature(GeneratesLikeVllm.generate).parameters) <= set(theirs)
    monkeypatch.setattr(grpo_trainer, "VLLMGeneration", GeneratesLikeVllm)
    monkeypatch.setattr(grpo_trainer.GRPOTrainer, "_compute_loss", spied)
    monkeypatch.setattr(grpo, "require_vllm", lambda: None)
    path = grpo_yaml(tmp_path / "c.yaml", checkpoint, write_data(tmp_path), tmp_path / "out", max_steps="1")
    grpo.run_grpo(load_grpo(str(path), {"rollouts.engine": "vllm", "sampling.max_tokens": "8", **overrides}))
    return found


def test_a_sequence_on_policy_weighs_one_at_the_recipes_sampling(
    tmp_path: Path, tiny_qwen3_vl: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert weights(tmp_path, tiny_qwen3_vl, monkeypatch, FILTERED) == [None]  # no weight: every sequence counts whole


def test_the_correction_that_is_left_out_would_have_weighed_it_down(
    tmp_path: Path, tiny_qwen3_vl: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(grpo, "corrects", lambda config: True)  # TRL's default
    (found,) = weights(tmp_path, tiny_qwen3_vl, monkeypatch, FILTERED)
    assert found is not None and float(found.max()) < 0.5


def test_unfiltered_sampling_is_corrected_and_weighs_one_on_policy(
    tmp_path: Path, tiny_qwen3_vl: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plain = {"sampling.temperature": "0.7", "sampling.top_p": "1.0", "sampling.top_k": "0"}
    (found,) = weights(tmp_path, tiny_qwen3_vl, monkeypatch, plain)
    assert found is not None
    torch.testing.assert_close(found, torch.ones_like(found), atol=1e-3, rtol=0)


@pytest.mark.parametrize("name", sorted(path.stem for path in CONFIGS.glob("*-grpo.yaml")))
def test_no_shipped_run_reweights_its_rollouts(name: str) -> None:
    assert not grpo.corrects(load_grpo(name))


def test_the_vllm_range_is_what_this_trl_drives(monkeypatch: pytest.MonkeyPatch) -> None:
    source = inspect.getsource(is_vllm_available)
    assert re.findall(r'Version\("([\d.]+)"\)', source)[:2] == list(grpo.VLLM_VERSIONS)
    for version in ("0.21.9", "0.33.0", "1.0"):
        monkeypatch.setattr(grpo.importlib.metadata, "version", lambda _, v=version: v)
        with pytest.raises(BackendError, match=f"found vllm {re.escape(version)}; pip install"):
            grpo.require_vllm()
