"""One request through `egm serve` and in process: the same box and the same prompt tokens, whatever the picture's size and form."""

from __future__ import annotations

import io
from collections.abc import Iterator
from pathlib import Path

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from egm_edge.assets import shipped_bundle, shipped_checkpoint
from egm_edge.backends.text_runtime.http import RemoteGrounder
from egm_edge.backends.text_runtime.served_model import ServedModel
from egm_edge.bundle import Bundle
from egm_edge.grounder import Grounder
from egm_edge.images import EXIF_ORIENTATION, load_image
from egm_edge.pixels import PixelSpec, preprocess
from tests.serve.conftest import FRAMES, Server, Start, data_url, question

pytestmark = pytest.mark.slow
SCENE = load_image(FRAMES / "tabletop_1.png")
EXPRESSION = "the red bowl"


@pytest.fixture(scope="module")
def shipped(start: Start) -> Server:
    return start("-m", "egm_edge.cli", "serve", shipped_bundle(), "--port", 0, "--threads", 1)


@pytest.fixture(scope="module")
def local() -> Iterator[Grounder]:
    with Grounder.from_bundle(shipped_bundle(), threads=1) as grounder:
        yield grounder


@pytest.mark.parametrize("task", ["modal", "amodal"])
@pytest.mark.parametrize("size", [(1280, 720), (1000, 400), (333, 777), (640, 480)], ids=str)
def test_the_client_gives_the_librarys_box_and_prompt_tokens(
    shipped: Server, local: Grounder, size: tuple[int, int], task: str
) -> None:
    picture = np.asarray(cv2.resize(SCENE, size, interpolation=cv2.INTER_AREA), np.uint8)
    remote = RemoteGrounder.from_url(shipped.url, served_model=shipped_bundle())
    there = remote.ground(picture, EXPRESSION, task=task, color="rgb")
    here = local.ground(picture, EXPRESSION, task=task, color="rgb")
    assert (there.box, there.text, there.image_wh) == (here.box, here.text, here.image_wh)
    assert (there.tokens.prompt, there.tokens.image) == (here.tokens.prompt, here.tokens.image)


def _encoded(image: Image.Image, kind: str, **options: object) -> bytes:
    stream = io.BytesIO()
    image.save(stream, kind, **options)
    return stream.getvalue()


def _sixteen_bit(image_rgb: NDArray[np.uint8]) -> bytes:
    deep = image_rgb.astype(np.uint16) * 256 + np.random.default_rng(0).integers(0, 256, image_rgb.shape, np.uint16)
    return cv2.imencode(".png", deep[..., ::-1])[1].tobytes()


def _forms() -> dict[str, bytes]:
    image = Image.fromarray(SCENE)
    clear = image.convert("RGBA")
    clear.putalpha(Image.fromarray(np.tile(np.linspace(0, 255, SCENE.shape[1]).astype(np.uint8), (SCENE.shape[0], 1))))
    turned = Image.Exif()
    turned[EXIF_ORIENTATION] = 6
    return {
        "alpha": _encoded(clear, "PNG"),
        "16 bit": _sixteen_bit(SCENE),
        "16-bit grey": cv2.imencode(".png", cv2.cvtColor(SCENE, cv2.COLOR_RGB2GRAY).astype(np.uint16) * 257)[
            1
        ].tobytes(),
        "EXIF turn": _encoded(image.transpose(Image.Transpose.ROTATE_90), "JPEG", exif=turned, quality=95),
        "transparent colour": _encoded(image.quantize(64), "PNG", transparency=3),
    }


@pytest.mark.parametrize("form", list(_forms()))
def test_every_way_in_flattens_a_picture_alike(shipped: Server, local: Grounder, form: str) -> None:
    picture = _forms()[form]
    here = local.ground(picture, EXPRESSION)
    there = RemoteGrounder.from_url(shipped.url, served_model=shipped_bundle()).ground(picture, EXPRESSION)
    url = data_url(picture, "jpeg" if form == "EXIF turn" else "png")
    raw = shipped.post(question(EXPRESSION, url)).json()  # a client that sends the file as it is
    assert there.image_wh == here.image_wh == (SCENE.shape[1], SCENE.shape[0])
    assert (there.box, there.text) == (here.box, here.text)
    assert raw["choices"][0]["message"]["content"] == here.text
    assert raw["usage"]["prompt_tokens"] == there.tokens.prompt == here.tokens.prompt


@pytest.mark.parametrize("budget", [(49152, 49152), (65536, 80000), (65536, 16777216), (3136, 1003520)], ids=str)
def test_what_is_sent_is_resized_once_for_every_budget(budget: tuple[int, int]) -> None:
    spec = PixelSpec(
        rule="smart_resize", mean=(0.5,) * 3, std=(0.5,) * 3, patch_size=16, merge_size=2, temporal_patch_size=2,
        min_pixels=budget[0], max_pixels=budget[1],
    )  # fmt: skip
    rng, resized_here = np.random.default_rng(0), 0
    for _ in range(40):
        height, width = (int(side) for side in rng.integers(24, 1100, 2))
        picture = rng.integers(0, 256, (height, width, 3), np.uint8)
        sent, tokens = ServedModel("qwen3_vl", spec).picture_to_send(picture)
        ours = preprocess(picture, spec)
        np.testing.assert_array_equal(preprocess(sent, spec).patches, ours.patches)
        assert tokens == ours.image_token_count
        resized_here += sent is not picture
    assert resized_here or budget[0] == budget[1]


def test_a_servers_bundle_is_verified_at_its_address(shipped: Server, tmp_path: Path) -> None:
    """The golden replies of a bundle for vLLM, asked of a server that serves the same checkpoint."""
    pytest.importorskip("transformers", reason="the reference; install the verify extra")
    from build_engine.cli import main as build
    from build_engine.verify_cli import main as verify

    out = tmp_path / "bundle"
    assert build([str(shipped_checkpoint()), "--target", "vllm", "-o", str(out), "--quiet"]) == 0
    assert "--url" in Bundle.open(out).manifest.parity["verify_with"]
    assert verify([str(out), "--url", shipped.url]) == 0
