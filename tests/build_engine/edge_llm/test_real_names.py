"""The names that our runtime side uses, in NVIDIA's own native module (which loads on no machine without its GPU)."""

from __future__ import annotations

import json

from build_engine.edge_llm.environment import EdgeLlmEnvironment
from tests.backends.edge_llm_stand_in import NAMES


def test_every_name_of_the_stand_in_is_a_string_of_the_real_module(edge_llm: EdgeLlmEnvironment) -> None:
    [native] = edge_llm.root.glob("lib/python*/site-packages/tensorrt_edgellm/_native")
    variants = json.loads((native / "variants.json").read_text())["variants"]
    module = (native.parent / variants[0]["extension"]).read_bytes()
    unknown = [
        f"{kind}.{name}"
        for kind, names in NAMES.items()
        for name in (kind, *names)
        if f"{name}\0".encode() not in module
    ]
    assert unknown == []
    assert b"no_such_name_as_this\0" not in module
