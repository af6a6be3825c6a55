"""The masked multi-channel correlation filter and its response. Knows nothing of images.

CSR-DCF (Lukežič et al., "Discriminative Correlation Filter with Channel and Spatial Reliability", CVPR 2017): the filter of
each channel is zero outside the object's mask, found by one round of ADMM (four in the paper, which move no box here), and
weighted by how well its channel answers by itself.
Notation: C channels, N cells a side, M = N // 2 + 1; spectra are rfft2's. Responses have their origin at [0, 0].
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from egm_edge.tracking.sampling import Floats

Spectra = NDArray[np.complex64]

PENALTY = 0.1  # of the mean energy


def spectra(channels: Floats) -> Spectra:
    """[C, N, M] of [C, N, N]."""
    return np.asarray(np.fft.rfft2(channels), np.complex64)


def gaussian_label(side: int, sigma: float) -> Spectra:
    """[N, M] spectrum of the wanted response: a Gaussian of `sigma` cells about [0, 0]."""
    distance = np.minimum(np.arange(side), side - np.arange(side))
    one = np.exp(-0.5 * (distance / sigma) ** 2)
    return np.asarray(np.fft.rfft2(np.outer(one, one)), np.complex64)


def learn(window: Spectra, label: Spectra, mask: Floats) -> Spectra:
    """The filter whose product with `window`, summed over channels, is nearest to the label.

    Args:
        window: [C, N, M].
        label: [N, M].
        mask: [N, N], 1 where the filter may differ from 0: that of the window mirrored, as a filter is.

    Returns:
        [C, N, M], channel weights (sum 1) included.
    """
    energy = window.real**2 + window.imag**2
    wanted = window.conj() * label
    penalty = PENALTY * float(energy.mean()) + 1e-6
    masked = _masked(wanted * (1 / (energy + penalty)), mask)
    masked = _masked((wanted + penalty * masked) * (1 / (energy + penalty)), mask)
    peaks = np.maximum(np.fft.irfft2(masked * window, s=mask.shape).max((1, 2)), 1e-3)
    return np.asarray(masked * (peaks / peaks.sum())[:, None, None], np.complex64)


def _masked(spectrum: Spectra, mask: Floats) -> Spectra:
    return np.asarray(np.fft.rfft2(mask * np.fft.irfft2(spectrum, s=mask.shape)), np.complex64)


def respond(filters: Spectra, window: Spectra) -> Floats:
    """[K, N, N] responses of filters [K, C, N, M] to one window [C, N, M]."""
    side = window.shape[1]
    return np.asarray(np.fft.irfft2((filters * window).sum(1), s=(side, side)), np.float32)


def moved(window: Spectra, offset: tuple[float, float]) -> Spectra:
    """The window's spectra as if it had been taken `offset` (x, y) cells further on: a phase shift, exact inside."""
    side = window.shape[1]
    phase = offset[1] * np.fft.fftfreq(side)[:, None] + offset[0] * np.fft.rfftfreq(side)
    return np.asarray(window * np.exp(2j * np.pi * phase), np.complex64)


@dataclass(frozen=True, slots=True)
class Peak:
    """The highest place of a response: cells from its origin, -N/2 to N/2, sub-cell; `at` is its [row, column]."""

    x: float
    y: float
    at: tuple[int, int]
    height: float


def find_peak(response: Floats) -> Peak:
    """The maximum of [N, N], refined by a parabola along each axis."""
    side = response.shape[0]
    row, column = divmod(int(response.argmax()), side)
    top = float(response[row, column])
    y = row + vertex(float(response[row - 1, column]), top, float(response[(row + 1) % side, column]))
    x = column + vertex(float(response[row, column - 1]), top, float(response[row, (column + 1) % side]))
    half = side // 2
    return Peak((x + half) % side - half, (y + half) % side - half, (row, column), top)


def vertex(before: float, top: float, after: float) -> float:
    """Where the parabola through three values is highest, -0.5 to 0.5 from the middle one."""
    curvature = before + after - 2 * top
    return 0.0 if curvature >= 0 else max(-0.5, min(0.5, 0.5 * (before - after) / curvature))


def height_near(response: Floats, at: tuple[int, int]) -> float:
    """The highest of the 3 x 3 values about a row and column."""
    side = response.shape[0]
    rows, columns = ([(centre + k) % side for k in (-1, 0, 1)] for centre in at)
    return float(response[np.ix_(rows, columns)].max())
