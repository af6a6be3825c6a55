"""The hash of a spec: sha256 of its canonical JSON. Knows nothing of what the values mean."""

from __future__ import annotations

import hashlib
import json
from typing import Any


def canonical_hash(values: dict[str, Any]) -> str:
    """sha256 of the canonical JSON of a spec: sorted keys, no blanks, UTF-8."""
    text = json.dumps(values, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    return hashlib.sha256(text.encode()).hexdigest()
