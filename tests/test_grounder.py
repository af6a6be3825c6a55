"""The public way in: images, frames, errors, cancelling, threads, what a Grounding carries."""

from __future__ import annotations

import json
import shutil
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import egm_edge
from egm_edge import Grounder, Outcome, Task
from egm_edge.decoding import TokenEvent
from egm_edge.errors import BackendError, BundleError, InputError
from egm_edge.grounding import Grounding

IMAGE = np.random.default_rng(0).integers(0, 256, (90, 120, 3), np.uint8)


@pytest.fixture(scope="module")
def bundle(tiny_qwen3_vl: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    from build_engine.compilers.cpu import build_cpu

    return build_cpu(tiny_qwen3_vl, tmp_path_factory.mktemp("grounder") / "bundle", precision="fp32").root


@pytest.fixture(scope="module")
def grounder(bundle: Path) -> Iterator[Grounder]:
    with Grounder.from_bundle(bundle, threads=1) as opened:
        yield opened


def test_a_grounding_carries_what_produced_it(grounder: Grounder) -> None:
    grounding = grounder.ground(IMAGE, "the mug", color="rgb", stamp_ns=17, max_new_tokens=5)
    assert (grounding.stamp_ns, grounding.image_wh, grounding.task) == (17, (120, 90), Task.MODAL)
    assert (grounding.bundle_hash, grounding.pixel_spec_hash) == (grounder.bundle_hash, grounder.pixel_spec_hash)
    assert grounding.cut == "max_new_tokens"
    assert grounding.tokens.completion == 5
    opening = len(["<|im_start|>", *"user\n", "<|vision_start|>", "<|vision_end|>"])  # one token a byte
    assert grounding.tokens.prompt == opening + grounding.tokens.image + len(grounder.token_ids("the mug"))
    assert grounding.confidence is None
    assert Grounding.from_dict(grounding.to_dict()) == grounding


def test_an_answer_that_fills_the_context_is_cut_there(tiny_qwen3_vl: Path, tmp_path: Path) -> None:
    from build_engine.compilers.cpu import build_cpu

    checkpoint = Path(shutil.copytree(tiny_qwen3_vl, tmp_path / "checkpoint"))
    (checkpoint / "generation_config.json").unlink()
    config = json.loads((checkpoint / "config.json").read_text())
    config["text_config"] |= {"max_position_embeddings": 128, "eos_token_id": None}
    (checkpoint / "config.json").write_text(json.dumps(config))
    opened = build_cpu(checkpoint, tmp_path / "bundle", precision="fp32", gate=False)
    with Grounder.from_opened(opened, threads=1) as grounder:
        grounding = grounder.ground(IMAGE, "the mug", color="rgb", max_new_tokens=2**31 - 1)
        assert grounding.cut == "context_tokens"
        assert grounding.tokens.prompt + grounding.tokens.completion == 128
        with pytest.raises(InputError, match="at most 128 tokens"):
            grounder.ground(IMAGE, "the mug " * 20, color="rgb")


def test_the_stages_add_up(grounder: Grounder, monkeypatch: pytest.MonkeyPatch) -> None:
    """By a clock that only the engine moves, everything it does is in exactly one stage."""
    now_s = 0.0

    def takes(name: str, seconds: float) -> None:
        work = getattr(grounder.backend, name)

        def timed(*arguments: Any, **options: Any) -> Any:
            nonlocal now_s
            now_s += seconds
            return work(*arguments, **options)

        monkeypatch.setattr(grounder.backend, name, timed)

    monkeypatch.setattr(time, "perf_counter", lambda: now_s)
    takes("_run_vision", 0.5)
    takes("decode", 0.125)
    t = grounder.ground(IMAGE, "the mug", color="rgb", max_new_tokens=40).timings
    assert t.vision_ms == 500.0 and t.prefill_ms >= 125.0 and t.answer_ms + t.think_ms >= 125.0
    stages = t.decode_image_ms + t.preprocess_ms + t.vision_ms + t.prefill_ms + t.think_ms + t.answer_ms + t.parse_ms
    assert stages == pytest.approx(t.total_ms) == pytest.approx(now_s * 1e3)
    assert t.ttft_ms == pytest.approx(t.total_ms - t.think_ms - t.answer_ms)


def test_path_bytes_and_array_give_one_answer(grounder: Grounder, tmp_path: Path) -> None:
    from PIL import Image

    path = tmp_path / "frame.png"
    Image.fromarray(IMAGE).save(path)
    answers = [
        grounder.ground(path, "x", max_new_tokens=8).text,
        grounder.ground(str(path), "x", max_new_tokens=8).text,
        grounder.ground(path.read_bytes(), "x", max_new_tokens=8).text,
        grounder.ground(IMAGE, "x", color="rgb", max_new_tokens=8).text,
        grounder.ground(np.ascontiguousarray(IMAGE[..., ::-1]), "x", color="bgr", max_new_tokens=8).text,
    ]
    assert len(set(answers)) == 1


@pytest.mark.parametrize(
    ("arguments", "mentions"),
    [
        pytest.param({"image": IMAGE}, "color", id="colour order not stated"),
        pytest.param({"color": "yuv"}, "yuv", id="unknown colour order"),
        pytest.param({"expression": ""}, "expression", id="empty expression"),
        pytest.param({"expression": "x" * 10_000}, "2,000", id="10 kB expression"),
        pytest.param({"expression": "<|im_end|>"}, "marker", id="chat marker in the expression"),
        pytest.param({"task": "panoptic"}, "modal", id="unknown task"),
        pytest.param({"max_new_tokens": 0}, "max_new_tokens", id="no tokens"),
        pytest.param({"image": np.zeros((0, 0, 3), np.uint8), "color": "rgb"}, "image", id="empty array"),
    ],
)
def test_unusable_requests_are_refused_in_one_line(
    grounder: Grounder, arguments: dict[str, object], mentions: str
) -> None:
    defaults: dict[str, object] = {"image": IMAGE, "expression": "the mug"}
    if "image" not in arguments and "color" not in arguments:
        defaults["color"] = "rgb"
    with pytest.raises(InputError, match=mentions) as caught:
        grounder.ground(**(defaults | arguments))  # type: ignore[arg-type]
    assert "\n" not in str(caught.value)


def test_what_the_runtime_raises_is_translated(grounder: Grounder) -> None:
    frame = grounder.frame(IMAGE, color="rgb")
    frame.pixels = replace(frame.pixels, patches=frame.pixels.patches[:, :-1])
    with pytest.raises(BackendError, match="vision graph") as caught:
        grounder.ground(frame, "the mug")
    assert "\n" not in str(caught.value)


def test_cancelling_ends_the_request_at_the_next_token(grounder: Grounder) -> None:
    seen: list[TokenEvent] = []
    grounding = grounder.ground(
        IMAGE, "the mug", color="rgb", max_new_tokens=50, should_stop=lambda: len(seen) >= 3, on_token=seen.append
    )
    assert grounding.outcome is Outcome.CANCELLED
    assert grounding.box is None
    assert grounding.tokens.completion == len(seen) == 3


def test_a_frame_of_another_grounder_is_refused(grounder: Grounder, bundle: Path) -> None:
    with Grounder.from_bundle(bundle, threads=1) as other, pytest.raises(InputError, match="another"):
        grounder.ground(other.frame(IMAGE, color="rgb"), "x")


def test_a_closed_grounder_says_so(bundle: Path) -> None:
    grounder = Grounder.from_bundle(bundle, threads=1)
    grounder.close()
    with pytest.raises(BackendError, match="closed"):
        grounder.ground(IMAGE, "x", color="rgb")


def test_threads_take_turns_and_get_the_answers_of_one_thread(grounder: Grounder) -> None:
    frames = [grounder.frame(np.roll(IMAGE, i * 40, 1), color="rgb") for i in range(3)]
    alone = [grounder.ground(frame, "the mug", max_new_tokens=12).text for frame in frames]
    together: dict[int, str] = {}

    def ask(i: int) -> None:
        for _ in range(3):
            together[i] = grounder.ground(frames[i], "the mug", max_new_tokens=12).text

    threads = [threading.Thread(target=ask, args=(i,)) for i in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [together[i] for i in range(3)] == alone


def test_specs_that_do_not_match_their_hash_are_refused(bundle: Path) -> None:
    from dataclasses import replace

    from egm_edge.bundle import Bundle

    opened = Bundle.open(bundle)
    forged = replace(opened.manifest, pixel_spec=opened.manifest.pixel_spec | {"patch_size": 8})
    with pytest.raises(BundleError, match="pixel_spec"):
        Grounder.from_opened(replace(opened, manifest=forged))


def test_public_names_come_from_the_package() -> None:
    assert {name for name in egm_edge.__all__ if getattr(egm_edge, name).__module__.startswith("egm_edge.")} == set(
        egm_edge.__all__
    )
    with pytest.raises(AttributeError, match="nonsense"):
        _ = egm_edge.nonsense
