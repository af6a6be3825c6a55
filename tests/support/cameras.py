"""A camera whose reads fail when a test wants it."""

from __future__ import annotations

from collections.abc import Iterable

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray

from egm_edge import webcam


class FlakyCamera:
    """In the place of cv2.VideoCapture: gives a frame, its level its number, where `good` says so; none from its end on."""

    def __init__(self, good: Iterable[bool]) -> None:
        self._good = iter(good)
        self.reads = self.given = 0
        self.released = False

    def installed(self, monkeypatch: pytest.MonkeyPatch) -> FlakyCamera:
        """Whatever camera is opened is this one, and nobody waits between its reads."""
        monkeypatch.setattr(cv2, "VideoCapture", lambda where: self)
        monkeypatch.setattr(webcam, "BETWEEN_READS_S", 0.0)
        return self

    def isOpened(self) -> bool:  # noqa: N802
        return True

    def read(self) -> tuple[bool, NDArray[np.uint8] | None]:
        self.reads += 1
        if not next(self._good, False):
            return False, None
        self.given += 1
        return True, np.full((48, 64, 3), self.given - 1, np.uint8)

    def release(self) -> None:
        self.released = True
