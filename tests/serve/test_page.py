"""The page at / in a real headless browser: a picture is picked, a sentence typed, and the box lies where it belongs."""

from __future__ import annotations

import io
import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image

from egm_edge.boxes import Box
from egm_edge.grounder import Grounder
from egm_edge.serve.app import PAGE_DIR
from tests.serve.conftest import FRAMES, Server, Start, error_of
from tests.support.browser import BROWSERS, Browser, find_browser

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


# The button is disabled while a question is under way, for a few milliseconds only where the server refuses it.
WATCH = """(() => {
  const button = document.getElementById("find");
  window.wasAsked = false;
  new MutationObserver(() => { window.wasAsked ||= button.disabled; }).observe(button, {attributes: true});
})()"""


def find(page: Browser, sentence: str) -> None:
    page.type("#sentence", sentence)
    page.run(WATCH)
    page.press(*ENTER)
    page.until("window.wasAsked && !document.getElementById('find').disabled")


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
    assert "Found: the red bowl" in text and wanted.reasoning in text and "that the box is right" in text
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
    page.until("document.getElementById('status').textContent.includes('Pick a picture first')")
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
    for _ in range(20):
        page.press("Tab", 9)
        visited.append(page.run("document.activeElement.id || document.activeElement.name"))
    assert {"file", "camera", "live", "sentence", "task", "find"} <= set(visited)
    assert page.run("document.documentElement.lang") == "en"
    assert page.run("[...document.querySelectorAll('[role=status]')].length") == 1


def test_a_sample_is_asked_about_with_one_click(page: Browser) -> None:
    page.until("document.querySelectorAll('#samples img').length === 4")
    page.click("#samples button:nth-child(1)")
    page.until(DONE)
    asked = page.run("document.getElementById('sentence').value")
    assert "Found: " + asked in page.run("document.getElementById('answer').innerText")
    assert page.run("document.getElementById('picture').alt") == "1.jpg"
    assert page.run("document.querySelector('#samples button').getAttribute('aria-label')").endswith(asked)


def test_an_answer_about_the_previous_picture_is_never_shown(page: Browser) -> None:
    """The answer is held back until another picture is there."""
    page.run(
        "(() => { const real = fetch; window.released = new Promise(r => { window.release = r; });"
        " window.fetch = async (...a) => { const answer = await real(...a); await window.released;"
        " return answer; };"
        " })()"
    )
    pick(page)
    page.type("#sentence", "the red bowl")
    page.press(*ENTER)
    page.until("document.getElementById('stage').classList.contains('pending')")
    pick(page, FRAMES / "tabletop_4.png")
    page.until("document.getElementById('picture').alt === 'tabletop_4.png'")
    page.run("window.release()")
    page.run("new Promise(done => setTimeout(done, 500))")  # time for what must not happen
    for part in ("stages", "overlay", "facts"):
        assert page.run(f"document.getElementById('{part}').hasAttribute('hidden')"), part
    assert not page.run("document.getElementById('find').disabled")
    find(page, "the blue bowl")
    assert "the blue bowl" in page.run("document.getElementById('history').innerText")
    assert "the red bowl" not in page.run("document.getElementById('history').innerText")


def test_candidates_and_confidence_are_drawn(page: Browser) -> None:
    """An answer as a calibrated bundle gives it where the model named two things."""
    bowl, bottle = {"box": [22, 84, 154, 161], "label": "red bowl"}, {"box": [396, 98, 454, 231], "label": "bottle"}
    stages = ("decode_image", "preprocess", "vision", "prefill", "think", "answer", "parse", "total")
    egm = {"outcome": "FOUND", "expression": "the bowl", "task": "modal", "image_wh": [640, 480], "confidence": 0.93}
    egm |= {
        **bowl,
        "candidates": [bottle, bowl],
        "reasoning": "Red.",
        "tokens": {"think": 1, "completion": 2, "image": 3},
    }
    egm |= {"timings": {f"{stage}_ms": 1.0 for stage in stages}}
    event = "data: " + json.dumps({"choices": [{"delta": {}}], "egm": egm}) + "\n\n"
    pick(page)
    page.run(f"(() => {{ window.fetch = async () => new Response({json.dumps(event)}); }})()")
    find(page, "the bowl")
    drawn = page.run(
        "[...document.querySelectorAll('#overlay rect, #overlay text')].map(e => [e.getAttribute('class'), e.textContent])"
    )
    assert [kind for kind, _ in drawn if "halo" not in kind] == [
        "candidate",
        "label candidate-label",
        "box",
        "label box-label",
    ]
    assert [text for _, text in drawn if text] == ["bottle", "red bowl 93 %"]
    assert page.run("document.getElementById('candidates').textContent") == "bottle: 396.0, 98.0, 454.0, 231.0"
    assert page.run("document.getElementById('confidence-bar').value") == 0.93
    assert "93 % that the box is right" in page.run("document.getElementById('answer').innerText")


def test_boxes_are_in_pixels_of_the_original(page: Browser, nano_bundle: Path, tmp_path: Path) -> None:
    """Ten times the size is more than is sent: the page scales it down, and the numbers are of the file."""
    with Grounder.from_bundle(nano_bundle, threads=1) as grounder:
        wanted = grounder.ground(PICTURE, "the red bowl").box
    assert wanted is not None
    Image.open(PICTURE).convert("RGB").resize((6400, 4800)).save(tmp_path / "large.jpg")
    pick(page, tmp_path / "large.jpg")
    find(page, "the red bowl")
    shown = [float(v) for v in page.run("document.getElementById('box').textContent").split(",")]
    assert Box(*shown).iou(Box(*(10 * v for v in wanted.xyxy))) > 0.8
    assert page.run("document.getElementById('picture').naturalWidth") == 4096


def test_what_was_asked_before_comes_back(page: Browser) -> None:
    pick(page)
    find(page, "the red bowl")
    first = page.run("document.getElementById('box').textContent")
    pick(page, FRAMES / "tabletop_4.png")
    find(page, "the blue bowl")
    page.run("document.querySelector('#history li:nth-child(2) button').focus()")
    page.press(*ENTER)
    page.until("document.getElementById('picture').alt === 'tabletop_1.png' && " + DONE)
    assert page.run("document.getElementById('sentence').value") == "the red bowl"
    assert page.run("document.getElementById('box').textContent") == first


def test_the_question_can_be_taken_away_as_curl_and_python(page: Browser, tmp_path: Path) -> None:
    picture = tmp_path / "it's 1.png"
    picture.write_bytes(PICTURE.read_bytes())
    pick(page, picture)
    find(page, 'the red bowl, the "dog\'s"')
    box = page.run("document.getElementById('box').textContent")
    page.click("#as-curl")
    page.until("document.getElementById('code').value.includes('curl')")
    command = page.run("document.getElementById('code').value")
    page.click("#as-python")
    page.until("document.getElementById('code').value.includes('openai')")
    program = page.run("document.getElementById('code').value")
    said = subprocess.run(
        ["bash", "-c", command], cwd=tmp_path, capture_output=True, text=True, timeout=120, check=True
    )
    egm = json.loads(said.stdout)["egm"]
    assert (", ".join(f"{v:.1f}" for v in egm["box"]) if egm["box"] else "none") == box
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=tmp_path, capture_output=True, text=True, timeout=120, check=True
    )
    assert done.stdout.split() == f"{egm['outcome']} {egm['box']}".split()


def panned_video(path: Path, shift_px: int) -> Path:
    """Tabletop 1 in uncompressed YUV4MPEG2, the camera moving to and fro by 2 pixels a frame."""
    image = cv2.cvtColor(np.asarray(Image.open(PICTURE).convert("RGB")), cv2.COLOR_RGB2BGR)
    with path.open("wb") as file:
        file.write(b"YUV4MPEG2 W640 H480 F15:1 Ip A1:1 C420jpeg\n")
        for x in [*range(0, shift_px, 2), *range(shift_px, 0, -2)]:
            moved = cv2.warpAffine(
                image, np.float32([[1, 0, x], [0, 1, 0]]), (640, 480), borderMode=cv2.BORDER_REPLICATE
            )
            file.write(b"FRAME\n" + cv2.cvtColor(moved, cv2.COLOR_BGR2YUV_I420).tobytes())
    return path


def test_live_mode_shows_the_trackers_box_between_answers(nano: Server, tmp_path: Path) -> None:
    program = find_browser()
    if program is None:
        pytest.skip("no browser")
    video = panned_video(tmp_path / "pan.y4m", 60)
    with Browser(program, tmp_path / "profile", f"--use-file-for-fake-video-capture={video}") as browser:
        browser.resize(1200, 900)
        browser.open(nano.url)
        browser.type("#sentence", "the red bowl")
        browser.click("#live")
        facts = "document.getElementById('live-facts').textContent"
        browser.until(f'{facts}.includes("the tracker\'s box")')
        boxes = "(" + facts + ".match(/box (\\d+), (\\d+), (\\d+), (\\d+)/) ?? []).slice(1).map(Number)"
        browser.run(
            "(() => { window.seen = []; const note = () => { const box = "
            + boxes
            + "; if (box.length) window.seen.push(box);"
            " window.noting = setTimeout(note, 50); }; note(); })()"
        )
        browser.until("new Set(window.seen.map(box => box[0])).size >= 4")
        seen = np.array(browser.run("window.seen"))
        assert ((seen[:, 0] > 0) & (seen[:, 2] < 260) & (seen[:, 1] > 60) & (seen[:, 3] < 190)).all(), seen
        assert int(browser.run(facts + ".match(/answers (\\d+)/)[1]")) >= 1
        assert "frames a second, tracker" in browser.run(facts)
        browser.press("Escape", 27)
        browser.until("document.getElementById('live-facts').hidden")
        assert browser.run("document.getElementById('live').getAttribute('aria-pressed')") == "false"
        assert browser.complaints() == []


def test_another_question_ends_what_was_followed(nano: Server) -> None:
    jpeg = cv2.imencode(".jpg", cv2.imread(str(PICTURE)))[1].tobytes()

    def boxes(query: str) -> list[list[float]]:
        headers = {"content-type": "image/jpeg"}
        response = nano.client.post(f"/v1/track?session=questions&{query}", content=jpeg, headers=headers)
        assert response.status_code == 200
        return [one["box"] for one in response.json()["boxes"]]

    assert boxes("stamp=1&track=1") == []
    assert boxes("stamp=50&track=1&box=19,84,157,161&box_stamp=1") != []
    assert boxes("stamp=100&track=1") != [] and boxes("stamp=150&track=2") == []
    assert len(boxes("stamp=200&track=2&box=300,100,400,200&box_stamp=150")) == 1


@pytest.mark.parametrize(
    ("query", "body", "kind", "status"),
    [
        pytest.param("?session=a&stamp=1&track=", b"", "image/jpeg", 400, id="no name of a track"),
        pytest.param("?session=a&stamp=1", b"no picture", "image/jpeg", 400, id="no picture"),
        pytest.param("?stamp=1", b"", "image/jpeg", 400, id="no session"),
        pytest.param("?session=a&stamp=nan", b"", "image/jpeg", 400, id="no stamp"),
        pytest.param("?session=a&stamp=1&box=1,2,3", b"", "image/jpeg", 400, id="no box"),
        pytest.param("?session=a&stamp=1", b"{}", "application/json", 415, id="another type"),
    ],
)
def test_live_frames_that_are_none_are_refused(nano: Server, query: str, body: bytes, kind: str, status: int) -> None:
    response = nano.client.post(f"/v1/track{query}", content=body, headers={"content-type": kind})
    assert response.status_code == status and error_of(response)["type"] == "invalid_request_error"


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
    modules = [f"/{path.name}" for path in PAGE_DIR.glob("*.js")]
    assert len(modules) > 5
    for path, kind in (
        ("/", "text/html"),
        *((module, "text/javascript") for module in modules),
        ("/page.css", "text/css"),
        ("/icon.svg", "image/svg"),
    ):
        file = nano.client.get(path)
        assert file.headers["content-type"].startswith(kind)
        assert "//" not in file.text.replace("http://www.w3.org/2000/svg", "").replace("// ", ""), (
            "no address of elsewhere"
        )
