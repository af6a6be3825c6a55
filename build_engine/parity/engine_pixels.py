"""Pixels as the engine's first layer sees them: uint8 patches through the scale and offset that the vision graph holds.

Normalisation is folded into the graph, so a wrong constant there shows in no pixel of the host. Reading it back names the
stage that it belongs to.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from egm_edge.bundle import PORTABLE, Bundle
from egm_edge.pixels import TILES, Pixels, PixelSpec, normalise

SCALE, OFFSET = "pixel_scale", "pixel_offset"


def engine_pixels(bundle: Bundle, pixels: Pixels, spec: PixelSpec) -> NDArray[np.float32]:
    """Normalised pixels in the reference processor's layout; by the spec where the bundle holds no ONNX vision graph.

    Returns:
        smart_resize: [N, 3*T*P*P]; tiles: [T, 3, S, S].
    """
    graph = onnx_graph(bundle, "vision")
    constants = _constants(graph) if graph else {}
    if SCALE not in constants or OFFSET not in constants:
        return normalise(pixels, spec)
    scale, offset = (constants[name].astype(np.float32).reshape(3, -1) for name in (SCALE, OFFSET))
    by_channel = pixels.patches.reshape(len(pixels.patches), 3, -1).astype(np.float32)
    if spec.rule == TILES:  # one constant a channel, repeated over a patch
        return (by_channel * scale[:, :1] + offset[:, :1]).reshape(pixels.patches.shape)
    values = by_channel * scale + offset
    return np.repeat(values[:, :, None], spec.temporal_patch_size, axis=2).reshape(len(values), -1)


def onnx_graph(bundle: Bundle, name: str) -> Path | None:
    """Where a bundle's graph lies, or that which its engine was made of; None where it holds none."""
    places = (bundle.root / f"{folder}{name}.onnx" for folder in ("graphs/", PORTABLE))
    return next((path for path in places if path.is_file()), None)


def _constants(path: Path) -> dict[str, NDArray[np.float32]]:
    import onnx
    from onnx.external_data_helper import load_external_data_for_tensor, uses_external_data

    model = onnx.load(str(path), load_external_data=False)
    found = {}
    for tensor in model.graph.initializer:
        if tensor.name in (SCALE, OFFSET):
            if uses_external_data(tensor):
                load_external_data_for_tensor(tensor, str(path.parent))
            found[tensor.name] = onnx.numpy_helper.to_array(tensor)
    return found
