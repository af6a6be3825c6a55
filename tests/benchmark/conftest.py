"""The pictures that a bundle is measured on."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from egm_edge.draw import save_image


@pytest.fixture(scope="session")
def frames_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two pictures of soft noise, 96x64 and 64x80."""
    directory = tmp_path_factory.mktemp("frames")
    rng = np.random.default_rng(3)
    for name, (width, height) in {"a.png": (96, 64), "b.png": (64, 80)}.items():
        save_image(directory / name, rng.integers(0, 255, (height, width, 3), np.uint8))
    return directory
