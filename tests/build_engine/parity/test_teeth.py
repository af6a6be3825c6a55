"""The gate has teeth: a bundle with one mistake fails, and the report names the stage that the mistake belongs to."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from egm_edge.backends.onnx_runtime.backend import OnnxBackend
from egm_edge.families.internvl3 import InternVL3
from egm_edge.families.qwen3_vl import Qwen3VL
from tests.build_engine.parity.conftest import Verify
from tests.build_engine.parity.tampering import (
    copy_of,
    edit_array,
    edit_manifest,
    edit_weight,
    without_deepstack_additions,
)

Tamper = Callable[[Path], None]
QWEN, INTERN = "qwen3_vl", "internvl3"


def _setting(section: str, name: str, change: Callable[[Any], Any]) -> Tamper:
    def edit(values: dict[str, Any]) -> None:
        values[section][name] = change(values[section][name])

    return partial(edit_manifest, change=edit)


def _vision_setting(name: str, change: Callable[[Any], Any]) -> Tamper:
    return _setting("model", "vision", lambda vision: vision | {name: change(vision[name])})


def _weight(graph: str, name: str, change: Callable[[np.ndarray], np.ndarray]) -> Tamper:
    return partial(edit_weight, graph=graph, name=name, change=change)


def _patch_kernel(change: Callable[[np.ndarray], np.ndarray], patch: int) -> Tamper:
    """Change the patch kernel [3, P, P, D], which the graph stores as a matrix [3*P*P, D]."""

    def edit(matrix: np.ndarray) -> np.ndarray:
        return change(matrix.reshape(3, patch, patch, -1)).reshape(matrix.shape)

    return _weight("vision", "vision.patch_embed", edit)


def _first_zeroed(values: list[float]) -> list[float]:
    return [values[0] - 0.02, *values[1:]]


MISTAKES = [
    pytest.param(QWEN, _setting("pixel_spec", "max_pixels", lambda v: v + 1), "pixels", id="largest area off by one"),
    pytest.param(QWEN, _setting("pixel_spec", "min_pixels", lambda v: v * 2), "pixels", id="smallest area doubled"),
    pytest.param(QWEN, _setting("pixel_spec", "mean", _first_zeroed), "pixels", id="one mean, manifest"),
    pytest.param(QWEN, _weight("vision", "pixel_offset", lambda v: v + 1e-3), "pixels", id="one offset, graph"),
    pytest.param(INTERN, _setting("pixel_spec", "max_tiles", lambda v: v - 1), "pixels", id="one tile fewer"),
    pytest.param(INTERN, _setting("pixel_spec", "std", _first_zeroed), "pixels", id="one deviation, manifest"),
    pytest.param(INTERN, _weight("vision", "pixel_scale", lambda v: v * 1.01), "pixels", id="scale, graph"),
    pytest.param(QWEN, _setting("prompt_spec", "modal", lambda t: t.replace("Locate", "Find")), "prompt", id="a modal word"),
    pytest.param(QWEN, _setting("prompt_spec", "amodal", lambda t: t.replace("amodally", "")), "prompt", id="an amodal word"),
    pytest.param(QWEN, _setting("prompt_spec", "suffix", lambda t: t.replace("<think>\n", "")), "prompt", id="no thought"),
    pytest.param(INTERN, _setting("prompt_spec", "modal", lambda t: t + "."), "prompt", id="a final period"),
    pytest.param(INTERN, _setting("prompt_spec", "prefix", lambda t: "<|im_start|>system\n" + t), "prompt", id="prefix"),
    pytest.param(QWEN, _patch_kernel(lambda k: k[::-1], 16), "vision embedding", id="channels swapped"),
    pytest.param(QWEN, _patch_kernel(lambda k: k.swapaxes(1, 2), 16), "vision embedding", id="patches transposed"),
    pytest.param(INTERN, _patch_kernel(lambda k: k[::-1], 14), "vision embedding", id="channels swapped, tiles"),
    pytest.param(QWEN, partial(edit_array, name="position_grid.npy", change=lambda g: g[::-1]), "vision embedding", id="grid"),
    pytest.param(QWEN, _vision_setting("rope_theta", lambda v: v * 2), "vision embedding", id="vision rotary base"),
    pytest.param(QWEN, _vision_setting("deepstack", lambda v: 0), "deep-stack", id="deep-stack left out, manifest"),
    pytest.param(
        QWEN,
        _weight("vision", "vision.deepstack_merger_list.1.linear_fc2", np.zeros_like),
        "deep-stack",
        id="a deep-stack feature of zeros",
    ),
    pytest.param(QWEN, without_deepstack_additions, "deep-stack", id="a decoder that adds no deep-stack"),
    pytest.param(QWEN, _setting("model", "rope_theta", lambda v: v / 2), "prefill logits", id="rotary base"),
    pytest.param(QWEN, _setting("model", "mrope_section", lambda v: [v[0] - 1, v[1] + 1, v[2]]), "prefill logits", id="section"),
    pytest.param(INTERN, _setting("model", "rope_theta", lambda v: v * 2), "prefill logits", id="rotary base, InternVL3"),
    pytest.param(QWEN, partial(edit_array, name="embedding.npy", change=lambda t: np.roll(t, 1, 0)), "prefill logits", id="rows"),
    pytest.param(QWEN, _setting("model", "stop_token_ids", lambda v: v[:1]), "text", id="one end token forgotten"),
]  # fmt: skip


@pytest.mark.parametrize("family", [QWEN, INTERN])
@pytest.mark.parametrize("precision", ["fp32", "int8"])
def test_a_faithful_bundle_passes(
    bundles: dict[tuple[str, str], Path], tmp_path: Path, verify: Verify, family: str, precision: str
) -> None:
    code, report = verify(copy_of(bundles[family, precision], tmp_path / "bundle"))
    assert (code, report["status"], report["first_divergence"]) == (0, "verified", "")
    assert all(stage["passed"] for stage in report["stages"])


@pytest.mark.parametrize(("family", "tamper", "stage"), MISTAKES)
def test_a_mistake_in_the_bundle_is_found_and_named(
    bundles: dict[tuple[str, str], Path], tmp_path: Path, verify: Verify, family: str, tamper: Tamper, stage: str
) -> None:
    bundle = copy_of(bundles[family, "fp32"], tmp_path / "bundle")
    tamper(bundle)
    code, report = verify(bundle)
    assert (code, report["status"], report["first_divergence"]) == (1, "failed", stage), report["stages"]


# Names of quantized weights differ; mistakes in settings, tables and pixels must not hide behind quantization.
@pytest.mark.parametrize(
    ("family", "tamper", "stage"), [p for p in MISTAKES if "patch" not in str(p.id) and "decoder" not in str(p.id)]
)
@pytest.mark.slow
def test_quantization_hides_no_mistake(
    bundles: dict[tuple[str, str], Path], tmp_path: Path, verify: Verify, family: str, tamper: Tamper, stage: str
) -> None:
    bundle = copy_of(bundles[family, "int8"], tmp_path / "bundle")
    try:
        tamper(bundle)
    except KeyError:
        pytest.skip("this weight has another name where it is quantized")
    code, report = verify(bundle)
    assert (code, report["first_divergence"]) == (1, stage), report["stages"]


def _shifted(positions: Callable[..., np.ndarray]) -> Callable[..., np.ndarray]:
    return lambda *args: positions(*args) + np.array([[0], [1], [0]])


def _reversed_rows(see: Callable[..., Any]) -> Callable[..., Any]:
    def mistaken(self: OnnxBackend, *args: Any) -> Any:
        embeddings, *deepstack = see(self, *args)
        return [embeddings[::-1].copy(), *deepstack]

    return mistaken


def _bilinear(image: np.ndarray, width: int, height: int) -> np.ndarray:
    import cv2

    return np.asarray(cv2.resize(image, (width, height), interpolation=cv2.INTER_LINEAR))


def _reversed_channels(cut: Callable[..., np.ndarray]) -> Callable[..., np.ndarray]:
    return lambda image, *rest: cut(image[..., ::-1].copy(), *rest)


@pytest.mark.parametrize(
    ("family", "where", "name", "wrong", "stage"),
    [
        pytest.param(QWEN, Qwen3VL, "positions", _shifted, "prefill logits", id="M-RoPE shifted"),
        pytest.param(INTERN, InternVL3, "positions", _shifted, "prefill logits", id="positions shifted"),
        pytest.param(
            QWEN, OnnxBackend, "_encode_image", _reversed_rows, "vision embedding", id="image tokens in reverse"
        ),
        pytest.param(
            INTERN, OnnxBackend, "_encode_image", _reversed_rows, "vision embedding", id="tiles' tokens in reverse"
        ),
        pytest.param(QWEN, "egm_edge.pixels", "resize_bicubic", lambda _: _bilinear, "pixels", id="bilinear resize"),
        pytest.param(INTERN, "egm_edge.pixels", "resize_bicubic", lambda _: _bilinear, "pixels", id="bilinear tiles"),
        pytest.param(QWEN, "egm_edge.pixels", "_cut_patches", _reversed_channels, "pixels", id="BGR for RGB"),
        pytest.param(INTERN, "egm_edge.pixels", "_cut_tiles", _reversed_channels, "pixels", id="BGR for RGB, tiles"),
    ],
)
def test_a_mistake_in_the_runtime_is_found_and_named(
    bundles: dict[tuple[str, str], Path],
    tmp_path: Path,
    verify: Verify,
    monkeypatch: pytest.MonkeyPatch,
    family: str,
    where: Any,
    name: str,
    wrong: Callable[[Any], Any],
    stage: str,
) -> None:
    import importlib

    owner = importlib.import_module(where) if isinstance(where, str) else where
    monkeypatch.setattr(owner, name, wrong(getattr(owner, name)))
    for precision in ("fp32", "int8"):
        code, report = verify(copy_of(bundles[family, precision], tmp_path / precision))
        assert (code, report["first_divergence"]) == (1, stage), report["stages"]


def test_quantizing_too_hard_is_found(
    checkpoints: dict[str, Path], tmp_path: Path, verify: Verify, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An int4 build whose weights keep two bits."""
    from build_engine import quantize
    from build_engine.compilers.cpu import build_cpu

    rounded = quantize._round_to
    monkeypatch.setattr(
        quantize, "_round_to", lambda grouped, scales, zero: np.rint(rounded(grouped, scales, zero) / 4) * 4
    )
    bundle = build_cpu(checkpoints[QWEN], tmp_path / "bundle", precision="int4", gate=False)
    code, report = verify(bundle.root)
    assert (code, report["first_divergence"]) == (1, "prefill logits"), report["stages"]
