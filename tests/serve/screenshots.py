"""Write the pictures of the page that the docs show: `python -m tests.serve.screenshots URL docs` beside a running `egm serve`."""

from __future__ import annotations

import base64
import sys
import tempfile
from pathlib import Path

from tests.serve.test_page import DONE, panned_video
from tests.support.browser import Browser, find_browser

LIVE = (
    '(text => text.includes("the tracker\'s box") && +text.match(/answers (\\d+)/)[1] > 30)'
    "(document.getElementById('live-facts').textContent)"
)


def main(url: str, folder: Path) -> None:
    program = find_browser()
    assert program is not None, "no Chromium"
    with tempfile.TemporaryDirectory() as scratch:
        video = panned_video(Path(scratch) / "pan.y4m", 60)
        with Browser(program, Path(scratch) / "profile", f"--use-file-for-fake-video-capture={video}") as browser:
            for name, width, height in (("serve_page", 1180, 900), ("serve_phone", 390, 1000)):
                browser.resize(width, height, mobile=width < 600)
                browser.open(url)
                browser.until("document.querySelectorAll('#samples img').length === 4")
                for sample in (2, 1):
                    browser.click(f"#samples button:nth-child({sample})")
                    browser.until(f"document.getElementById('picture').alt === '{sample}.jpg' && {DONE}")
                _write(browser, folder / f"{name}.jpg")
            browser.resize(1180, 900)
            browser.open(url)
            browser.type("#sentence", "the red bowl")
            browser.click("#live")
            browser.until(LIVE)
            _write(browser, folder / "serve_live.jpg")


def _write(browser: Browser, path: Path) -> None:
    browser.run("scrollTo(0, 0)")
    shot = browser.call("Page.captureScreenshot", format="jpeg", quality=80)
    path.write_bytes(base64.b64decode(shot["data"]))


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]))
