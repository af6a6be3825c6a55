"""The quantize stage: requests through the checkpoint's own pixels and prompts, ModelOpt in its own environment, a checkpoint
with everything that its runtime reads beside the weights. Its description is checked, not believed.

Knows nothing of what the checkpoint becomes afterwards.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from tokenizers import Tokenizer

from build_engine.checkpoint import Checkpoint
from build_engine.edge_llm.environment import EdgeLlmEnvironment, run_tool
from build_engine.memory_plan import MemoryPlan
from build_engine.modelopt.numeric_check import QuantizationCheck, check_quantization
from build_engine.modelopt.recipe import Numbers, Recipe
from build_engine.modelopt.request_tensors import PreparedRequest, calibration_cases, prepare, save_requests
from build_engine.modelopt.verify_saved import require_quantized
from build_engine.parity.cases import Case, probes, scenes
from build_engine.served_settings import write_pixel_budget
from egm_edge.bundle import sha256_of
from egm_edge.errors import BuildError
from egm_edge.families import PromptSpec
from egm_edge.hashing import canonical_hash
from egm_edge.machine import memory_gb
from egm_edge.pixels import PixelSpec
from egm_edge.reporting.progress import ProgressBar

WORKER = Path(__file__).with_name("worker.py")
COMPANIONS = (
    "tokenizer.json", "tokenizer_config.json", "chat_template.jinja", "preprocessor_config.json", "processor_config.json",
    "special_tokens_map.json", "generation_config.json", "vocab.json", "merges.txt",
)  # fmt: skip
FLOAT32_PARAMETERS = 1_500_000_000  # up to here calibration computes in float32; beyond, in bfloat16 to halve its memory
SAVED, RECORDED = "checkpoint", "recorded.safetensors"


@dataclass(frozen=True)
class Quantization:
    """One checkpoint, one recipe, and the requests that it is calibrated and checked on.

    Attributes:
        recipe: None only records what the checkpoint computes, and copies its weights.
        numbers: what the runtime computes with.
        rows: the user's grounding rows; None renders scenes.
        vision: quantize the vision tower too, in FP8.
    """

    checkpoint: Checkpoint
    pixel_spec: PixelSpec
    prompt_spec: PromptSpec
    recipe: Recipe | None
    numbers: Numbers
    rows: Path | None
    vision: bool = False

    @cached_property
    def calibration(self) -> list[Case]:
        return calibration_cases(self.rows) if self.recipe else []

    def checks(self) -> list[PreparedRequest]:
        """One drawn scene with its answer and a small picture without: two grids, two lengths."""
        return self._prepared([*scenes(1), *probes()[2:3]])

    def key_inputs(self) -> dict[str, Any]:
        """Everything that decides what the stage writes."""
        directory = self.checkpoint.directory
        sources = [p for p in sorted(directory.iterdir()) if p.suffix in (".safetensors", ".json", ".jinja", ".txt")]
        cases = [{"text": c.expression, "task": c.task.value, "picture": c.picture.hex()} for c in self.calibration]
        return {
            "checkpoint": {path.name: sha256_of(path) for path in sources},
            "recipe": self.recipe.name if self.recipe else None,
            "numbers": asdict(self.numbers),
            "vision": self.vision,
            "pixel_spec": self.pixel_spec.hash,
            "prompt_spec": self.prompt_spec.hash,
            "calibration": [canonical_hash(case) for case in cases],
            "worker": sha256_of(WORKER),
        }

    def manifest_section(self) -> dict[str, Any]:
        """Method, calibration data, and what stays in high precision."""
        section: dict[str, Any] = {"method": self.recipe.name if self.recipe else None}
        section["vision"] = self.vision_type
        if not self.recipe:
            return section
        data = self.rows.name if self.rows else "drawn scenes"
        section |= {"tool": "nvidia-modelopt", "algorithm": self.recipe.quant_algo(self.vision)}
        return section | {"calibration": {"requests": len(self.calibration), "data": data}}

    @property
    def vision_type(self) -> str:
        """What the vision tower's weights are stored in."""
        return "fp8" if self.vision else {"float16": "fp16", "bfloat16": "bf16"}[self.numbers.weights]

    def checked(self, folder: Path, precision: str, versions: Mapping[str, str]) -> QuantizationCheck:
        """What `run` recorded in `folder`, compared; for a recipe only."""
        against = f"transformers {versions['transformers']}, torch {versions['torch']}"
        answers = [one.answer_tokens for one in self.checks()]
        return check_quantization(folder / RECORDED, precision, self.vision_type, against, answers)

    def calibration_licence(self) -> str:
        return "the user's own" if self.rows else "drawn by egm-edge, Apache-2.0"

    def run(
        self, environment: EdgeLlmEnvironment, folder: Path, log: Path, bar: ProgressBar, units: int, companions: tuple[str, ...]
    ) -> None:
        """Write `checkpoint/` and `recorded.safetensors` (what the worker recorded) into `folder`.

        Args:
            companions: patterns of the checkpoint's files that go beside the weights, where ModelOpt wrote none.
        """
        bar.stage("calibration requests")
        requests = folder / "requests"
        calibration = save_requests(requests, "calibration", self._prepared(self.calibration), self.pixel_spec)
        checks = save_requests(requests, "check", self.checks(), self.pixel_spec)
        small = self.checkpoint.parameter_count() <= FLOAT32_PARAMETERS
        order = asdict(self.numbers) | {
            "checkpoint": str(self.checkpoint.directory.resolve()),
            "out": str(folder / SAVED),
            "method": self.recipe.name if self.recipe else None,
            "quantize_vision": self.vision,
            "calibration": [str(path) for path in calibration],
            "checks": [str(path) for path in checks],
            "recorded": str(folder / RECORDED),
            "dtype": "float32" if small else "bfloat16",
            "device": "auto",
        }
        (folder / "plan.json").write_text(json.dumps(order), encoding="utf-8")
        advance = _spread(bar, units, len(calibration) + 2 * len(checks))
        run_tool(
            [environment.python, "-P", WORKER, folder / "plan.json"],
            what="quantization" if self.recipe else "the reference run",
            log=log,
            on_line=lambda line: _show(line, bar, advance),
        )
        if self.recipe:
            require_quantized(folder / SAVED, self.recipe, vision=self.vision, int4_tile=self.numbers.int4_tile)
        else:
            self._copy_weights(folder / SAVED)
        for pattern in companions:
            for path in sorted(self.checkpoint.directory.glob(pattern)):
                if not (folder / SAVED / path.name).is_file():
                    shutil.copyfile(path, folder / SAVED / path.name)
        write_pixel_budget(folder / SAVED, self.pixel_spec)
        shutil.rmtree(requests)

    def _copy_weights(self, out: Path) -> None:
        out.mkdir()
        for path in sorted(self.checkpoint.directory.glob("*.safetensors*")):
            shutil.copyfile(path, out / path.name)
        shutil.copyfile(self.checkpoint.directory / "config.json", out / "config.json")

    def _prepared(self, cases: list[Case]) -> list[PreparedRequest]:
        tokenizer = Tokenizer.from_file(str(self.checkpoint.directory / "tokenizer.json"))
        return [prepare(case, self.pixel_spec, self.prompt_spec, tokenizer) for case in cases]


def require_host_memory(memory: MemoryPlan) -> None:
    """Raises BuildError when this host has less memory available than quantization and export take."""
    available = memory_gb()[1]
    if available and available < memory.host_export:
        raise BuildError(
            f"{memory.host_export:.1f} GB of memory to quantize or export this checkpoint",
            f"{available:.1f} GB available on this host",
            "close other programs, add swap, or build on a larger host",
        )


def _spread(bar: ProgressBar, units: int, steps: int) -> Callable[[], None]:
    """Advances the bar by `units` over `steps` calls, whole units only; further calls change nothing."""
    shares = iter(np.diff(np.linspace(0, units, max(steps, 1) + 1).astype(int)).tolist())

    def step() -> None:
        bar.advance(int(next(shares, 0)))

    return step


def _show(line: str, bar: ProgressBar, step: Callable[[], None]) -> None:
    if line.startswith("egm-progress "):
        *words, done, total = line.removeprefix("egm-progress ").split()
        bar.stage(f"{' '.join(words)} {done}/{total}" if int(total) > 1 else " ".join(words))
        step()
