"""ObjectFilter: shape, colour and scale of one object, learnt from frame to frame, and where they answer most."""

from __future__ import annotations

import math
from dataclasses import dataclass

import cv2
import numpy as np

from egm_edge.tracking.dcf import spectral as dcf
from egm_edge.tracking.dcf.colour_histogram import ColourHistogram
from egm_edge.tracking.dcf.features import CELL, window_features
from egm_edge.tracking.dcf.scale_filter import ScaleFilter
from egm_edge.tracking.frames import SmallFrame
from egm_edge.tracking.optical_flow import object_motion
from egm_edge.tracking.sampling import Floats, Pixels, sample
from egm_edge.tracking.similarity import Similarity

CELLS = 24  # a side of the search window
WINDOW = 3.0  # of the object's mean side
MIN_WINDOW = 1.3  # of its longer side
LABEL_SIGMA = 0.08  # of the object's mean side
MASK_GROWTH = 1.1
FIRST_LOOK_SHARE = 0.3  # of the response; the rest is the running filter's
COLOUR_SHARE = 0.3
LEARN_EVERY_NS = 100_000_000  # every third frame at 30 Hz, each at 10 Hz: looks change with time
KEEP_UP_EVERY_NS = 3 * LEARN_EVERY_NS
SIZE_EVERY_NS = 66_000_000
RATE, COLOUR_RATE = 0.06, 0.12
REUSE_CELLS = 1.5  # a window taken this near is shifted, not taken again
FAR_CELLS = 3.0
MIN_SHARE = 0.25  # of the newest answer in what all of them showed
ALIKE = 0.2  # response of those before: an answer that shows something else, or only what hides it, is half of what is known


@dataclass(frozen=True, slots=True, eq=False)
class Detection:
    """Where the filters and the colours together answer most.

    Attributes:
        pose: there.
        first_look, running: responses there of the filter of the first look and of the one that learns, 1 at the first look;
            with earlier answers the former is less there, as all of them are no more alike than that.
        colour: mean likelihood of the object's colours in the box there, 0-1.
        offset: from the window's centre, cells (x, y).
        pixels, spectra: the window, for learning.
    """

    pose: Similarity
    first_look: float
    running: float
    colour: float
    offset: tuple[float, float]
    pixels: Pixels
    spectra: dcf.Spectra

    @property
    def far(self) -> bool:
        """Whether it lies so far out that the window saw half of the object."""
        return max(abs(self.offset[0]), abs(self.offset[1])) > FAR_CELLS


class ObjectFilter:
    """What an object looked like at first and looks like now, as filters over a search window.

    Args:
        frame, pose: where it is; object coordinates to small pixels.
        half_wh: half width and height of its box, object coordinates.
        phase: 0-1, when in a period it learns.
        before: the same of an earlier answer. What one answer shows may be half hidden; what many show is the object.

    Attributes:
        previous: the frame before the next one, for flow.
    """

    def __init__(
        self,
        frame: SmallFrame,
        pose: Similarity,
        half_wh: tuple[float, float],
        phase: float,
        before: ObjectFilter | None = None,
    ) -> None:
        self._half_wh, self._phase = half_wh, phase
        mean_side = 2 * math.sqrt(half_wh[0] * half_wh[1])
        self._cell = max(WINDOW * mean_side, 2 * MIN_WINDOW * max(half_wh)) / CELLS  # object coordinates
        self._label = dcf.gaussian_label(CELLS, LABEL_SIGMA * mean_side / self._cell)
        half_cells = (half_wh[0] / self._cell, half_wh[1] / self._cell)
        self._mask = _mirrored_mask(*half_cells)
        pixels, spectra = self._window(frame, pose)
        first, looks, share = dcf.learn(spectra, self._label, self._mask), 1, 1.0
        peak = own_peak = _peak(first, spectra)
        if before:
            alike = dcf.height_near(dcf.respond(before._first[None], spectra)[0], (0, 0)) / before._peak
            looks += before._looks if alike > ALIKE else 1
            share = max(1 / looks, MIN_SHARE)
            first = before._first + share * (first - before._first)
            peak, own_peak = _peak(first, spectra), before._own_peak + share * (own_peak - before._own_peak)
        half_samples = (half_cells[0] * CELL, half_cells[1] * CELL)
        colours = before._colours if before else None
        self._colours: ColourHistogram = ColourHistogram(pixels, half_samples, colours, share)
        self._looks: int = looks
        self._first: dcf.Spectra = first
        self._own_peak: float = own_peak  # of one look's filter on that look, in the mean of them
        self._running = first
        self._peak: float = peak
        self._scale = ScaleFilter(frame, pose, half_wh)
        self.previous = frame
        self._learnt_ns = self._sized_ns = frame.stamp_ns

    def detect(self, frame: SmallFrame, about: Similarity) -> Detection:
        """The best place within the search window about a pose; its scale and angle stay."""
        pixels, spectra = self._window(frame, about)
        running, first = dcf.respond(np.stack([self._running, self._first]), spectra) / np.float32(self._peak)
        by_shape = FIRST_LOOK_SHARE * first + (1 - FIRST_LOOK_SHARE) * running
        by_colour = self._colours.respond(pixels, CELLS)
        peak = dcf.find_peak((1 - COLOUR_SHARE) * by_shape + COLOUR_SHARE * by_colour)
        pose = Similarity(about.turn, about(complex(peak.x, peak.y) * self._cell))
        first_look = dcf.height_near(first, peak.at) * self._peak / self._own_peak
        heights = first_look, dcf.height_near(running, peak.at)
        return Detection(pose, *heights, float(by_colour[peak.at]), (peak.x, peak.y), pixels, spectra)

    def by_flow(self, frame: SmallFrame, pose: Similarity) -> Similarity | None:
        """Where the object's points have gone since the previous frame; None where they cannot be followed, or rest."""
        half_wh = (self._half_wh[0] * pose.scale, self._half_wh[1] * pose.scale)
        shift = object_motion(self.previous.grey, frame.grey, pose.shift, half_wh)
        return None if shift is None or abs(shift) <= 1 else Similarity(pose.turn, pose.shift + shift)

    def sized(self, frame: SmallFrame, pose: Similarity) -> Similarity:
        """The pose with the scale that fits best there."""
        self._sized_ns = frame.stamp_ns
        return Similarity(pose.turn * self._scale.estimate(frame, pose), pose.shift)

    def learns(self, frame: SmallFrame) -> bool:
        """Whether it is time to learn again."""
        return self._due(frame, self._learnt_ns, LEARN_EVERY_NS)

    def keeps_up(self, frame: SmallFrame) -> bool:
        """The same while something else says where the object is."""
        return self._due(frame, self._learnt_ns, KEEP_UP_EVERY_NS)

    def sizes(self, frame: SmallFrame) -> bool:
        """Whether it is time to look for another scale."""
        return self._due(frame, self._sized_ns, SIZE_EVERY_NS)

    def _due(self, frame: SmallFrame, last_ns: int, every_ns: int) -> bool:
        offset_ns = int(self._phase * every_ns)
        return (frame.stamp_ns + offset_ns) // every_ns > (last_ns + offset_ns) // every_ns

    def learn(self, frame: SmallFrame, pose: Similarity, seen: Detection | None = None) -> float:
        """Learn how the object looks now; `seen` near the window's centre saves taking the window again.

        Returns:
            Response there of what was learnt before, 1 at the first look itself.
        """
        if seen is not None and max(abs(seen.offset[0]), abs(seen.offset[1])) <= REUSE_CELLS:
            pixels, spectra = seen.pixels, dcf.moved(seen.spectra, seen.offset)
        else:
            pixels, spectra = self._window(frame, pose)
        self._learnt_ns = frame.stamp_ns
        response = dcf.height_near(dcf.respond(self._running[None], spectra)[0], (0, 0)) / self._peak
        newer = dcf.learn(spectra, self._label, self._mask)
        self._running = self._running + np.float32(RATE) * (newer - self._running)
        self._colours.learn(pixels, COLOUR_RATE)
        return response

    def _window(self, frame: SmallFrame, pose: Similarity) -> tuple[Pixels, dcf.Spectra]:
        pixels = sample(frame, pose, (CELLS * CELL, CELLS * CELL), self._cell / CELL)[0]
        return pixels, dcf.spectra(window_features(pixels))


def _peak(learnt: dcf.Spectra, spectra: dcf.Spectra) -> float:
    return float(dcf.respond(learnt[None], spectra).max()) + 1e-6


def _mirrored_mask(half_width: float, half_height: float) -> Floats:
    """[CELLS, CELLS], 1 on the box of that many cells, soft at its edge; mirrored as a filter is."""
    away = np.abs(np.arange(CELLS) - (CELLS - 1) / 2)
    box = np.logical_and.outer(away <= MASK_GROWTH * half_height + 0.25, away <= MASK_GROWTH * half_width + 0.25)
    return np.asarray(np.roll(cv2.GaussianBlur(box.astype(np.float32), (3, 3), 0), (1, 1), (0, 1)), np.float32)
