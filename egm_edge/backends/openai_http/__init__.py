"""Grounding through an OpenAI-compatible server: SGLang, vLLM, trtllm-serve, TensorRT Edge-LLM's, or `egm serve`."""

from egm_edge.backends.openai_http.remote_grounder import RemoteFrame, RemoteGrounder

__all__ = ["RemoteFrame", "RemoteGrounder"]
