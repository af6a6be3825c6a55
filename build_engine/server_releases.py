"""Which releases of which server a bundle asks for: facts only, for the table of targets and the bundles' requirements.txt."""

from __future__ import annotations

from collections.abc import Mapping

# Server -> family that it serves -> its releases, both ends. Left out are those known to shift boxes (docs/datacenter.md).
# SGLang before 0.5.10 has no class at all that sees pictures for InternVL3 in this layout.
SERVER_RELEASES: Mapping[str, Mapping[str, str]] = {
    "tensorrt-llm": {"qwen3_vl": ">=1.3.0rc7,<1.4"},
    "vllm": dict.fromkeys(("qwen3_vl", "internvl3"), ">=0.11.0,!=0.11.1,!=0.11.2,!=0.12.0,<=0.33.0"),
    "sglang": {"qwen3_vl": ">=0.5.5,!=0.5.17,<=0.5.23", "internvl3": ">=0.5.10,!=0.5.17,<=0.5.23"},
}
READ_ON = "28 November 2026: options and model classes of the first and last release read; none was run on a GPU"
