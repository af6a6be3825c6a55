"""Backends: what runs a bundle. `open_backend` picks by the manifest's target and loads only that one."""

from __future__ import annotations

import logging
from collections.abc import Callable

from egm_edge.backends.base import Backend, Capabilities, EngineFrame, RuntimeFacts
from egm_edge.backends.text_runtime import HTTP, TENSORRT_LLM, TEXT_GROUNDERS
from egm_edge.bundle import Bundle
from egm_edge.bundle_from_checkpoint import TARGET as CHECKPOINT_TARGET
from egm_edge.decoding.session import Session
from egm_edge.errors import BackendError

__all__ = ["Backend", "Capabilities", "EngineFrame", "RuntimeFacts", "Session", "load_backend", "open_backend"]

_log = logging.getLogger(__name__)


def open_backend(bundle: Bundle, *, memory: str = "auto", threads: int | None = None) -> Backend:
    """As `load_backend`, and warn when nobody has shown that the bundle gives its checkpoint's boxes."""
    if doubt := _parity_warning(bundle):
        _log.warning("%s: %s; run `egm verify %s --reference CHECKPOINT`", bundle.root, doubt, bundle.root)
    return load_backend(bundle, memory=memory, threads=threads)


def load_backend(bundle: Bundle, *, memory: str = "auto", threads: int | None = None) -> Backend:
    """Load the backend that runs `bundle`.

    Args:
        memory: "auto", "fast" or "low"; see `onnx_runtime.sessions.MemoryMode`.
        threads: compute threads; None for one per physical core.

    Raises:
        BackendError: no backend for this target, or its runtime is missing.
    """
    target, path = bundle.manifest.target, repr(str(bundle.root))
    serve = f"start {bundle.root}/serve.sh and ask it with RemoteGrounder.from_url(URL, served_model={path})"
    runtime = bundle.manifest.text_runtime
    if runtime == HTTP:
        raise BackendError("a bundle that runs in this process", f"one for the server {target}", serve)
    if runtime:
        hint = f"open it with egm_edge.open_grounder({path}), which takes {TEXT_GROUNDERS.get(runtime, runtime)}"
        raise BackendError(
            "a bundle whose runtime gives logits",
            f"one for {target}, whose runtime answers whole requests",
            f"{hint}, or {serve}" if runtime == TENSORRT_LLM else hint,
        )
    if target not in _BACKENDS:
        raise BackendError(
            f"a bundle for {', '.join(sorted(_BACKENDS))}",
            f"target {target!r}",
            "build it with `egm build … --target cpu`",
        )
    return _BACKENDS[target](bundle, memory, threads)


def _parity_warning(bundle: Bundle) -> str:
    """Why the bundle's boxes may not be its checkpoint's, "" when a parity report vouches for this very content."""
    if bundle.manifest.target == CHECKPOINT_TARGET:
        return ""  # it is the checkpoint
    parity = bundle.manifest.parity
    if parity["status"] == "failed":
        return f"this bundle FAILED its parity check at {parity.get('first_divergence') or 'an unnamed stage'}"
    if parity["status"] != "verified":
        return "this bundle was never compared with its checkpoint"
    if parity.get("content_sha256", bundle.hash) != bundle.hash:
        return "this bundle was changed after it was compared with its checkpoint"
    return ""


def _onnx_runtime(bundle: Bundle, memory: str, threads: int | None) -> Backend:
    try:
        from egm_edge.backends.onnx_runtime.backend import OnnxBackend
    except ImportError as error:
        raise BackendError("onnxruntime", str(error), "pip install onnxruntime") from None
    return OnnxBackend(bundle, memory=memory, threads=threads)


def _tensorrt_rtx(bundle: Bundle, memory: str, threads: int | None) -> Backend:
    from egm_edge.backends.portable.backend import PortableBackend
    from egm_edge.backends.tensorrt_rtx import RtxRunner, import_runtime

    return PortableBackend(bundle, RtxRunner(bundle, *import_runtime()))


def _torch(bundle: Bundle, memory: str, threads: int | None) -> Backend:
    try:
        from egm_edge.backends.torch_gpu.backend import TorchBackend
    except ImportError as error:
        raise BackendError("torch and safetensors", str(error), "pip install 'egm-edge[gpu]'") from None
    return TorchBackend(bundle)


def _checkpoint(bundle: Bundle, memory: str, threads: int | None) -> Backend:
    """On a GPU this project's own engine in 16 bits; on a CPU transformers in float32, the reference of everything."""
    try:
        import torch
    except ImportError:
        on_gpu = False  # what is missing is told by TransformersBackend
    else:
        on_gpu = torch.cuda.is_available()
    if on_gpu:
        return _torch(bundle, memory, threads)
    from egm_edge.backends.transformers_backend import TransformersBackend

    return TransformersBackend(bundle, threads=threads)


_BACKENDS: dict[str, Callable[[Bundle, str, int | None], Backend]] = {
    "cpu": _onnx_runtime,
    "rtx": _tensorrt_rtx,
    "torch": _torch,
    CHECKPOINT_TARGET: _checkpoint,
}
