"""PixelSpec and the image -> patches path: the only owner of resizing and patch order.

Equal to the Hugging Face image processor of the same checkpoint (same grid, same patches within one grey level where a
resize happens, identical where none does). Knows nothing of prompts, engines or files. Patches stay uint8: normalisation
is a fixed affine map that the engine's first layer applies, and `normalise` gives the processor's float view of them.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True, slots=True)
class Pixels:
    """One image, ready for the vision tower.

    Attributes:
        patches: uint8. qwen3_vl: [N, 3*P*P], channel-major inside a patch, patches in merge-block order (the order of
            the Hugging Face processor), the duplicated temporal half left out. internvl3: [T, 3, S, S] tiles.
        grid_hw: rows and columns of patches (qwen3_vl) or of tiles without the thumbnail (internvl3).
        image_wh: width and height of the original image, pixels.
        image_token_count: pad tokens that this image occupies in the prompt.
    """

    patches: NDArray[np.uint8]
    grid_hw: tuple[int, int]
    image_wh: tuple[int, int]
    image_token_count: int
