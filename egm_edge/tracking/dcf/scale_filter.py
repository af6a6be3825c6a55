"""How much larger or smaller an object has become: a 1-D correlation filter over scales. Knows nothing of positions.

DSST (Danelljan et al., "Accurate Scale Estimation for Robust Visual Tracking", BMVC 2014), on 11 steps of 3 %.
"""

from __future__ import annotations

import math

import cv2
import numpy as np
from numpy.typing import NDArray

from egm_edge.tracking.dcf.features import CELL, orientation_cells
from egm_edge.tracking.dcf.spectral import vertex
from egm_edge.tracking.frames import SmallFrame, grey_of
from egm_edge.tracking.sampling import sample
from egm_edge.tracking.similarity import Similarity

SCALES, STEP = 11, 1.03
RATE = 0.025
AREA_PX2 = 400  # of the object's samples
_OFFSETS = np.arange(SCALES) - SCALES // 2
_LABEL = np.fft.rfft(np.exp(-0.5 * _OFFSETS**2.0)).astype(np.complex64)
_WINDOW = np.hanning(SCALES + 2)[1:-1].astype(np.float32)


class ScaleFilter:
    """Learns an object's size at one pose, tells it at others.

    Args:
        frame, pose: where the object is; pose as in `Similarity`, object coordinates to small pixels.
        half_wh: half width and height of its box in object coordinates.
    """

    def __init__(self, frame: SmallFrame, pose: Similarity, half_wh: tuple[float, float]) -> None:
        shrink = math.sqrt(AREA_PX2 / (4 * half_wh[0] * half_wh[1]))
        sides = (min(96, max(2 * CELL, CELL * round(2 * half * shrink / CELL))) for half in half_wh)
        self._size = (next(sides), next(sides))
        self._step = 1 / shrink
        features = self._features(frame, pose)
        self._numerator = _LABEL[:, None] * features.conj()
        self._energy = (features * features.conj()).real.sum(1)

    def estimate(self, frame: SmallFrame, pose: Similarity) -> float:
        """The factor by which the object at `pose` is larger than the pose says; learns it as well."""
        features = self._features(frame, pose)
        spectrum = (self._numerator * features).sum(1) / (self._energy + 0.01 * self._energy.mean())
        response = np.fft.irfft(spectrum, n=SCALES)
        best = min(max(int(response.argmax()), 1), SCALES - 2)
        steps = best - SCALES // 2 + vertex(*(float(response[i]) for i in (best - 1, best, best + 1)))
        shifted = _LABEL * np.exp(-2j * np.pi * np.arange(len(_LABEL)) * steps / SCALES).astype(np.complex64)
        self._numerator += RATE * (shifted[:, None] * features.conj() - self._numerator)
        self._energy += RATE * ((features * features.conj()).real.sum(1) - self._energy)
        return float(STEP**steps)

    def _features(self, frame: SmallFrame, pose: Similarity) -> NDArray[np.complex64]:
        """[SCALES // 2 + 1, D] spectra over scales of gradients and grey."""
        width, height = self._size
        tall = np.concatenate(
            [
                grey_of(sample(frame, Similarity(pose.turn * STEP ** float(k), pose.shift), self._size, self._step)[0])
                for k in _OFFSETS
            ]
        )
        cells = orientation_cells(tall).reshape(SCALES, height // CELL, width // CELL, -1)
        energy = np.sqrt(np.einsum("syxc,syxc->syx", cells, cells))
        energy += energy.mean((1, 2), keepdims=True) + 2.0
        gradients = (cells / energy[..., None]).reshape(SCALES, -1)
        small = cv2.resize(tall, (width // CELL, SCALES * height // CELL), interpolation=cv2.INTER_AREA)
        grey = small.reshape(SCALES, -1).astype(np.float32) * np.float32(2 / 255)
        grey -= grey.mean(1, keepdims=True)
        features = np.concatenate([gradients, grey], 1) * _WINDOW[:, None]
        return np.asarray(np.fft.rfft(features, axis=0), np.complex64)
