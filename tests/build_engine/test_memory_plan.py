"""The memory plan: exact where shapes decide, near NVIDIA's published totals, and a refusal that names what fits."""

from __future__ import annotations

import json
from itertools import product
from pathlib import Path

import pytest

from build_engine.checkpoint import Checkpoint
from build_engine.edge_llm.profile import fitted_spec
from build_engine.memory_plan import EngineLimits, ModelSize, max_image_tokens, plan, require_fit
from build_engine.memory_table import BEGIN, END, NVIDIA_ROWS, PUBLISHED, main, published_spec, short_prompt_plan
from build_engine.targets import TARGETS, Runtime, Target, target_for
from egm_edge.errors import BuildError


@pytest.mark.parametrize("family", ["tiny_qwen3_vl", "tiny_internvl3"])
def test_parameters_are_counted_exactly(family: str, request: pytest.FixtureRequest) -> None:
    with Checkpoint(request.getfixturevalue(family)) as checkpoint:
        assert ModelSize.of(checkpoint.config).parameters == checkpoint.parameter_count()


@pytest.mark.parametrize(
    ("model", "kib"),
    [
        ("Qwen3-VL-2B", 112),
        ("EGM-4B", 144),
        ("EGM-8B", 144),
        ("InternVL3-1B", 12),
        ("InternVL3-2B", 28),
        ("InternVL3-8B", 56),
    ],
)
def test_cache_bytes_of_one_token(model: str, kib: int) -> None:
    assert ModelSize.of(PUBLISHED[model]).kv_values * 2 == kib * 1024


@pytest.mark.parametrize("row", [r for r in NVIDIA_ROWS if r.memory_mb], ids=lambda r: f"{r.model} on {r.target}")
def test_plans_are_within_five_percent_of_the_published_totals(row) -> None:
    assert short_prompt_plan(row).device == pytest.approx(row.memory_mb / 1e3, rel=0.05)


def test_more_of_anything_needs_more() -> None:
    size, spec = ModelSize.of(PUBLISHED["EGM-4B"]), published_spec("EGM-4B").with_max_pixels(1 << 20)
    least = plan(size, EngineLimits.of(spec, 256, 1), "int4", Runtime.EDGE_LLM)
    for larger, precision in (
        (EngineLimits.of(spec, 2048, 1), "int4"),
        (EngineLimits.of(spec, 256, 2), "int4"),
        (EngineLimits.of(spec.with_max_pixels(1 << 21), 256, 1), "int4"),
        (EngineLimits.of(spec, 256, 1), "fp16"),
    ):
        assert plan(size, larger, precision, Runtime.EDGE_LLM).device > least.device


def test_a_quantized_vision_tower_halves_its_weights() -> None:
    size, spec = ModelSize.of(PUBLISHED["EGM-4B"]), published_spec("EGM-4B").with_max_pixels(1 << 20)
    limits = EngineLimits.of(spec, 256, 1)
    kept, quantized = (plan(size, limits, "nvfp4", Runtime.EDGE_LLM, vision) for vision in (None, "fp8"))
    assert kept.weights - quantized.weights == pytest.approx(size.vision / 1e9)


def test_image_tokens_of_both_rules() -> None:
    assert max_image_tokens(published_spec("EGM-4B").with_max_pixels(1 << 20)) == 1024
    assert max_image_tokens(published_spec("InternVL3-2B")) == 13 * 256


@pytest.mark.parametrize(
    ("model", "target", "precision", "batch", "hint"),
    [
        pytest.param("InternVL3-8B", "drive-thor", "fp16", 32, "--batch 8", id="fewer requests on a larger device"),
        pytest.param("EGM-8B", "jetson-orin-nx", "fp16", 1, "--precision int4", id="fewer bits"),
        pytest.param("EGM-4B", "jetson-orin-nx", "int4", 64, "--batch 4", id="fewer requests"),
        pytest.param("EGM-8B", "jetson-orin-nano", "int4", 1, "smaller model or a larger device", id="nothing fits"),
    ],
)
def test_what_does_not_fit_is_refused_with_what_does(
    model: str, target: str, precision: str, batch: int, hint: str
) -> None:
    with pytest.raises(BuildError, match=hint) as refused:
        require_fit(
            PUBLISHED[model], published_spec(model).with_max_pixels(1 << 22), target_for(target), precision,
            max_new_tokens=1024, batch=batch,
        )  # fmt: skip
    assert "kv cache" in str(refused.value)


@pytest.mark.parametrize(
    "target", [row for row in TARGETS.values() if row.usable_gb is not None], ids=lambda row: row.name
)
def test_the_named_setting_does_fit(target: Target) -> None:
    """Every refusal's advice, followed to the letter: it is what this device takes, and the next build is not refused."""
    refused = 0
    for model, precision, batch, tokens in product(PUBLISHED, target.precisions, (1, 16, 64), (1024, 8192)):
        config, own = PUBLISHED[model], published_spec(model)
        spec = fitted_spec(own, None, target)
        try:
            require_fit(config, spec, target, precision, max_new_tokens=tokens, batch=batch)
        except BuildError as error:
            refused += 1
            if not error.hint.startswith("pass "):
                continue
            flags = error.hint.removeprefix("pass ").split()
            named = dict(zip(flags[::2], flags[1::2], strict=True))
            pixels = int(named["--max-pixels"]) if "--max-pixels" in named else None
            changed = fitted_spec(own, pixels, target)
            asked = {
                "max_new_tokens": int(named.get("--max-new-tokens", tokens)),
                "batch": int(named.get("--batch", batch)),
            }
            require_fit(config, changed, target, target.precision(named.get("--precision", precision)), **asked)
    assert refused or target.usable_gb > 100


def test_targets_without_a_fixed_memory_are_never_refused() -> None:
    require_fit(PUBLISHED["EGM-8B"], published_spec("EGM-8B"), target_for("cpu"), "fp32", max_new_tokens=4096, batch=1)


def test_the_page_is_what_the_command_writes(tmp_path: Path) -> None:
    page = Path(__file__).parents[2] / "docs" / "targets.md"
    copy = tmp_path / "targets.md"
    copy.write_text(page.read_text("utf-8"), encoding="utf-8")
    main(copy)
    assert copy.read_text("utf-8") == page.read_text("utf-8"), (
        "run: python -m build_engine.memory_table docs/targets.md"
    )
    assert BEGIN in page.read_text("utf-8") and END in page.read_text("utf-8")


def test_a_plan_is_json() -> None:
    values = short_prompt_plan(NVIDIA_ROWS[0]).to_dict()
    assert json.loads(json.dumps(values))["device"] == pytest.approx(sum(list(values.values())[:5]), abs=0.01)
