"""The PyTorch engine on a CPU against transformers: the same texts and boxes, whatever the steps, and the same logits.

On a CPU steps run as they are; a recording stand-in for captured graphs checks what a capture relies on.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterator, Sequence
from pathlib import Path

import numpy as np
import pytest

from egm_edge import Grounder
from egm_edge.assets import shipped_checkpoint
from egm_edge.bundle_from_checkpoint import describe_checkpoint
from egm_edge.decoding.session import InterruptedRunError
from egm_edge.errors import BackendError, InputError
from egm_edge.grounding import Task
from egm_edge.loaded_model import read_tokenizer
from tests.support.tiny_checkpoints import write_tiny_internvl3, write_tiny_qwen3_vl

torch = pytest.importorskip("torch")
pytest.importorskip("transformers", reason="compares with it; install the verify extra")

from egm_edge.backends.torch_gpu.backend import TorchBackend, TorchFrame  # noqa: E402
from egm_edge.backends.torch_gpu.capture import Capture, Function  # noqa: E402
from egm_edge.backends.transformers_backend import TransformersBackend  # noqa: E402

TOLERANCE = 3e-4
IMAGES = {
    "camera": np.random.default_rng(0).integers(0, 256, (90, 120, 3), np.uint8),
    "odd": np.random.default_rng(1).integers(0, 256, (67, 101, 3), np.uint8),
    "tall": np.random.default_rng(2).integers(0, 256, (200, 70, 3), np.uint8),
}
QUESTIONS = (("the mug", "modal"), ("左边的杯子", "amodal"), ("the second cup from the left", "modal"))


class Recorded(Capture):
    """Stands in for CUDA graphs: a key is captured with its first call's function and tensors, and replayed on copies."""

    def __init__(self) -> None:
        self.held: dict[Hashable, tuple[Function, list[torch.Tensor]]] = {}
        self.replays = 0

    def __call__(self, key: Hashable, function: Function, inputs: Sequence[torch.Tensor]) -> list[torch.Tensor]:
        if key not in self.held:
            self.held[key] = (function, [value.clone() for value in inputs])
        captured, places = self.held[key]
        for place, value in zip(places, inputs, strict=True):
            place.copy_(value)  # fails where the shapes of one key differ
        self.replays += 1
        return captured(*places)

    def forget(self) -> None:
        self.held.clear()


def _engine(checkpoint: Path, capture: Recorded | None = None) -> Grounder:
    bundle = describe_checkpoint(checkpoint)
    return Grounder(TorchBackend(bundle, device="cpu", capture=capture), bundle, read_tokenizer(bundle))


@pytest.fixture(scope="module", params=["qwen3_vl", "qwen3_vl untied", "internvl3", "internvl3 rms", "egm-nano"])
def pair(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Grounder, Grounder]]:
    """One checkpoint: as transformers runs it, and on this engine."""
    out = tmp_path_factory.mktemp("torch") / "checkpoint"
    if request.param == "egm-nano":
        out = shipped_checkpoint()
    elif request.param == "internvl3 rms":
        write_tiny_internvl3(out, qk_norm=True, norm_type="rms_norm")
    elif request.param == "internvl3":
        write_tiny_internvl3(out)
    elif request.param == "qwen3_vl untied":
        write_tiny_qwen3_vl(out, tied=False, deepstack=(0, 2), head_dim=16)
    else:
        write_tiny_qwen3_vl(out)
    bundle = describe_checkpoint(out)
    plain = Grounder(TransformersBackend(bundle, threads=1), bundle, read_tokenizer(bundle))
    with plain, _engine(out, Recorded()) as engine:
        yield plain, engine


def _session(grounder: Grounder, image: np.ndarray) -> tuple[object, list[int]]:
    frame = grounder.frame(image, color="rgb")
    model = grounder.model
    opened = grounder.backend.open_frame(frame.pixels, model.prefix_ids(frame.pixels))
    return grounder.backend.open_session(opened), model.request_ids("the red mug", Task.MODAL)


@pytest.mark.parametrize("name", IMAGES)
def test_logits_are_transformers_for_single_and_several_tokens(pair: tuple[Grounder, Grounder], name: str) -> None:
    (plain, ids), (engine, same_ids) = (_session(grounder, IMAGES[name]) for grounder in pair)
    assert ids == same_ids
    expected, found = plain.extend(ids, every_position=True), engine.extend(ids, every_position=True)
    np.testing.assert_allclose(found, expected, atol=TOLERANCE)
    for tokens in ([5], [6, 7, 8], list(range(9, 22)), [30]):
        expected, found = plain.extend(tokens, every_position=True), engine.extend(tokens, every_position=True)
        np.testing.assert_allclose(found, expected, atol=TOLERANCE)


def test_a_rewound_session_gives_the_same_logits_again(pair: tuple[Grounder, Grounder]) -> None:
    session, ids = _session(pair[1], IMAGES["camera"])
    session.extend(ids)
    length = session.length
    first = session.extend([5, 6, 7], every_position=True)
    session.truncate(length)
    session.extend([40, 41, 42, 43, 44])
    session.truncate(length)
    again = session.extend([5, 6, 7], every_position=True)
    np.testing.assert_allclose(again, first, atol=1e-5)
    with pytest.raises(InputError):
        session.truncate(length + 99)


def test_rows_of_a_batch_are_sessions_of_their_own(pair: tuple[Grounder, Grounder]) -> None:
    session, ids = _session(pair[1], IMAGES["odd"])
    session.extend(ids)
    length = session.length
    branches = session.fork(3, 40)
    branches.step([5, 6, 7])
    second = branches.step([8, 9, 10])
    branches.drop(0)  # the last row takes its place
    third = branches.step([11, 12])
    draft = branches.row(1).extend([13, 14, 15], every_position=True)
    for tokens, seen in (([7, 10, 11], (second[2], third[0])), ([6, 9, 12, 13, 14, 15], (second[1], third[1], *draft))):
        session.truncate(length)
        alone = session.extend(tokens, every_position=True)[1:]
        np.testing.assert_allclose(np.array(seen), alone, atol=TOLERANCE)


def test_answers_are_transformers_with_drafts_and_without(pair: tuple[Grounder, Grounder]) -> None:
    plain, engine = pair
    frame = engine.frame(IMAGES["camera"], color="rgb")
    for expression, task in QUESTIONS:
        options = {"task": task, "max_new_tokens": 24}
        expected = plain.ground(IMAGES["camera"], expression, color="rgb", **options)
        found = engine.ground(frame, expression, **options)
        engine.speculate = False
        slow = engine.ground(IMAGES["camera"], expression, color="rgb", **options)
        engine.speculate = True
        assert found.text == slow.text == expected.text
        assert found.box == slow.box == expected.box


def test_frames_keep_their_features_while_others_are_asked_about(pair: tuple[Grounder, Grounder]) -> None:
    engine = pair[1]
    frames = {name: engine.frame(image, color="rgb") for name, image in IMAGES.items()}
    first = {name: engine.ground(frame, "the mug", max_new_tokens=7).text for name, frame in frames.items()}
    again = {name: engine.ground(frame, "the mug", max_new_tokens=7).text for name, frame in reversed(frames.items())}
    assert first == again


def test_a_step_between_two_captured_sizes_replays_the_larger_one(pair: tuple[Grounder, Grounder]) -> None:
    session, ids = _session(pair[1], IMAGES["camera"])
    session.extend(ids)
    capture = pair[1].backend._capture
    session.extend([1] * 3)
    sizes = {key[2] for key in capture.held if key[0] == "step"}
    assert 4 in sizes and sizes <= {1, 2, 4, 8, 16}


def test_the_cache_grows_and_keeps_what_it_holds(tmp_path: Path) -> None:
    write_tiny_qwen3_vl(tmp_path / "tiny")
    with _engine(tmp_path / "tiny") as engine:
        session, ids = _session(engine, IMAGES["odd"])
        session.extend(ids)
        length = session.length
        tokens = [int(t) for t in np.random.default_rng(0).integers(5, 40, 1100)]
        for start in range(0, 1100, 16):
            last = session.extend(tokens[start : start + 16])
        assert engine.backend.cache.places > 1024
        session.truncate(length)
        np.testing.assert_allclose(session.extend(tokens), last, atol=TOLERANCE)


def test_an_interrupted_engine_says_so_and_goes_on_when_disarmed(tmp_path: Path) -> None:
    write_tiny_internvl3(tmp_path / "tiny")
    with _engine(tmp_path / "tiny") as engine:
        session, ids = _session(engine, IMAGES["odd"])
        engine.backend.interrupt()
        with pytest.raises(InterruptedRunError):
            session.extend(ids)
        engine.backend.disarm()
        assert len(session.extend(ids))
    with pytest.raises(BackendError, match="closed"):
        session.extend(ids)


def test_tokens_outside_the_embedding_never_reach_the_device(pair: tuple[Grounder, Grounder]) -> None:
    session, ids = _session(pair[1], IMAGES["odd"])
    for token in (-1, 10**6):
        with pytest.raises(BackendError, match="of different models"):
            session.extend([*ids, token])


def test_half_precision_stays_near_float32(pair: tuple[Grounder, Grounder]) -> None:
    bundle = pair[1].bundle
    half = Grounder(TorchBackend(bundle, device="cpu", dtype=torch.bfloat16), bundle, read_tokenizer(bundle))
    (full, ids), (rough, _) = (_session(grounder, IMAGES["camera"]) for grounder in (pair[1], half))
    expected, found = full.extend(ids), rough.extend(ids)
    cosine = float(expected @ found / np.linalg.norm(expected) / np.linalg.norm(found))
    assert cosine > 0.99


def test_a_damaged_checkpoint_is_one_error(tmp_path: Path) -> None:
    write_tiny_qwen3_vl(tmp_path / "tiny")
    bundle = describe_checkpoint(tmp_path / "tiny")
    (weights,) = (tmp_path / "tiny").glob("*.safetensors")
    weights.write_bytes(weights.read_bytes()[:200])
    with pytest.raises(Exception, match="safetensors"):
        TorchBackend(bundle, device="cpu")
    assert TorchFrame.__doc__
