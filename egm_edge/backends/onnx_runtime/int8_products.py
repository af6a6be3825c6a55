"""Whether this processor multiplies u8 by s8 exactly in ONNX Runtime, asked of the processor itself.

Without VNNI instructions (x86-64 before 2019) pairs of products are added in 16 bits and saturate; the session option
`session.x64quantprecision` then keeps them exact. /proc/cpuinfo names the host's processor under emulation, so a product is run.
"""

from __future__ import annotations

import base64
from functools import lru_cache

import numpy as np
import onnxruntime as ort

from egm_edge.machine import cpu_flags

# One MatMulInteger node: a uint8 [1, 64] times b int8 [64, 16].
_PRODUCT = base64.b64decode(
    "CAg6XAoYCgFhCgFiEgFjIg1NYXRNdWxJbnRlZ2VyEgFwWhMKAWESDgoMCAISCAoCCAEKAghAWhMKAWISDgoMCAMSCAoCCEAKAggQYhMKAWMSDgoMCAYSCAoC"
    "CAEKAggQQgQKABAN"
)
EXACT_PRODUCTS = {"session.x64quantprecision": "1"}
_NEEDS_EXACTNESS = ("vnni", "avx512", "amx")


@lru_cache(maxsize=1)
def saturates() -> bool:
    """Whether the largest products lose bits here."""
    session = ort.InferenceSession(_PRODUCT, providers=["CPUExecutionProvider"])
    product = session.run(None, {"a": np.full((1, 64), 255, np.uint8), "b": np.full((64, 16), 127, np.int8)})[0]
    return bool((product != 64 * 255 * 127).any())


def product_options() -> dict[str, str]:
    """Session options that make 8-bit products exact where they would not be."""
    return EXACT_PRODUCTS if saturates() else {}


def instruction_set() -> str:
    """What decides how 8-bit products are computed here, for reports: "avx2 avx512_vnni", "avx2, exact products asked for"."""
    flags = [flag for flag in cpu_flags() if not (saturates() and any(word in flag for word in _NEEDS_EXACTNESS))]
    return " ".join(flags) + (", exact products asked for" if saturates() else "")
