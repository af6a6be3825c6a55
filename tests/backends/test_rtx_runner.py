"""RtxRunner against stand-ins of TensorRT's and CUDA's objects: addresses, shapes, profiles, errors, the kernel cache.

The stand-in engine runs the bundle's own portable graphs on the CPU and reads and writes "device" addresses, which are host
memory here: the whole loop is exercised but for the GPU.
"""

# ruff: noqa: N802 - the stand-ins carry CUDA's own names
from __future__ import annotations

import ctypes
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import onnxruntime as ort
import pytest

from build_engine.request import BuildRequest
from build_engine.targets import target_for
from egm_edge.backends import tensorrt_rtx
from egm_edge.backends.portable.backend import PortableBackend
from egm_edge.backends.portable.ort_runner import OrtRunner
from egm_edge.backends.tensorrt_rtx import RtxRunner
from egm_edge.bundle import Bundle, FileRecord
from egm_edge.errors import BackendError
from egm_edge.grounder import Grounder
from egm_edge.loaded_model import read_tokenizer
from tests.support.portable_bundle import write_portable_bundle

VERSION = "1.7.1.116"


class Cuda:
    """cuda.bindings.runtime over host memory. `failing` names a call that reports an error."""

    cudaMemcpyKind = SimpleNamespace(cudaMemcpyHostToDevice=1, cudaMemcpyDeviceToHost=2)  # noqa: N815

    def __init__(self, failing: str = "") -> None:
        self.failing, self.blocks = failing, {}  # type: ignore[var-annotated]

    def _error(self, name: str) -> int:
        return 2 if name == self.failing else 0

    def cudaStreamCreate(self) -> tuple[int, int]:
        return self._error("cudaStreamCreate"), 7

    def cudaStreamDestroy(self, stream: int) -> tuple[int]:
        return (0,)

    def cudaStreamSynchronize(self, stream: int) -> tuple[int]:
        assert stream == 7
        return (self._error("cudaStreamSynchronize"),)

    def cudaGetDeviceProperties(self, device: int) -> tuple[int, Any]:
        return 0, SimpleNamespace(major=8, minor=9)

    def cudaMalloc(self, size: int) -> tuple[int, int]:
        block = ctypes.create_string_buffer(size)
        address = ctypes.addressof(block)
        self.blocks[address] = block
        return self._error("cudaMalloc"), address

    def cudaFree(self, address: int) -> tuple[int]:
        del self.blocks[address]
        return (0,)

    def cudaMemcpy(self, to: int, source: int, size: int, kind: int) -> tuple[int]:
        ctypes.memmove(to, source, size)
        return (0,)


class Context:
    """An execution context that runs the ONNX graph the engine would have been built from."""

    def __init__(self, session: ort.InferenceSession, log: list[int]) -> None:
        self.session, self.log = session, log
        self.shapes: dict[str, tuple[int, ...]] = {}
        self.addresses: dict[str, int] = {}

    def set_optimization_profile_async(self, profile: int, stream: int) -> bool:
        self.log.append(profile)
        return True

    def set_input_shape(self, name: str, shape: tuple[int, ...]) -> bool:
        known = {value.name for value in self.session.get_inputs()}
        self.shapes[name] = tuple(shape)
        return name in known

    def set_tensor_address(self, name: str, address: int) -> bool:
        self.addresses[name] = address
        return True

    def get_tensor_shape(self, name: str) -> tuple[int, ...]:
        return tuple(self._results()[name].shape)

    def execute_async_v3(self, stream: int) -> bool:
        for name, array in self._results().items():
            ctypes.memmove(self.addresses[name], np.ascontiguousarray(array).ctypes.data, array.nbytes)
        return True

    def _results(self) -> dict[str, np.ndarray]:
        kinds = {"tensor(float)": np.float32, "tensor(float16)": np.float16, "tensor(uint8)": np.uint8}
        feeds = {}
        for value in self.session.get_inputs():
            array = np.empty(self.shapes[value.name], kinds[value.type])
            ctypes.memmove(array.ctypes.data, self.addresses[value.name], array.nbytes)
            feeds[value.name] = array
        names = [value.name for value in self.session.get_outputs()]
        return dict(zip(names, self.session.run(names, feeds), strict=True))


def fake_trt(graphs: Path, log: list[int], seen_caches: list[bytes]) -> Any:
    """The part of `tensorrt_rtx` that is used; "engines" are the names of graphs."""

    class Cache:
        def deserialize(self, data: bytes) -> None:
            seen_caches.append(data)

        def serialize(self) -> bytes:
            return b"kernels"

    def engine_of(data: bytes) -> Any:
        if data == b"broken":
            return None
        session = ort.InferenceSession(str(graphs / f"{data.decode()}.onnx"), providers=["CPUExecutionProvider"])
        settings = SimpleNamespace(create_runtime_cache=Cache, set_runtime_cache=lambda cache: None)
        return SimpleNamespace(
            create_runtime_config=lambda: settings, create_execution_context=lambda config: Context(session, log)
        )

    class Logger:
        ERROR = 1

        def __init__(self, level: int) -> None:
            assert level == Logger.ERROR

    runtime = lambda logger: SimpleNamespace(deserialize_cuda_engine=engine_of)  # noqa: E731
    return SimpleNamespace(__version__=VERSION, Logger=Logger, Runtime=runtime)


@pytest.fixture(scope="module")
def portable_bundle(tiny_qwen3_vl: Path, tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    out_dir = tmp_path_factory.mktemp("rtx") / "bundle"
    request = BuildRequest(
        checkpoint=tiny_qwen3_vl, out_dir=out_dir, target=target_for("rtx"), precision="fp16", gate=False
    )
    return write_portable_bundle(request)


@pytest.fixture
def bundle(portable_bundle: Bundle) -> Bundle:
    """The same bundle as if its engines had been built."""
    manifest = portable_bundle.manifest
    engines = {name: f"engines/{name}.engine" for name in ("vision", "decoder", "head")}
    for name, path in engines.items():
        (portable_bundle.root / path).parent.mkdir(exist_ok=True)
        (portable_bundle.root / path).write_bytes(name.encode())
    records = {path: FileRecord("0" * 64, 1) for path in engines.values()}
    versions = {**manifest.versions, "tensorrt-rtx": VERSION}
    return Bundle(portable_bundle.root, replace(manifest, files=manifest.files | records, versions=versions))


def _text(bundle: Bundle, runner: Any) -> str:
    backend = PortableBackend(bundle, runner)
    grounder = Grounder(backend, bundle, read_tokenizer(bundle))
    image = np.random.default_rng(3).integers(0, 256, (80, 100, 3), np.uint8)
    return grounder.ground(image, "the mug", color="rgb", max_new_tokens=20, force_syntax=False).text


def test_the_loop_over_engines_is_the_loop_over_graphs(bundle: Bundle, tmp_path: Path) -> None:
    log: list[int] = []
    cuda = Cuda()
    runner = RtxRunner(bundle, fake_trt(bundle.root / "portable", log, []), cuda, cache_dir=tmp_path)
    ours = _text(bundle, runner)
    assert ours == _text(bundle, OrtRunner(bundle, threads=1))
    assert runner.facts.device == "cuda:0 (sm89)"
    assert log[0] == tensorrt_rtx.PREFILL_PROFILE and set(log[2:]) == {tensorrt_rtx.DECODE_PROFILE}
    runner.close()
    assert not cuda.blocks, "device memory is given back"


def test_finished_kernels_are_kept_per_bundle_and_gpu(bundle: Bundle, tmp_path: Path) -> None:
    seen: list[bytes] = []
    for _ in range(2):
        RtxRunner(bundle, fake_trt(bundle.root / "portable", [], seen), Cuda(), cache_dir=tmp_path).close()
    assert seen == [b"kernels"] * 3
    assert all("sm89" in path.name and path.suffix == ".kernels" for path in tmp_path.iterdir())


def test_another_tensorrt_is_refused(bundle: Bundle, tmp_path: Path) -> None:
    trt = fake_trt(bundle.root / "portable", [], [])
    trt.__version__ = "1.6.0"
    with pytest.raises(BackendError, match=r"TensorRT-RTX 1\.7\.1\.116.*1\.6\.0"):
        RtxRunner(bundle, trt, Cuda(), cache_dir=tmp_path)


def test_a_gpu_older_than_the_engines_is_refused(bundle: Bundle, tmp_path: Path) -> None:
    other = Bundle(bundle.root, replace(bundle.manifest, limits={**bundle.manifest.limits, "sm": ["sm120", "sm100"]}))
    with pytest.raises(BackendError, match=r"a GPU of sm100 or later.*sm89.*--precision int4"):
        RtxRunner(other, fake_trt(bundle.root / "portable", [], []), Cuda(), cache_dir=tmp_path)


@pytest.mark.parametrize("failing", ["cudaStreamCreate", "cudaMalloc", "cudaStreamSynchronize"])
def test_a_cuda_error_is_one_line(bundle: Bundle, tmp_path: Path, failing: str) -> None:
    with pytest.raises(BackendError, match="CUDA error 2"):
        _text(bundle, RtxRunner(bundle, fake_trt(bundle.root / "portable", [], []), Cuda(failing), cache_dir=tmp_path))


def test_an_engine_that_does_not_load_says_which(bundle: Bundle, tmp_path: Path) -> None:
    (bundle.root / "engines/decoder.engine").write_bytes(b"broken")
    with pytest.raises(BackendError, match=r"decoder\.engine"):
        RtxRunner(bundle, fake_trt(bundle.root / "portable", [], []), Cuda(), cache_dir=tmp_path)


def test_without_the_runtime_the_message_says_what_to_install() -> None:
    with pytest.raises(BackendError, match="cuda-bindings"):
        tensorrt_rtx.import_runtime()
