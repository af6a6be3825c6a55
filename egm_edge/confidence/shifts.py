"""Shifts: what a camera does that training did not show. Pure functions on HWC uint8 RGB pictures, seeded."""

from __future__ import annotations

from collections.abc import Callable

import cv2
import numpy as np
from numpy.typing import NDArray

Picture = NDArray[np.uint8]
HUE_TURN = 8  # of OpenCV's 180: colours drift and keep their names


def blurred(image: Picture) -> Picture:
    """Out of focus: Gaussian of a standard deviation of 1/160 of the width."""
    return np.asarray(cv2.GaussianBlur(image, (0, 0), max(image.shape[1] / 160, 0.5)), np.uint8)


def noisy(image: Picture) -> Picture:
    """Sensor noise with a standard deviation of 20 grey levels."""
    noise = np.random.default_rng(0).normal(0.0, 20.0, image.shape)
    return np.clip(image + noise, 0, 255).astype(np.uint8)


def darker(image: Picture) -> Picture:
    """A third of the light."""
    return (image / 3.0).astype(np.uint8)


def other_palette(image: Picture) -> Picture:
    """Paler colours, turned a little round the hue circle."""
    hsv = cv2.cvtColor(image, cv2.COLOR_RGB2HSV).astype(np.int32)
    hsv[..., 0] = (hsv[..., 0] + HUE_TURN) % 180
    hsv[..., 1] = hsv[..., 1] * 6 // 10
    return np.asarray(cv2.cvtColor(hsv.astype(np.uint8), cv2.COLOR_HSV2RGB), np.uint8)


SHIFTS: dict[str, Callable[[Picture], Picture]] = {
    "blur": blurred,
    "noise": noisy,
    "darker": darker,
    "other palette": other_palette,
}
