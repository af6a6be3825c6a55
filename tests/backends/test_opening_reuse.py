"""The prompt before the image stays in the cache from frame to frame, and changes nothing."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from build_engine.compilers.cpu import build_cpu
from egm_edge import Grounder
from egm_edge.backends.onnx_runtime.backend import OnnxBackend
from egm_edge.backends.prefix_frame import PrefixFrame
from egm_edge.decoding.session import InterruptedRunError

SIZES = ((90, 120), (64, 200), (90, 120))


@pytest.fixture(scope="module", params=["tiny_qwen3_vl", "tiny_internvl3"])
def bundle(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    checkpoint: Path = request.getfixturevalue(request.param)
    return build_cpu(checkpoint, tmp_path_factory.mktemp("opening") / "bundle", precision="int8", gate=False).root


def _logits(grounder: Grounder, image: np.ndarray) -> tuple[PrefixFrame, np.ndarray, list[int]]:
    """The frame, logits after one request token, and how many tokens each decoder call was fed meanwhile."""
    backend, fed = grounder.backend, []
    assert isinstance(backend, OnnxBackend)
    decode = backend.decode
    backend.decode = lambda embeds, *rest, **named: (fed.append(len(embeds)), decode(embeds, *rest, **named))[1]  # type: ignore[method-assign]
    try:
        frame = grounder.engine_frame(grounder.frame(image, color="rgb"), 1.0)
        logits = backend.open_session(frame).extend([5])
    finally:
        backend.decode = decode  # type: ignore[method-assign]
    assert isinstance(frame, PrefixFrame)
    return frame, logits, fed


def test_later_frames_do_not_feed_the_opening_again_and_get_the_same_logits(bundle: Path) -> None:
    images = [np.random.default_rng(i).integers(0, 256, (*size, 3), np.uint8) for i, size in enumerate(SIZES)]
    with Grounder.from_bundle(bundle, threads=1) as grounder:
        for number, image in enumerate(images):
            frame, logits, fed = _logits(grounder, image)
            opening = len(frame.opening_ids)
            assert opening > 0
            rest = frame.prefix_token_count - opening
            assert fed == ([rest, 1] if number else [opening, rest, 1])
            with Grounder.from_bundle(bundle, threads=1) as fresh:
                np.testing.assert_array_equal(logits, _logits(fresh, image)[1])


@pytest.mark.parametrize("call", [0, 1])
def test_a_prefill_that_was_interrupted_leaves_nothing_wrong_behind(bundle: Path, call: int) -> None:
    image = np.random.default_rng(3).integers(0, 256, (90, 120, 3), np.uint8)
    with Grounder.from_bundle(bundle, threads=1) as grounder, Grounder.from_bundle(bundle, threads=1) as fresh:
        backend = grounder.backend
        assert isinstance(backend, OnnxBackend)
        decode, calls = backend.decode, []

        def interrupted(*arguments: object, **named: object) -> np.ndarray:
            calls.append(arguments)
            if len(calls) > call:
                backend.cache.buffers["key_0"][:, :, backend.cache.length] = 7.0  # half a call was written
                raise InterruptedRunError("a call that ends", "one that was stopped", "ask again")
            return decode(*arguments, **named)  # type: ignore[arg-type]

        backend.decode = interrupted  # type: ignore[method-assign]
        with pytest.raises(InterruptedRunError):
            grounder.engine_frame(grounder.frame(image, color="rgb"), 1.0)
        backend.decode = decode  # type: ignore[method-assign]
        np.testing.assert_array_equal(_logits(grounder, image)[1], _logits(fresh, image)[1])
