"""Boxes and depth to metres, without ROS: known geometry in, the same geometry out."""

from __future__ import annotations

import math
from types import SimpleNamespace

import numpy as np
import pytest
from egm_ros.depth import Pinhole, depth_in_metres, locate

from egm_edge.boxes import Box
from egm_edge.errors import InputError

CAMERA = Pinhole(600.0, 610.0, 321.3, 238.7, (640, 480))


def message(values: np.ndarray, encoding: str, *, bigendian: bool = False, padding: int = 0) -> SimpleNamespace:
    ordered = values.astype(values.dtype.newbyteorder(">" if bigendian else "<"))
    rows = np.ascontiguousarray(ordered).view(np.uint8).reshape(values.shape[0], -1)
    rows = np.pad(rows, ((0, 0), (0, padding)), constant_values=7)
    return SimpleNamespace(
        width=values.shape[1], height=values.shape[0], encoding=encoding, is_bigendian=int(bigendian),
        step=rows.shape[1], data=rows.tobytes(),
    )  # fmt: skip


def plate(z_m: float, centre: tuple[float, float], size: tuple[float, float], back_m: float = 3.0, step: int = 1):
    """A flat plate in front of a wall: depth image and the plate's box in pixels of CAMERA's image."""
    u, v = np.meshgrid(np.arange(0, 640, step) + (step - 1) / 2, np.arange(0, 480, step) + (step - 1) / 2)
    x, y = (u - CAMERA.cx) / CAMERA.fx * z_m, (v - CAMERA.cy) / CAMERA.fy * z_m
    on = (abs(x - centre[0]) <= size[0] / 2) & (abs(y - centre[1]) <= size[1] / 2)
    left, right = ((centre[0] + s * size[0] / 2) / z_m * CAMERA.fx + CAMERA.cx + 0.5 for s in (-1, 1))
    top, bottom = ((centre[1] + s * size[1] / 2) / z_m * CAMERA.fy + CAMERA.cy + 0.5 for s in (-1, 1))
    return np.where(on, z_m, back_m).astype(np.float32), Box(left, top, right, bottom)


@pytest.mark.parametrize("step", [1, 2], ids=["depth of the same resolution", "depth of half the resolution"])
@pytest.mark.parametrize(
    ("z_m", "centre", "size"),
    [(0.5, (0.0, 0.0), (0.1, 0.2)), (1.2, (0.3, -0.2), (0.25, 0.1)), (2.4, (-0.7, 0.4), (0.4, 0.5))],
)
def test_a_plate_comes_back_where_it_is(z_m: float, centre: tuple, size: tuple, step: int) -> None:
    depth, box = plate(z_m, centre, size, step=step)
    found = locate(depth, CAMERA, box)
    assert found is not None
    assert found.centre == pytest.approx((*centre, z_m), abs=0.003)
    assert found.size[:2] == pytest.approx(size, rel=0.01)
    assert found.size[2] == pytest.approx(0.0, abs=1e-6)


def test_a_loose_box_noise_holes_and_flying_pixels_do_not_move_it() -> None:
    random = np.random.default_rng(3)
    depth, box = plate(1.0, (0.1, 0.0), (0.2, 0.2))
    depth += random.normal(0, 0.004, depth.shape).astype(np.float32)
    depth[random.random(depth.shape) < 0.3] = np.nan
    wrong = random.random(depth.shape) < 0.03
    depth[wrong] = random.uniform(0.2, 9.0, int(wrong.sum()))
    loose = Box(box.x1 - 12, box.y1 - 12, box.x2 + 12, box.y2 + 12)  # a fifth wider: 30 % of it is wall
    found = locate(depth, CAMERA, loose)
    assert found is not None
    assert found.centre == pytest.approx((0.1, 0.0, 1.0), abs=0.01)
    assert found.size[2] < 0.03


def test_a_ring_with_a_hole_is_measured_at_the_ring() -> None:
    depth, box = plate(1.0, (0.0, 0.0), (0.3, 0.3))
    hole = locate(*(_with_hole(depth, box, share=0.3), CAMERA, box))
    assert hole is not None
    assert hole.centre[2] == pytest.approx(1.0, abs=0.01)


def _with_hole(depth: np.ndarray, box: Box, share: float) -> np.ndarray:
    cx, cy, half = (box.x1 + box.x2) / 2, (box.y1 + box.y2) / 2, math.sqrt(share) * (box.x2 - box.x1) / 4
    copy = depth.copy()
    copy[int(cy - half) : int(cy + half), int(cx - half) : int(cx + half)] = 3.0
    return copy


def test_a_box_with_depth_gives_its_visible_surface() -> None:
    depth, box = plate(1.0, (0.0, 0.0), (0.3, 0.3))
    x1, x2 = int(box.x1), int(box.x2)
    depth[int(box.y1) : int(box.y2), x1:x2] = np.linspace(1.0, 1.2, x2 - x1, dtype=np.float32)
    found = locate(depth, CAMERA, box)
    assert found is not None
    assert found.centre[2] == pytest.approx(1.1, abs=0.01)
    assert found.size[2] == pytest.approx(0.18, abs=0.01), "5th to 95th percentile"


@pytest.mark.parametrize(
    ("fill", "box"),
    [
        (np.nan, Box(10, 10, 50, 50)),
        (50.0, Box(10, 10, 50, 50)),
        (1.0, Box(-90, -90, -10, -10)),
        (1.0, Box(5, 5, 5, 5)),
    ],
    ids=["nothing known", "all too far", "outside the image", "empty box"],
)
def test_nothing_is_said_where_nothing_is_known(fill: float, box: Box) -> None:
    assert locate(np.full((480, 640), fill, np.float32), CAMERA, box) is None


@pytest.mark.parametrize("bigendian", [False, True], ids=["little endian", "big endian"])
@pytest.mark.parametrize("padding", [0, 6], ids=["tight rows", "padded rows"])
def test_both_encodings_are_metres(bigendian: bool, padding: int) -> None:
    millimetres = np.array([[1500, 0, 65535], [1, 250, 3000]], np.uint16)
    got = depth_in_metres(message(millimetres, "16UC1", bigendian=bigendian, padding=padding))
    np.testing.assert_allclose(got, [[1.5, np.nan, 65.535], [0.001, 0.25, 3.0]], rtol=1e-6)
    metres = np.array([[1.5, np.nan, np.inf], [-1.0, 0.0, 3.25]], np.float32)
    got = depth_in_metres(message(metres, "32FC1", bigendian=bigendian, padding=padding))
    np.testing.assert_allclose(got, [[1.5, np.nan, np.nan], [np.nan, np.nan, 3.25]])


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"encoding": "rgb8"}, "depth image"),
        ({"width": 0}, "pixels"),
        ({"step": 3}, "rows of at least"),
        ({"data": b"123"}, "correct the publisher"),
    ],
)
def test_garbage_is_refused(change: dict, words: str) -> None:
    bad = message(np.ones((4, 4), np.uint16), "16UC1")
    vars(bad).update(change)
    with pytest.raises(InputError, match=words):
        depth_in_metres(bad)


def test_intrinsics_come_from_p_and_else_from_k() -> None:
    k, p = [500, 0, 320, 0, 501, 240, 0, 0, 1], [400, 0, 310, 0, 0, 401, 230, 0, 0, 0, 1, 0]
    info = camera_info()
    info.width, info.height, info.k, info.p = 640, 480, k, p
    assert Pinhole.from_camera_info(info) == Pinhole(400, 401, 310, 230, (640, 480))
    info.p = [0.0] * 12
    assert Pinhole.from_camera_info(info) == Pinhole(500, 501, 320, 240, (640, 480))
    info.k = [0.0] * 9
    with pytest.raises(InputError, match="calibrate"):
        Pinhole.from_camera_info(info)


def camera_info(binning: tuple[int, int] = (0, 0), roi: tuple[int, int, int, int] = (0, 0, 0, 0)) -> SimpleNamespace:
    """A 1280x960 sensor, f = 1000 px, principal point in its middle. Args: roi: x, y, width, height."""
    k = [1000.0, 0.0, 639.5, 0.0, 1000.0, 479.5, 0.0, 0.0, 1.0]
    region = SimpleNamespace(x_offset=roi[0], y_offset=roi[1], width=roi[2], height=roi[3])
    return SimpleNamespace(
        width=1280, height=960, k=k, p=[0.0] * 12, roi=region, binning_x=binning[0], binning_y=binning[1]
    )


# An object of 0.2 m, 2 m away, 0.3 m right of and 0.1 m below the axis: on the whole sensor it covers 100 x 100 pixels about
# (640 + 0.3 / 2 * 1000, 480 + 0.1 / 2 * 1000) = (790, 530), in pixel edges.
@pytest.mark.parametrize(
    ("info", "wh", "box"),
    [
        pytest.param(camera_info(), (1280, 960), Box(740, 480, 840, 580), id="whole sensor"),
        pytest.param(camera_info((1, 1)), (1280, 960), Box(740, 480, 840, 580), id="binning said to be 1"),
        pytest.param(camera_info((2, 2)), (640, 480), Box(370, 240, 420, 290), id="binning 2x2"),
        pytest.param(camera_info((2, 1)), (640, 960), Box(370, 480, 420, 580), id="binning 2x1"),
        pytest.param(camera_info(roi=(600, 400, 400, 300)), (400, 300), Box(140, 80, 240, 180), id="roi"),
        pytest.param(camera_info((2, 2), (600, 400, 400, 300)), (200, 150), Box(70, 40, 120, 90), id="both"),
    ],
)
def test_binning_and_region_of_interest_are_honoured(info: SimpleNamespace, wh: tuple[int, int], box: Box) -> None:
    camera = Pinhole.from_camera_info(info)
    assert camera.wh == wh
    found = locate(np.full((wh[1], wh[0]), 2.0, np.float32), camera, box)
    assert found is not None
    assert found.centre == pytest.approx((0.3, 0.1, 2.0), abs=1e-6)
    assert found.size == pytest.approx((0.2, 0.2, 0.0), abs=1e-6)


def test_sizes_that_do_not_fit_are_refused() -> None:
    with pytest.raises(InputError, match="roi lies on its sensor; found 400x300 at 1000, 400 on 1280x960"):
        Pinhole.from_camera_info(camera_info(roi=(1000, 400, 400, 300)))
    binned = Pinhole.from_camera_info(camera_info((2, 2)))
    with pytest.raises(InputError, match=r"of 640x480 pixels, .*; found 640x360"):
        locate(np.full((360, 640), 2.0, np.float32), binned, Box(0, 0, 9, 9))
    with pytest.raises(InputError, match=r"an image of 640x480 pixels, .*; found 1280x960"):
        binned.check_size("an image", (1280, 960))
