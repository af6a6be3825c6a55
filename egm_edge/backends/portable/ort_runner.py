"""OrtRunner: portable graphs on ONNX Runtime on a CPU, the very graphs that GPU engines are made of, for checks.

Two buffers per layer and kind take turns: a step reads the cache from one and writes it, with the new tokens behind it, into
the other. Forgetting tokens is a shorter view of the same memory.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as ort
from numpy.typing import NDArray

from egm_edge.backends.base import RuntimeFacts
from egm_edge.backends.onnx_runtime.config import EngineConfig
from egm_edge.backends.portable.runner import Arrays
from egm_edge.bundle import PORTABLE, Bundle
from egm_edge.errors import BackendError

VISION, DECODER, HEAD = (f"{PORTABLE}{name}.onnx" for name in ("vision", "decoder", "head"))
PROVIDER = "CPUExecutionProvider"
FLOAT_ACTIVATIONS = "session.qdq_matmulnbits_accuracy_level"  # on a CPU they would be rounded to 8 bits otherwise
# As ONNX Runtime's bindings take them: NumPy's type, or ONNX's number of one that NumPy does not have.
KV_TYPES: dict[str, Any] = {"tensor(float16)": np.float16, "tensor(bfloat16)": 16, "tensor(float)": np.float32}


class OrtRunner:
    """A Runner on ONNX Runtime.

    Args:
        bundle: with portable graphs.
        threads: CPU threads, None for ONNX Runtime's choice.
        graphs: files to run instead of the bundle's, by the names above; without HEAD there are no logits.
        optimised: False runs every node as it stands.

    Raises:
        BackendError: the graphs do not load, or do not fit the manifest.
    """

    def __init__(
        self,
        bundle: Bundle,
        *,
        threads: int | None = None,
        graphs: Mapping[str, Path] | None = None,
        optimised: bool = True,
    ) -> None:
        config = EngineConfig.from_dict(bundle.manifest.model)
        self.capacity = int(bundle.manifest.limits["context_tokens"])
        graphs = graphs or {name: bundle.path(name) for name in (VISION, DECODER, HEAD)}
        self._sessions = {name: self._open(path, threads, optimised) for name, path in graphs.items()}
        self.facts = RuntimeFacts(f"onnxruntime {ort.__version__}", "cpu", threads or 0)
        self.cache_tokens = 0
        self._row = (config.kv_heads, config.head_dim)
        self._names = [f"{part}_{i}" for i in range(config.layers) for part in ("key", "value")]
        past = {value.name: value.type for value in self._sessions[DECODER].get_inputs()}[f"past_{self._names[0]}"]
        self._kv_dtype: Any = KV_TYPES.get(past)
        if self._kv_dtype is None:
            raise BackendError("a cache of 16- or 32-bit floats", past, "rebuild the bundle with --precision fp16")
        self._require_deepstack(config.vision.deepstack)
        self._buffers = [{name: self._allocate() for name in self._names} for _ in range(2)]
        self._turn = 0

    def vision(self, inputs: Arrays, outputs: list[str]) -> list[NDArray[np.float32]]:
        return self._run(VISION, inputs, outputs)

    def decode(self, inputs: Arrays) -> NDArray[np.float32]:
        return self._decode(inputs, ["hidden"])[0]

    def _decode(self, inputs: Arrays, outputs: Sequence[str]) -> list[NDArray[np.float32]]:
        session, past = self._sessions[DECODER], self.cache_tokens
        total = past + inputs["embeds"].shape[1]
        binding = session.io_binding()
        for name, array in inputs.items():
            binding.bind_cpu_input(name, np.ascontiguousarray(array))
        for name in outputs:  # first, because results come in the order of binding
            binding.bind_output(name, "cpu")
        here, there = self._buffers[self._turn], self._buffers[1 - self._turn]
        for name in self._names:
            self._bind(binding.bind_input, f"past_{name}", here[name], past)
            self._bind(binding.bind_output, f"present_{name}", there[name], total)
        self._translated(DECODER, lambda: session.run_with_iobinding(binding))
        self.cache_tokens, self._turn = total, 1 - self._turn
        return [value.numpy() for value in binding.get_outputs()[: len(outputs)]]

    def head(self, hidden: NDArray[np.float32]) -> NDArray[np.float32]:
        return self._run(HEAD, {"hidden": hidden}, ["logits"])[0]

    def close(self) -> None:
        self._sessions, self._buffers = {}, []

    def _run(self, graph: str, inputs: Arrays, outputs: list[str]) -> list[NDArray[np.float32]]:
        session = self._sessions[graph]
        known = {value.name for value in session.get_inputs()}
        fed = {name: np.ascontiguousarray(array) for name, array in inputs.items() if name in known}
        found: list[NDArray[np.float32]] = self._translated(graph, lambda: session.run(outputs, fed))
        return found

    def _translated(self, graph: str, call: Any) -> Any:
        try:
            return call()
        except Exception as error:  # onnxruntime's exceptions share no public base class
            first = (str(error).strip() or type(error).__name__).splitlines()[0]
            raise BackendError(
                f"{graph} to run on {self.facts.runtime} ({self.facts.device})",
                first[:300],
                "free memory, or use fewer pixels",
            ) from None

    def _allocate(self) -> ort.OrtValue:
        shape = [self.capacity, *self._row]
        return ort.OrtValue.ortvalue_from_shape_and_type(shape, self._kv_dtype, "cpu", 0)

    def _bind(self, bind: Any, name: str, buffer: ort.OrtValue, tokens: int) -> None:
        bind(name, "cpu", 0, self._kv_dtype, [tokens, *self._row], buffer.data_ptr())

    def _require_deepstack(self, count: int) -> None:
        known = [v.name for v in self._sessions[DECODER].get_inputs() if v.name.startswith("deepstack_")]
        if len(known) != count:
            raise BackendError(
                f"{DECODER} with {count} deep-stack inputs, as the manifest says", f"{len(known)}", "rebuild the bundle"
            )

    def _open(self, path: Path, threads: int | None, optimised: bool) -> ort.InferenceSession:
        options = ort.SessionOptions()
        if not optimised:
            options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
        options.log_severity_level = 4
        options.intra_op_num_threads = threads or 0
        options.add_session_config_entry(FLOAT_ACTIVATIONS, "1")
        try:
            return ort.InferenceSession(str(path), options, providers=[PROVIDER])
        except Exception as error:  # onnxruntime's exceptions share no public base class
            first = (str(error).strip() or type(error).__name__).splitlines()[0]
            raise BackendError(f"{path.name} to load into ONNX Runtime", first[:300], "rebuild the bundle") from None
