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
from egm_edge.tracking.frames import SmallFrame
from egm_edge.tracking.sampling import grid, level_for
from egm_edge.tracking.similarity import Similarity

SCALES, STEP = 11, 1.03
RATE = 0.05
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
        u, v = grid(self._size, self._step)
        self._places = np.concatenate([(u + 1j * v) * STEP ** float(k) for k in _OFFSETS]).astype(np.complex64)
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
        grey, (fx, fy) = level_for(frame.greys, self._step * pose.scale)
        x = self._places * pose.turn
        across = x.real * np.float32(fx) + np.float32(pose.shift.real * fx - 0.5)
        down = x.imag * np.float32(fy) + np.float32(pose.shift.imag * fy - 0.5)
        taken = cv2.remap(grey, across, down, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)
        tall = np.asarray(taken, np.uint8)
        cells = orientation_cells(tall).reshape(-1, SCALES, height // CELL * (width // CELL)).transpose(1, 0, 2)
        energy = np.sqrt(np.einsum("scp,scp->sp", cells, cells))
        energy += energy.mean(1, keepdims=True) + np.float32(2)
        gradients = (cells / energy[:, None]).reshape(SCALES, -1)
        small = cv2.resize(tall, (width // CELL, SCALES * height // CELL), interpolation=cv2.INTER_AREA)
        shades = small.reshape(SCALES, -1).astype(np.float32) * np.float32(2 / 255)
        shades -= shades.mean(1, keepdims=True)
        features = np.concatenate([gradients, shades], 1) * _WINDOW[:, None]
        return np.asarray(np.fft.rfft(features, axis=0), np.complex64)
