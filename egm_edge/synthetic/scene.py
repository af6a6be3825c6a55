"""Scene: what stands on the table, in normalised coordinates. Knows nothing of pixels or of questions.

Frame: x and y are 0-1 of image width and height, origin top-left. Lengths (`scale`) are fractions of
sqrt(width * height), so an object keeps its pixel area when the same scene is rendered at another aspect ratio.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from egm_edge.errors import InputError
from egm_edge.synthetic.vocabulary import COLOURS, EXTENT_WH, SHAPES, SIZES


@dataclass(frozen=True, slots=True)
class SceneObject:
    """One thing on the table.

    Attributes:
        shape, colour, size: words of `vocabulary`.
        x, y: centre of its outline, 0-1 of image width and height.
        scale: outline length at scale 1, fraction of sqrt(width * height).
        mirrored: drawn left-right flipped (a mug's handle).
        tint: per-channel RGB offset of its paint, grey levels.
        turn_deg: turned in the picture about (x, y), clockwise, degrees.
    """

    shape: str
    colour: str
    size: str
    x: float
    y: float
    scale: float
    mirrored: bool = False
    tint: tuple[int, int, int] = (0, 0, 0)
    turn_deg: float = 0.0

    def __post_init__(self) -> None:
        for value, known, noun in (
            (self.shape, SHAPES, "shape"),
            (self.colour, COLOURS, "colour"),
            (self.size, SIZES, "size"),
        ):
            if value not in known:
                raise InputError(
                    f"{noun} out of {', '.join(known)}", repr(value), "use a word of egm_edge.synthetic.vocabulary"
                )

    def outline(self, aspect: float) -> tuple[float, float, float, float]:
        """Amodal outline as if upright, xyxy, 0-1 of width and height, of an image `aspect` = width / height."""
        width, height = EXTENT_WH[self.shape]
        half_w = 0.5 * width * self.scale / math.sqrt(aspect)
        half_h = 0.5 * height * self.scale * math.sqrt(aspect)
        return (self.x - half_w, self.y - half_h, self.x + half_w, self.y + half_h)


@dataclass(frozen=True, slots=True)
class Surroundings:
    """Table, light and camera.

    Attributes:
        table_rgb: paint of the table, near neutral, grey levels.
        wall_rgb: what is behind the table's far edge.
        horizon: y of the far edge, 0-1; 0 when the table fills the frame.
        light: (dx, dy) brightness change across the frame, grey levels.
        texture: amplitude of the table's mottling, grey levels.
        grain: rows of planks drawn in perspective, 0 for none.
        gain: per-channel exposure and white balance factor.
        noise: standard deviation of sensor noise, grey levels.
        blur_px: standard deviation of lens blur, pixels of a 256-pixel-wide image.
        shadow: darkness of the soft shadows, 0-1.
        seed: of mottling and sensor noise.
    """

    table_rgb: tuple[int, int, int] = (160, 155, 148)
    wall_rgb: tuple[int, int, int] = (120, 120, 122)
    horizon: float = 0.0
    light: tuple[float, float] = (0.0, 0.0)
    texture: float = 4.0
    grain: int = 0
    gain: tuple[float, float, float] = (1.0, 1.0, 1.0)
    noise: float = 2.0
    blur_px: float = 0.0
    shadow: float = 0.35
    seed: int = 0


@dataclass(frozen=True, slots=True)
class Scene:
    """Objects on a table.

    Attributes:
        objects: in no particular order; the nearer one (lower outline bottom) hides the farther one.
        surroundings: table, light and camera.
        seed: the seed it was sampled from.
    """

    objects: tuple[SceneObject, ...]
    surroundings: Surroundings
    seed: int = 0
