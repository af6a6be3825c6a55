"""A camera through OpenCV, which may fail to give a frame now and then (a busy bus, a loose plug) and go on after.

Knows nothing of where its frames go.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from egm_edge.errors import InputError

if TYPE_CHECKING:
    import cv2

MOST_FAILED_READS = 10
BETWEEN_READS_S = 0.1  # a device that is gone fails at once; one that comes back takes a moment


class CameraLostError(InputError):
    """A camera that was there gives no more frames."""


def read_camera(capture: cv2.VideoCapture, name: str) -> NDArray[np.uint8]:
    """The next frame, [H, W, 3] uint8 BGR; failed reads are tried again.

    Raises:
        CameraLostError: MOST_FAILED_READS reads in a row gave none.
    """
    for attempt in range(MOST_FAILED_READS):
        if attempt:
            time.sleep(BETWEEN_READS_S)
        got, frame = capture.read()
        if got and frame is not None:
            return np.asarray(frame, np.uint8)
    found = f"{MOST_FAILED_READS} failed reads in a row"
    raise CameraLostError(f"a frame of {name}", found, "check its plug and whether another program has it")
