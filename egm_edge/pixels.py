"""PixelSpec and the image -> patches path: the only owner of resizing and patch order.

Equal to the Hugging Face image processor of the same checkpoint: same grid, and the same patches value for value as its
Pillow backend (its torchvision backend differs from its own Pillow one by up to one grey level where a resize happens).
Knows nothing of prompts, engines or image files. Patches stay uint8: normalisation is a fixed affine map that the engine's
first layer applies, and `normalise` gives the processor's float view of them.
"""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from egm_edge._resample import resize_bicubic
from egm_edge.errors import BundleError, CheckpointError, InputError
from egm_edge.hashing import canonical_hash

MAX_ASPECT_RATIO = 200
SMART_RESIZE = "smart_resize"
TILES = "tiles"


@dataclass(frozen=True, slots=True)
class Pixels:
    """One image, ready for the vision tower.

    Attributes:
        patches: uint8. qwen3_vl: [N, 3*P*P], channel-major inside a patch, patches in merge-block order (the order of
            the Hugging Face processor), the duplicated temporal half left out. internvl3: [T, 3, S, S] tiles.
        grid_hw: rows and columns of patches (qwen3_vl) or of tiles without the thumbnail (internvl3).
        image_wh: width and height of the original image, pixels.
        image_token_count: pad tokens that this image occupies in the prompt.
    """

    patches: NDArray[np.uint8]
    grid_hw: tuple[int, int]
    image_wh: tuple[int, int]
    image_token_count: int


@dataclass(frozen=True, slots=True, kw_only=True)
class PixelSpec:
    """How an image becomes patches; hashed, and carried from checkpoint to robot.

    Attributes:
        rule: "smart_resize" (qwen3_vl: sides rounded to patch_size * merge_size, area within min_pixels..max_pixels) or
            "tiles" (internvl3: the grid of square tiles nearest in aspect ratio, plus a thumbnail when there are several).
        mean, std: per channel RGB, of values scaled to 0-1.
        patch_size, merge_size, temporal_patch_size, min_pixels, max_pixels: smart_resize only, 0 for tiles.
        tile_size, min_tiles, max_tiles, tokens_per_tile: tiles only, 0 for smart_resize; the thumbnail is not counted.
    """

    rule: str
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    patch_size: int = 0
    merge_size: int = 0
    temporal_patch_size: int = 0
    min_pixels: int = 0
    max_pixels: int = 0
    tile_size: int = 0
    min_tiles: int = 0
    max_tiles: int = 0
    tokens_per_tile: int = 0

    def __post_init__(self) -> None:
        needed = _FIELDS_OF_RULE.get(self.rule)
        if needed is None:
            raise BundleError(f"pixel rule {SMART_RESIZE!r} or {TILES!r}", repr(self.rule), "rebuild the bundle")
        problems = [f"{name}={getattr(self, name)!r}" for name in needed if getattr(self, name) < 1]
        problems += [f"{name}={value}" for name, value in (("mean", self.mean), ("std", self.std)) if len(value) != 3]
        problems += [f"std={self.std}"] if min(self.std, default=1.0) <= 0 else []
        problems += ["min_pixels > max_pixels"] if self.min_pixels > self.max_pixels else []
        problems += ["min_tiles > max_tiles"] if self.min_tiles > self.max_tiles else []
        if problems:
            raise BundleError(f"a consistent {self.rule} pixel spec", ", ".join(problems), "rebuild the bundle")

    @classmethod
    def from_checkpoint(cls, directory: Path | str) -> PixelSpec:
        """The spec of a Hugging Face checkpoint directory, from its image-processor settings.

        Raises:
            CheckpointError: the settings are missing, or ask for something this path does not do.
        """
        from egm_edge._processor_config import read_pixel_settings

        settings = read_pixel_settings(Path(directory))
        try:
            return cls(**settings)
        except BundleError as error:
            raise CheckpointError(error.expected, error.found, f"check the processor settings in {directory}") from None

    def to_dict(self) -> dict[str, Any]:
        """A JSON-ready dict, the basis of the hash."""
        return asdict(self) | {"mean": list(self.mean), "std": list(self.std)}

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> PixelSpec:
        """Inverse of `to_dict`; unknown and missing keys are an error."""
        names = {f.name for f in fields(cls)}
        if values.keys() != names:
            odd = ", ".join(sorted(values.keys() ^ names))
            raise BundleError("a pixel spec of this version", f"missing or unknown keys {odd}", "rebuild the bundle")
        return cls(**values | {"mean": tuple(values["mean"]), "std": tuple(values["std"])})

    @property
    def hash(self) -> str:
        return canonical_hash(self.to_dict())

    @property
    def area_limits(self) -> dict[str, int]:
        """`size` of the checkpoint's own processor (smart_resize only): areas in pixels, whatever its keys say."""
        return {"longest_edge": self.max_pixels, "shortest_edge": self.min_pixels}

    @property
    def area(self) -> int:
        """Pixels of the largest picture after resizing, thumbnail included: the budget that `with_max_pixels` takes."""
        return (self.max_tiles + 1) * self.tile_size**2 if self.rule == TILES else self.max_pixels

    def with_max_pixels(self, max_pixels: int) -> PixelSpec:
        """The same spec with at most `max_pixels` pixels after resizing (tiles: thumbnail included), for a token budget.

        As in the processor, sides never fall below one token, so a very long picture may exceed a very small budget.

        Raises:
            InputError: too few for a single image token (or tile).
        """
        unit = self.tile_size if self.rule == TILES else self.patch_size * self.merge_size
        if max_pixels < unit * unit:
            raise InputError(f"a pixel budget of at least {unit * unit}", str(max_pixels), "raise the budget")
        if self.rule == SMART_RESIZE:
            # Small pictures are enlarged to min_pixels rounded *up*, so a minimum at the budget would break it.
            smallest = self.min_pixels if self.min_pixels <= max_pixels else unit * unit
            return replace(self, max_pixels=max_pixels, min_pixels=smallest)
        affordable = max_pixels // (unit * unit)
        tiles = affordable - 1 if affordable >= 3 else 1
        return replace(self, max_tiles=tiles, min_tiles=min(self.min_tiles, tiles))

    def resized_hw(self, height_px: int, width_px: int) -> tuple[int, int]:
        """Height and width that an image is resized to (tiles: of the tiled canvas, thumbnail apart)."""
        if self.rule == TILES:
            rows, columns = _tile_grid(self, height_px, width_px)
            return rows * self.tile_size, columns * self.tile_size
        return _smart_resize(self, height_px, width_px)

    def resized_wh(self, width_px: int, height_px: int) -> tuple[int, int]:
        """As `resized_hw`, width first on both sides."""
        return self.resized_hw(height_px, width_px)[::-1]

    def image_token_count(self, width_px: int, height_px: int) -> int:
        """Pad tokens that an image of this size occupies in the prompt, thumbnail included."""
        height, width = self.resized_hw(height_px, width_px)
        if self.rule == TILES:
            tiles = (height // self.tile_size) * (width // self.tile_size)
            return (tiles + (tiles > 1)) * self.tokens_per_tile
        return (height // self.patch_size) * (width // self.patch_size) // self.merge_size**2


_FIELDS_OF_RULE = {
    SMART_RESIZE: ("patch_size", "merge_size", "temporal_patch_size", "min_pixels", "max_pixels"),
    TILES: ("tile_size", "min_tiles", "max_tiles", "tokens_per_tile"),
}


def preprocess(image_rgb: NDArray[np.uint8], spec: PixelSpec) -> Pixels:
    """Resize and cut one image.

    Args:
        image_rgb: [H, W, 3] uint8 RGB.

    Returns:
        Pixels; `patches` is a fresh C-contiguous array.

    Raises:
        InputError: not an HWC uint8 RGB array, empty, or (smart_resize) more than 200 times as long as wide.
    """
    if not (isinstance(image_rgb, np.ndarray) and image_rgb.dtype == np.uint8 and image_rgb.ndim == 3):
        raise InputError("an HWC uint8 image", _describe(image_rgb), "load it with egm_edge.images.load_image")
    height, width, channels = image_rgb.shape
    if channels != 3 or not height or not width:
        raise InputError(
            "a non-empty image with 3 channels", _describe(image_rgb), "load it with egm_edge.images.load_image"
        )
    image = np.ascontiguousarray(image_rgb)
    canvas = resized(image, spec)
    resized_height, resized_width = canvas.shape[:2]
    if spec.rule == TILES:
        grid_hw = (resized_height // spec.tile_size, resized_width // spec.tile_size)
        thumbnail = resize_bicubic(image, spec.tile_size, spec.tile_size) if grid_hw != (1, 1) else None
        tiles = _cut_tiles(canvas, spec.tile_size, thumbnail)
        return Pixels(tiles, grid_hw, (width, height), len(tiles) * spec.tokens_per_tile)
    patches = _cut_patches(canvas, spec.patch_size, spec.merge_size)
    grid_hw = (resized_height // spec.patch_size, resized_width // spec.patch_size)
    return Pixels(patches, grid_hw, (width, height), len(patches) // spec.merge_size**2)


def resized(image_rgb: NDArray[np.uint8], spec: PixelSpec) -> NDArray[np.uint8]:
    """The whole picture at the size that patches (tiles: without the thumbnail) are cut from, [H, W, 3] uint8 RGB."""
    height, width = spec.resized_hw(*image_rgb.shape[:2])
    return resize_bicubic(np.ascontiguousarray(image_rgb), width, height)


def normalise(pixels: Pixels, spec: PixelSpec, *, duplicate_temporal: bool = True) -> NDArray[np.float32]:
    """The Hugging Face processor's `pixel_values` of these patches, float32.

    Args:
        duplicate_temporal: repeat a still image over the temporal patch, as the processor does (smart_resize only).

    Returns:
        smart_resize: [N, 3*T*P*P] with T the temporal patch size (T = 1 without the duplicate); tiles: [T, 3, S, S].
    """
    table = normalised_levels(spec)
    by_channel = pixels.patches.reshape(len(pixels.patches), 3, -1)  # [N, 3, P*P]
    values = np.empty(by_channel.shape, np.float32)
    for channel in range(3):
        values[:, channel] = table[channel][by_channel[:, channel]]
    if spec.rule == TILES:
        return values.reshape(pixels.patches.shape)
    if duplicate_temporal:
        values = np.repeat(values[:, :, None], spec.temporal_patch_size, axis=2)  # [N, 3, T, P*P]
    return values.reshape(len(values), -1)


def normalised_levels(spec: PixelSpec) -> NDArray[np.float32]:
    """What each grey level of each channel becomes, [3, 256], in the processor's own order of operations, so that equal pixels
    give equal floats."""
    levels = (np.arange(256, dtype=np.float64) * (1 / 255)).astype(np.float32)[None, :]  # [1, 256]
    mean, std = (np.asarray(v, np.float32)[:, None] for v in (spec.mean, spec.std))
    return np.asarray((levels - mean) / std)


def _smart_resize(spec: PixelSpec, height: int, width: int) -> tuple[int, int]:
    """Qwen2-VL's rule (transformers: qwen2_vl/image_processing_qwen2_vl.py, smart_resize)."""
    if max(height, width) / min(height, width) > MAX_ASPECT_RATIO:
        raise InputError(
            f"an image at most {MAX_ASPECT_RATIO} times as long as wide", f"{width}x{height} pixels", "crop the image"
        )
    unit = spec.patch_size * spec.merge_size
    rounded_height, rounded_width = round(height / unit) * unit, round(width / unit) * unit
    area = rounded_height * rounded_width
    if area > spec.max_pixels:
        shrink = math.sqrt(height * width / spec.max_pixels)
        return tuple(max(unit, math.floor(side / shrink / unit) * unit) for side in (height, width))  # type: ignore[return-value]
    if area < spec.min_pixels:
        grow = math.sqrt(spec.min_pixels / (height * width))
        return tuple(math.ceil(side * grow / unit) * unit for side in (height, width))  # type: ignore[return-value]
    return rounded_height, rounded_width


def _tile_grid(spec: PixelSpec, height: int, width: int) -> tuple[int, int]:
    """Rows and columns of tiles (transformers: got_ocr2/image_processing_got_ocr2.py, get_optimal_tiled_canvas)."""
    if spec.max_tiles == 1:
        return 1, 1
    counts = range(1, spec.max_tiles + 1)
    grids = [(r, c) for c in counts for r in counts if spec.min_tiles <= r * c <= spec.max_tiles]
    best, best_difference = (1, 1), math.inf
    for rows, columns in sorted(grids, key=lambda grid: grid[0] * grid[1]):
        difference = abs(width / height - columns / rows)
        # On a tie the larger grid wins, but only while the image fills at least half of it.
        fills = width * height > 0.5 * spec.tile_size**2 * rows * columns
        if difference < best_difference or (difference == best_difference and fills):
            best, best_difference = (rows, columns), difference
    return best


def _cut_tiles(canvas: NDArray[np.uint8], size: int, thumbnail: NDArray[np.uint8] | None) -> NDArray[np.uint8]:
    rows, columns = canvas.shape[0] // size, canvas.shape[1] // size
    count = rows * columns
    tiles = np.empty((count + (thumbnail is not None), 3, size, size), np.uint8)
    blocks = tiles[:count].reshape(rows, columns, 3, size, size)
    blocks[...] = _planes(canvas).reshape(3, rows, size, columns, size).transpose(1, 3, 0, 2, 4)
    if thumbnail is not None:
        tiles[count] = _planes(thumbnail)
    return tiles


def _cut_patches(canvas: NDArray[np.uint8], patch: int, merge: int) -> NDArray[np.uint8]:
    rows, columns = canvas.shape[0] // patch, canvas.shape[1] // patch
    # A row of a patch moves as one item: transposing items of 16 bytes is 10 times faster than single bytes.
    items = _planes(canvas).view(np.dtype((np.void, patch)))
    items = items.reshape(3, rows // merge, merge, patch, columns // merge, merge)
    blocks = np.ascontiguousarray(items.transpose(1, 4, 2, 5, 0, 3))
    return blocks.view(np.uint8).reshape(rows * columns, 3 * patch * patch)


def _planes(image: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """[H, W, 3] to contiguous [3, H, W]."""
    import cv2  # the fastest de-interleave there is; imported late because specs are read without it

    planes = np.empty((3, *image.shape[:2]), np.uint8)
    cv2.split(image, [planes[0], planes[1], planes[2]])
    return planes


def _describe(value: object) -> str:
    if isinstance(value, np.ndarray):
        return f"a {value.dtype} array of shape {value.shape}"
    return f"a {type(value).__name__}"
