"""RtxRunner: portable engines on TensorRT for RTX, the KV cache in two device buffers that take turns.

Written against the documented API of TensorRT-RTX 1.7 and CUDA's runtime bindings, and tested with stand-ins of their
objects. Not run on hardware. Kernels are finished on the first load and kept in a runtime cache, one file per bundle and GPU.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from egm_edge.backends.base import RuntimeFacts
from egm_edge.backends.onnx_runtime.config import EngineConfig
from egm_edge.backends.portable.runner import Arrays
from egm_edge.bundle import Bundle
from egm_edge.errors import BackendError
from egm_edge.files import user_cache, whole_file

ENGINES = {name: f"engines/{name}.engine" for name in ("vision", "decoder", "head")}
PREFILL_PROFILE, DECODE_PROFILE = 0, 1
DECODE_TOKENS = 16
CACHE_ITEM_BYTES = 2  # both 16-bit types
HINT = "pip install tensorrt-rtx==1.7.1.116 cuda-bindings, with an NVIDIA driver of CUDA 13"


class RtxRunner:
    """A Runner on TensorRT for RTX.

    Args:
        bundle: with engines/*.engine.
        trt: the `tensorrt_rtx` module. cuda: `cuda.bindings.runtime`. Both are parameters for tests.
        cache_dir: where finished kernels are kept; None for the user's cache.

    Raises:
        BackendError: another TensorRT-RTX than the one that built the engines, no such GPU, or no memory.
    """

    def __init__(self, bundle: Bundle, trt: Any, cuda: Any, *, cache_dir: Path | None = None) -> None:
        self._trt, self._cuda = trt, cuda
        built = bundle.manifest.versions.get("tensorrt-rtx")
        if str(trt.__version__) != built:
            raise BackendError(
                f"TensorRT-RTX {built}, which built the engines", str(trt.__version__), "install that version"
            )
        config = EngineConfig.from_dict(bundle.manifest.model)
        self.capacity = int(bundle.manifest.limits["context_tokens"])
        self.cache_tokens = 0
        self._row = (config.kv_heads, config.head_dim)
        self._names = [f"{part}_{i}" for i in range(config.layers) for part in ("key", "value")]
        self._stream = self._checked("a CUDA stream", cuda.cudaStreamCreate())
        properties = self._checked("the GPU's properties", cuda.cudaGetDeviceProperties(0))
        gpu = f"sm{properties.major}{properties.minor}"
        _require_recent_enough(gpu, bundle.manifest.limits.get("sm", []))
        self.facts = RuntimeFacts(f"tensorrt-rtx {trt.__version__}", f"cuda:0 ({gpu})")
        self._runtime = trt.Runtime(trt.Logger(trt.Logger.ERROR))
        folder = cache_dir or user_cache() / "rtx"
        self._kernels = {name: folder / f"{bundle.hash[:16]}-{gpu}-{name}.kernels" for name in ENGINES}
        self._engines = {name: self._load(bundle.path(path), name) for name, path in ENGINES.items()}
        tokens_bytes = self.capacity * math.prod(self._row) * CACHE_ITEM_BYTES
        self._buffers = [{name: self._allocate(tokens_bytes) for name in self._names} for _ in range(2)]
        self._scratch: dict[str, tuple[int, int]] = {}
        self._turn = 0

    def vision(self, inputs: Arrays, outputs: list[str]) -> list[NDArray[np.float32]]:
        return self._run("vision", inputs, outputs)

    def decode(self, inputs: Arrays) -> NDArray[np.float32]:
        past, fed = self.cache_tokens, inputs["embeds"].shape[1]
        total = past + fed
        _, context = self._engines["decoder"]
        small = past > 0 and fed <= DECODE_TOKENS
        context.set_optimization_profile_async(DECODE_PROFILE if small else PREFILL_PROFILE, self._stream)
        here, there = self._buffers[self._turn], self._buffers[1 - self._turn]
        for name in self._names:
            context.set_input_shape(f"past_{name}", (past, *self._row))
            context.set_tensor_address(f"past_{name}", here[name])
            context.set_tensor_address(f"present_{name}", there[name])
        hidden = self._run("decoder", inputs, ["hidden"])[0]
        self.cache_tokens, self._turn = total, 1 - self._turn
        return hidden

    def head(self, hidden: NDArray[np.float32]) -> NDArray[np.float32]:
        return self._run("head", {"hidden": hidden}, ["logits"])[0]

    def close(self) -> None:
        for address in [*(a for half in self._buffers for a in half.values()), *(a for a, _ in self._scratch.values())]:
            self._cuda.cudaFree(address)
        self._buffers, self._scratch, self._engines = [], {}, {}
        self._cuda.cudaStreamDestroy(self._stream)

    def _run(self, graph: str, inputs: Arrays, outputs: Sequence[str]) -> list[NDArray[np.float32]]:
        """Copy inputs in, run, copy float32 outputs out."""
        cuda, (_, context) = self._cuda, self._engines[graph]
        for name, array in inputs.items():
            fed = np.ascontiguousarray(array)
            address = self._room(f"{graph}.{name}", fed.nbytes)
            to_device = cuda.cudaMemcpyKind.cudaMemcpyHostToDevice
            self._checked("a copy to the GPU", cuda.cudaMemcpy(address, fed.ctypes.data, fed.nbytes, to_device))
            if not context.set_input_shape(name, fed.shape) or not context.set_tensor_address(name, address):
                raise BackendError(f"{name} within the engine's profile", str(fed.shape), "use fewer pixels or tokens")
        found = [np.empty(tuple(context.get_tensor_shape(name)), np.float32) for name in outputs]
        for name, array in zip(outputs, found, strict=True):
            context.set_tensor_address(name, self._room(f"{graph}.{name}", array.nbytes))
        if not context.execute_async_v3(self._stream):
            raise BackendError(f"the {graph} engine to run", "TensorRT refused", "see its log; rebuild the bundle")
        self._checked("the GPU to finish", cuda.cudaStreamSynchronize(self._stream))
        for name, array in zip(outputs, found, strict=True):
            address, to_host = self._scratch[f"{graph}.{name}"][0], cuda.cudaMemcpyKind.cudaMemcpyDeviceToHost
            self._checked("a copy from the GPU", cuda.cudaMemcpy(array.ctypes.data, address, array.nbytes, to_host))
        return found

    def _load(self, path: Path, name: str) -> tuple[Any, Any]:
        """An engine and its context, kernels taken from the runtime cache and what is new put there."""
        engine = self._runtime.deserialize_cuda_engine(path.read_bytes())
        if engine is None:
            raise BackendError(
                f"{path.name} to load on {self.facts.device}", "TensorRT refused it", "see `egm targets rtx`"
            )
        settings = engine.create_runtime_config()
        cache, kept = settings.create_runtime_cache(), self._kernels[name]
        if kept.is_file():
            cache.deserialize(kept.read_bytes())
        settings.set_runtime_cache(cache)
        context = engine.create_execution_context(settings)
        if context is None:
            raise BackendError(f"memory for {path.name}", "none left", "close what else uses the GPU")
        kept.parent.mkdir(parents=True, exist_ok=True)
        with whole_file(kept, "wb") as stream:
            stream.write(bytes(cache.serialize()))
        return engine, context

    def _room(self, name: str, size: int) -> int:
        """Device memory of at least `size` bytes, kept between calls."""
        address, held = self._scratch.get(name, (0, -1))
        if held < size:
            if address:
                self._cuda.cudaFree(address)
            self._scratch[name] = (address, held) = (self._allocate(max(size, 1)), max(size, 1))
        return address

    def _allocate(self, size: int) -> int:
        return int(self._checked(f"{size:,} bytes on the GPU", self._cuda.cudaMalloc(size)))

    def _checked(self, what: str, result: Any) -> Any:
        """CUDA's bindings give (error, value…); a BackendError for any error."""
        error, *values = result
        if int(error) != 0:
            raise BackendError(what, f"CUDA error {int(error)}", HINT)
        return values[0] if values else None


def _require_recent_enough(gpu: str, built_for: Sequence[str]) -> None:
    """FP8 engines leave out older GPUs; TensorRT itself judges the newer ones."""
    first = min(built_for, key=_capability, default=gpu)
    if _capability(gpu) < _capability(first):
        hint = "build the bundle with --precision int4 or fp16"
        raise BackendError(f"a GPU of {first} or later, for which the engines are", gpu, hint)


def _capability(sm: str) -> int:
    return int(sm.removeprefix("sm"))


def import_runtime() -> tuple[Any, Any]:
    """TensorRT-RTX and CUDA's bindings.

    Raises:
        BackendError: either is missing.
    """
    try:
        import tensorrt_rtx
        from cuda.bindings import runtime
    except ImportError as error:
        raise BackendError("TensorRT for RTX and CUDA's Python bindings", str(error), HINT) from None
    return tensorrt_rtx, runtime
