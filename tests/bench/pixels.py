"""Time preprocess beside the Hugging Face image processors, interleaved: `python -m tests.bench.pixels [RUNS]`.

Prints wall and processor milliseconds, medians and minima, after one warm-up run of each. On a shared machine the wall
times say how busy it was; processor time is the steadier figure, and preprocess spreads its resize over up to four threads.
"""

from __future__ import annotations

import os
import sys
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import cv2
import numpy as np
from PIL import Image

from egm_edge.files import write_json
from egm_edge.pixels import PixelSpec, normalise, preprocess
from tests.support.hf_reference import hf_image_processor
from tests.support.token_files import internvl_image_processor, qwen_image_processor

SETTINGS = {"qwen3_vl": qwen_image_processor(65536, 16777216), "internvl3": internvl_image_processor(448)}
SIZES = [(640, 480), (1280, 720), (1920, 1080)]


def main(runs: int) -> None:
    print(
        f"{os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}, {runs} runs; ms as wall median/min, processor median/min"
    )
    for name, settings in SETTINGS.items():
        with tempfile.TemporaryDirectory() as folder:
            write_json(Path(folder) / "preprocessor_config.json", settings)
            processor, spec = hf_image_processor(Path(folder)), PixelSpec.from_checkpoint(folder)
        tiled = {} if spec.rule == "smart_resize" else {"crop_to_patches": True}
        reference = partial(processor, return_tensors="np", **tiled)
        for width, height in SIZES:
            noise = np.random.default_rng(0).integers(0, 256, (height, width, 3), np.uint8)
            image = cv2.GaussianBlur(noise, (5, 5), 2)
            picture = Image.fromarray(image)
            theirs, ours = _interleaved(partial(reference, picture), partial(preprocess, image, spec), runs)
            equal = np.array_equal(normalise(preprocess(image, spec), spec), reference(picture)["pixel_values"])
            wall, cpu = np.median(theirs, 0) / np.median(ours, 0)
            print(
                f"{name} {width}x{height}: processor {_summary(theirs)}, ours {_summary(ours)}, "
                f"{wall:.1f}x wall, {cpu:.1f}x processor time, values {'equal' if equal else 'DIFFER'}"
            )


def _interleaved(first: Callable[[], object], second: Callable[[], object], runs: int) -> tuple[np.ndarray, np.ndarray]:
    """Wall and processor seconds, [runs, 2] each."""
    timings: tuple[list[tuple[float, float]], list[tuple[float, float]]] = ([], [])
    for run in range(runs + 1):
        for work, kept in zip((first, second), timings, strict=True):
            wall, cpu = time.perf_counter(), time.process_time()
            work()
            if run:
                kept.append((time.perf_counter() - wall, time.process_time() - cpu))
    return np.array(timings[0]), np.array(timings[1])


def _summary(seconds: np.ndarray) -> str:
    (wall, cpu), (least_wall, least_cpu) = np.median(seconds, 0) * 1e3, seconds.min(0) * 1e3
    return f"{wall:.2f}/{least_wall:.2f}, {cpu:.2f}/{least_cpu:.2f}"


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 31)
