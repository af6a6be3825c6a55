"""OpenCV's own trackers as followers: CSRT and KCF where opencv-contrib is installed, ViT and Nano with model files you name.

They say where, not how surely: the grounded look judges that, as it does for every follower.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable
from typing import Any

import cv2
import numpy as np

from egm_edge.errors import InputError, message_of
from egm_edge.tracking.alignment.appearance import Appearance
from egm_edge.tracking.alignment.extent import Extent
from egm_edge.tracking.follower import Follower, Prediction, Sighting
from egm_edge.tracking.frames import SmallFrame
from egm_edge.tracking.similarity import Similarity

# Logistic regression of IoU >= 0.5 on the agreement of the grounded look alone: weight, constant.
AGREEMENT_WEIGHTS = (17.2, -14.4)
MODEL_FILES = {"csrt": 0, "kcf": 0, "vit": 1, "nano": 2}


def opencv_maker(name: str, model_files: tuple[str, ...]) -> Callable[[], Any]:
    """What makes OpenCV's tracker of that name.

    Args:
        name: csrt, kcf, vit or nano.
        model_files: ONNX files: one for vit; backbone and head for nano; none for the others.

    Raises:
        InputError: it is not installed, or needs other files, or cannot read them.
    """
    if len(model_files) != MODEL_FILES[name]:
        expected = f"{MODEL_FILES[name]} model files for the follower {name!r}"
        raise InputError(
            expected, f"{len(model_files)}", "name ONNX files from OpenCV's model zoo, backbone before head"
        )
    maker = getattr(
        cv2, {"csrt": "TrackerCSRT", "kcf": "TrackerKCF", "vit": "TrackerVit", "nano": "TrackerNano"}[name], None
    )
    if maker is None:
        found = f"OpenCV {cv2.__version__} without it"
        raise InputError(f"OpenCV with the follower {name!r}", found, "pip install opencv-contrib-python-headless")
    if not model_files:
        return lambda: maker.create()
    parameters = getattr(cv2, f"{maker.__name__}_Params")()
    for attribute, path in zip(("net",) if name == "vit" else ("backbone", "neckhead"), model_files, strict=True):
        setattr(parameters, attribute, path)
    try:
        maker.create(parameters)
    except cv2.error as error:
        wanted = f"ONNX files that the follower {name!r} can read"
        raise InputError(wanted, message_of(error, 200), "check their paths") from error
    return lambda: maker.create(parameters)


class OpenCvFollower:
    """One object followed by one of OpenCV's trackers, upright.

    Args:
        frame, pose, half_wh, phase, before: as every follower's; it does the same in every frame and knows one answer.
        make: makes the tracker.
    """

    def __init__(
        self,
        frame: SmallFrame,
        pose: Similarity,
        half_wh: tuple[float, float],
        phase: float,
        before: Follower | None,
        make: Callable[[], Any],
    ) -> None:
        self.extent = Extent(half_wh, None)
        self._look, self._half_wh, self._tracker = Appearance(frame, pose, half_wh), half_wh, make()
        corner = pose.shift - complex(*half_wh)
        rectangle = (
            round(corner.real),
            round(corner.imag),
            max(2, round(2 * half_wh[0])),
            max(2, round(2 * half_wh[1])),
        )
        with contextlib.suppress(cv2.error):  # too small or too large for it: not found in any frame
            self._tracker.init(_three_channels(frame), rectangle)

    def find(self, frame: SmallFrame, prediction: Prediction) -> Sighting:
        found, (x, y, width, height) = False, (0, 0, 0, 0)
        with contextlib.suppress(cv2.error):  # CSRT raises at the image's border
            found, (x, y, width, height) = self._tracker.update(_three_channels(frame))
        if not found or min(width, height) < 1:
            return Sighting(prediction.expected, 0.0)
        scale = math.sqrt(width * height / (4 * self._half_wh[0] * self._half_wh[1]))
        pose = Similarity(complex(max(scale, 1e-3)), complex(x + width / 2, y + height / 2))
        weight, constant = AGREEMENT_WEIGHTS
        return Sighting(pose, 1 / (1 + math.exp(-(weight * self._look.judge(frame, pose).agreement + constant))))


def _three_channels(frame: SmallFrame) -> np.ndarray[Any, Any]:
    image = frame.levels[0]
    return image if image.shape[2] == 3 else cv2.cvtColor(image, cv2.COLOR_GRAY2RGB)
