"""One name for each weight of a checkpoint, whichever of the key layouts upstream has used.

`text.layers.0...`, `vision...`, `projector...`, `head.weight`. Knows nothing of files and tensors.
"""

from __future__ import annotations

import re

# transformers writes `model.language_model.*`; InternVL `-hf` files published before the 2025 rename write
# `language_model.model.*`, `vision_tower.*`, `multi_modal_projector.*` and `language_model.lm_head.*`.
_CANONICAL_PREFIXES = (
    (r"^(model\.)?language_model\.lm_head\.", "head."),
    (r"^lm_head\.", "head."),
    (r"^(model\.language_model|language_model\.model)\.", "text."),
    (r"^(model\.)?(visual|vision_tower)\.", "vision."),
    (r"^(model\.)?multi_modal_projector\.", "projector."),
)


def canonical_name(key: str) -> str:
    """The canonical name of a checkpoint key; unknown keys come back unchanged."""
    for pattern, replacement in _CANONICAL_PREFIXES:
        renamed, count = re.subn(pattern, replacement, key)
        if count:
            return renamed
    return key
