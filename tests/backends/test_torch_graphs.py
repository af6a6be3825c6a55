"""What the PyTorch engine captures, replayed on a CPU by a fake of CUDA's graphs; and which attention it takes."""

from __future__ import annotations

import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from egm_edge import Grounder  # noqa: E402
from egm_edge.assets import shipped_checkpoint  # noqa: E402
from egm_edge.backends.torch_gpu.attention import Attention, FlashAttention, attention_for  # noqa: E402
from egm_edge.backends.torch_gpu.backend import TorchBackend  # noqa: E402
from egm_edge.backends.torch_gpu.capture import Capture, CudaGraphs  # noqa: E402
from egm_edge.bundle_from_checkpoint import describe_checkpoint  # noqa: E402
from egm_edge.grounding import Task  # noqa: E402
from egm_edge.loaded_model import read_tokenizer  # noqa: E402
from tests.support import fake_cuda_graphs as fake  # noqa: E402
from tests.support.tiny_checkpoints import write_tiny_internvl3, write_tiny_qwen3_vl  # noqa: E402

CPU = torch.device("cpu")
IMAGES = [np.random.default_rng(seed).integers(0, 256, (90, 120, 3), np.uint8) for seed in range(4)]


@pytest.fixture
def graphs(monkeypatch: pytest.MonkeyPatch) -> CudaGraphs:
    fake.install(monkeypatch)
    return CudaGraphs(CPU)


@pytest.fixture(scope="module", params=["qwen3_vl", "internvl3", "egm-nano"])
def checkpoint(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("graphs") / "checkpoint"
    write = {"qwen3_vl": write_tiny_qwen3_vl, "internvl3": write_tiny_internvl3}
    return write[request.param](out) if request.param in write else shipped_checkpoint()


def _opened(checkpoint: Path, **options: Any) -> Grounder:
    bundle = describe_checkpoint(checkpoint)
    return Grounder(TorchBackend(bundle, device="cpu", **options), bundle, read_tokenizer(bundle))


def test_a_replay_sees_what_was_written_since(graphs: CudaGraphs) -> None:
    memory = torch.zeros(3)

    def function(x: torch.Tensor) -> list[torch.Tensor]:
        memory.add_(x)
        return [memory * 2, x.view(3, 1)]

    sums = [graphs("key", function, [torch.full((3,), value)])[0].tolist() for value in (1.0, 2.0, 4.0, 8.0)]
    # once plain, once while warming up, then by replays: a recording itself computes, as a capture would not
    assert sums[0] == [2.0] * 3 and sums[3][0] - sums[2][0] == 16.0
    assert [graph.replays for graph in fake.FakeGraph.made] == [3]


def test_the_fake_refuses_what_a_capture_forbids(graphs: CudaGraphs) -> None:
    for forbidden in (lambda x: [x * x.sum().item()], lambda x: [x[x > 0]], lambda x: [x[x.nonzero()]]):
        graphs.forget()
        graphs("key", forbidden, [torch.ones(3)])
        with pytest.raises(fake.CaptureRefusedError):
            graphs("key", forbidden, [torch.ones(3)])


def test_graphs_give_what_plain_calls_give(checkpoint: Path, graphs: CudaGraphs) -> None:
    with _opened(checkpoint, capture=graphs) as captured, _opened(checkpoint, capture=Capture()) as plain:
        for image in IMAGES:  # the first plain, the second captured, the others replayed with other pixels
            frames = [grounder.frame(image, color="rgb") for grounder in (captured, plain)]
            sessions = [
                g.backend.open_session(g.engine_frame(f)) for g, f in zip((captured, plain), frames, strict=True)
            ]
            for session in sessions:
                session.extend(captured.token_ids("the mug", Task.MODAL))
            for tokens in ([5], [6, 7], [8, 9, 10], list(range(11, 27)), [28]):
                found, expected = (session.extend(tokens, every_position=True) for session in sessions)
                np.testing.assert_allclose(found, expected, atol=1e-5)
            found, expected = (session.fork(3, 8).step([5, 6, 7]) for session in sessions)
            np.testing.assert_allclose(found, expected, atol=1e-5)
    assert sum(graph.replays for graph in fake.FakeGraph.made) > 12


def test_a_cache_that_moved_is_captured_anew(tmp_path: Path, graphs: CudaGraphs) -> None:
    checkpoint = write_tiny_qwen3_vl(tmp_path / "tiny")
    with _opened(checkpoint, capture=graphs) as captured, _opened(checkpoint) as plain:
        last = []
        for grounder in (captured, plain):
            frame = grounder.frame(IMAGES[0], color="rgb")
            session = grounder.backend.open_session(grounder.engine_frame(frame))
            before = len(fake.FakeGraph.made)
            for start in range(0, 1200, 16):
                logits = session.extend([5 + (start + i) % 30 for i in range(16)])
            last.append(logits)
        np.testing.assert_allclose(*last, atol=1e-5)
        assert before and captured.backend.cache.places > 1024


def test_only_so_many_graphs_are_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    fake.install(monkeypatch)
    graphs = CudaGraphs(CPU, keep=2)
    for key in "aabbccab":
        graphs(key, lambda x: [x + 1], [torch.ones(1)])
    assert list(graphs._graphs) == ["a", "b"] and not any(
        graphs._graphs.values()
    )  # a and b were forgotten, then met once


# flash_attn.flash_attn_with_kvcache, version 2.8
def flash_attn_with_kvcache(
    q: torch.Tensor,
    k_cache: torch.Tensor,
    v_cache: torch.Tensor,
    k: Any = None,
    v: Any = None,
    rotary_cos: Any = None,
    rotary_sin: Any = None,
    cache_seqlens: Any = None,
    cache_batch_idx: Any = None,
    cache_leftpad: Any = None,
    block_table: Any = None,
    softmax_scale: Any = None,
    causal: bool = False,
    window_size: tuple[int, int] = (-1, -1),
    softcap: float = 0.0,
    rotary_interleaved: bool = True,
    alibi_slopes: Any = None,
    num_splits: int = 0,
    return_softmax_lse: bool = False,
) -> torch.Tensor:
    """Row by row, by the kernel's own description: causal from the lower right corner, head i sees key head i // (h/k)."""
    assert causal and cache_seqlens.dtype == torch.int32 and cache_seqlens.shape == q.shape[:1]
    assert q.stride(-1) == k_cache.stride(-1) == v_cache.stride(-1) == 1 and k is None and v is None
    out, group = torch.empty_like(q), q.shape[2] // k_cache.shape[2]
    for row, length in enumerate(cache_seqlens.tolist()):
        for i in range(q.shape[1]):
            end = length - q.shape[1] + i + 1
            keys, values = (part[row, :end].repeat_interleave(group, 1) for part in (k_cache, v_cache))  # [end, h, d]
            scores = torch.einsum("hd,ehd->he", q[row, i], keys) * q.shape[-1] ** -0.5
            out[row, i] = torch.einsum("he,ehd->hd", scores.softmax(-1), values)
    return out


@pytest.fixture
def flash(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    module = ModuleType("flash_attn")
    module.flash_attn_with_kvcache = flash_attn_with_kvcache  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "flash_attn", module)
    return module


@pytest.mark.parametrize(
    ("why", "dtype", "capability", "taken"),
    [
        ("Ampere and later in 16 bits", torch.bfloat16, (8, 0), FlashAttention),
        ("Hopper", torch.float16, (9, 0), FlashAttention),
        ("Turing", torch.float16, (7, 5), Attention),
        ("full precision", torch.float32, (9, 0), Attention),
        ("a CPU", torch.bfloat16, None, Attention),
    ],
)
def test_flash_attention_is_taken_where_it_fits(
    why: str, dtype: Any, capability: Any, taken: type, flash: object
) -> None:
    assert type(attention_for(dtype, capability)) is taken, why


@pytest.mark.parametrize("found", [None, ModuleType("flash_attn")])
def test_where_flash_attention_is_not_pytorch_attends(found: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "flash_attn", found)  # absent, or without that function
    assert type(attention_for(torch.bfloat16, (9, 0))) is Attention


def test_flash_attention_is_called_so_that_answers_stay(checkpoint: Path) -> None:
    with (
        _opened(checkpoint, attention=FlashAttention(flash_attn_with_kvcache)) as flashed,
        _opened(checkpoint) as plain,
    ):
        assert "flash-attn" in flashed.backend.facts.runtime
        logits = []
        for grounder in (flashed, plain):
            frame = grounder.frame(IMAGES[0], color="rgb")
            session = grounder.backend.open_session(grounder.engine_frame(frame))
            session.extend(grounder.token_ids("the mug", Task.MODAL))
            drafted = session.extend([6, 7, 8], every_position=True)  # filled up to four
            branches = session.fork(3, 8)
            branches.step([5, 6, 7])
            branches.row(1).extend([9])  # rows of unequal length from here on
            logits.append(np.concatenate([drafted, branches.step([8, 9, 10])]))
        np.testing.assert_allclose(*logits, atol=3e-4)
