"""The page at / in a real headless browser: a picture is picked, a sentence typed, and the box lies where it belongs."""

from __future__ import annotations

import io
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from egm_edge.grounder import Grounder
from tests.serve.browser import BROWSERS, Browser, find_browser
from tests.serve.conftest import FRAMES, Server, Start

PICTURE = FRAMES / "tabletop_1.png"
BOX_COLOUR = (255, 210, 63)  # --box in page.css
DONE = "!document.getElementById('stages').hidden"
ENTER = ("Enter", 13, "\r")


@pytest.fixture
def page(nano: Server, tmp_path: Path) -> Iterator[Browser]:
    program = find_browser()
    if program is None:
        pytest.skip(f"no browser: none of {', '.join(BROWSERS)} (Debian: apt install chromium-headless-shell)")
    with Browser(program, tmp_path / "profile") as browser:
        browser.resize(1200, 900)
        browser.open(nano.url)
        yield browser
        assert browser.complaints() == []
        foreign = [u for u in browser.requested_urls() if not u.startswith((nano.url + "/", "blob:", "about:"))]
        assert foreign == []


def pick(page: Browser, path: Path = PICTURE) -> None:
    page.choose_file("#file", path)
    page.until("document.getElementById('picture').naturalWidth > 0 && !document.getElementById('picture').hidden")


def find(page: Browser, sentence: str) -> None:
    page.type("#sentence", sentence)
    page.press(*ENTER)
    page.until("document.getElementById('find').disabled || " + DONE)
    page.until("!document.getElementById('find').disabled")


def drawn_box(page: Browser) -> np.ndarray:
    """Where the yellow pixels of the screenshot lie: x1, y1, x2, y2 in CSS pixels of the page."""
    shot = np.asarray(Image.open(io.BytesIO(page.screenshot())).convert("RGB")).astype(int)
    yellow = np.abs(shot - BOX_COLOUR).max(-1) < 12
    rows, columns = np.flatnonzero(yellow.sum(1) > 20), np.flatnonzero(yellow.sum(0) > 20)
    assert rows.size and columns.size, "no box is drawn"
    return np.array([columns[0], rows[0], columns[-1] + 1, rows[-1] + 1])


def picture_rect(page: Browser) -> np.ndarray:
    script = "(() => { const r = document.getElementById('picture').getBoundingClientRect();"
    return np.array(page.run(script + " return [r.x + scrollX, r.y + scrollY, r.width, r.height]; })()"))


@pytest.mark.parametrize("width", [1200, 390], ids=["desk", "phone"])
def test_a_sentence_gets_its_box_drawn_where_it_belongs(page: Browser, nano_bundle: Path, width: int) -> None:
    page.resize(width, 900, mobile=width < 600)
    with Grounder.from_bundle(nano_bundle, threads=1) as grounder:
        wanted = grounder.ground(PICTURE, "the red bowl")
    assert wanted.box is not None
    pick(page)
    find(page, "the red bowl")
    x, y, shown_width, shown_height = picture_rect(page)
    scale = np.array([shown_width / wanted.image_wh[0], shown_height / wanted.image_wh[1]] * 2)
    expected = np.array(wanted.box.xyxy) * scale + [x, y, x, y]
    assert np.abs(drawn_box(page) - expected).max() <= 4
    text = page.run("document.getElementById('answer').innerText")
    assert "Found: the red bowl" in text and wanted.reasoning in text and "uncalibrated" in text
    assert ", ".join(f"{v:.1f}" for v in wanted.box.xyxy) in text
    stages = page.run(
        "[...document.querySelectorAll('#stages tbody tr')].map(r => [r.cells[0].innerText, +r.cells[1].innerText])"
    )
    names, times = [name.removesuffix(" (kept from before)") for name, _ in stages], [ms for _, ms in stages]
    assert names[2:6] == ["see", "read the sentence", "think", "answer"] and names[-1] == "in all"
    assert all(ms >= 0 for ms in times) and times[-1] >= max(times[:-1]) > 0
    assert page.run("document.documentElement.scrollWidth <= innerWidth"), "nothing scrolls sideways"


def test_a_second_sentence_on_the_same_picture_reuses_it(page: Browser) -> None:
    pick(page, FRAMES / "tabletop_4.png")
    find(page, "the red bowl")
    find(page, "the blue bowl")
    assert "(kept from before)" in page.run("document.getElementById('stages').innerText")


def test_the_camera_is_asked_too(page: Browser) -> None:
    """Chromium's fake camera: a green picture with a moving disc, so any outcome will do."""
    page.click("#camera")
    page.until("document.getElementById('video').videoWidth > 0")
    find(page, "the disc")
    assert page.run("document.getElementById('picture').alt") == "picture from the camera"
    assert not page.run("document.getElementById('stages').hidden")
    page.click("#camera")
    page.until("!document.getElementById('video').hidden")
    page.click("#camera")
    page.until("document.getElementById('video').hidden")


def test_a_format_the_server_does_not_read_is_converted(page: Browser, tmp_path: Path) -> None:
    Image.open(PICTURE).convert("P").save(tmp_path / "frame.gif")
    pick(page, tmp_path / "frame.gif")
    find(page, "the red bowl")
    assert not page.run("document.getElementById('stages').hidden")


def test_no_picture_and_no_real_picture_are_said_plainly(page: Browser, tmp_path: Path) -> None:
    page.type("#sentence", "the mug")
    page.press(*ENTER)
    page.until("document.getElementById('status').textContent.includes('Sampler a picture first')")
    (tmp_path / "fake.png").write_text("no picture")
    page.choose_file("#file", tmp_path / "fake.png")
    page.until("document.getElementById('status').textContent.includes('no picture that the browser can show')")


def test_everything_has_a_name_and_works_from_the_keyboard(page: Browser) -> None:
    nodes = page.call("Accessibility.getFullAXTree")["nodes"]
    controls = [
        n for n in nodes if n.get("role", {}).get("value") in ("button", "textbox", "radio", "img", "table", "link")
    ]
    assert len(controls) >= 6
    unnamed = [n for n in controls if not n.get("name", {}).get("value") and not n.get("ignored")]
    assert unnamed == []
    pick(page)
    visited = []
    page.run("document.body.focus()")
    for _ in range(12):
        page.press("Tab", 9)
        visited.append(page.run("document.activeElement.id || document.activeElement.name"))
    assert {"file", "camera", "sentence", "task", "find"} <= set(visited)
    assert page.run("document.documentElement.lang") == "en"
    assert page.run("[...document.querySelectorAll('[role=status]')].length") == 1


def test_hostile_words_stay_words(page: Browser) -> None:
    pick(page)
    find(page, "the mug <img src=x onerror=alert(1)>")
    assert page.run("document.querySelectorAll('#answer img, #overlay img').length") == 0


def test_a_key_is_asked_for_when_the_server_wants_one(start: Start, nano_bundle: Path, tmp_path: Path) -> None:
    program = find_browser()
    if program is None:
        pytest.skip("no browser")
    server = start(
        "-m", "egm_edge.cli", "serve", nano_bundle, "--port", 0, "--threads", 1, env={"EGM_API_KEY": "open-up"}
    )
    with Browser(program, tmp_path / "profile") as browser:
        browser.resize(800, 900)
        browser.open(server.url)
        pick(browser)
        find(browser, "the red bowl")
        browser.until("!document.getElementById('key-row').hidden")
        browser.type("#key", "open-up")
        find(browser, "the red bowl")
        browser.until(DONE)
    assert "open-up" not in server.log.read_text()
    assert server.stop() == 0


def test_the_page_asks_no_other_origin_by_its_own_policy(nano: Server) -> None:
    response = nano.client.get("/")
    policy = response.headers["content-security-policy"]
    assert "default-src 'none'" in policy and "connect-src 'self'" in policy
    assert "unsafe" not in policy and "http" not in policy
    assert "camera=(self)" in response.headers["permissions-policy"]
    for path, kind in (
        ("/", "text/html"),
        ("/page.js", "text/javascript"),
        ("/page.css", "text/css"),
        ("/icon.svg", "image/svg"),
    ):
        file = nano.client.get(path)
        assert file.headers["content-type"].startswith(kind)
        assert "//" not in file.text.replace("http://www.w3.org/2000/svg", "").replace("// ", ""), (
            "no address of elsewhere"
        )
