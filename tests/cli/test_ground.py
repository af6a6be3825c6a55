"""`egm ground` on a real tiny bundle: its answers in every form, and bad images, texts and bundles refused in one line."""

from __future__ import annotations

import json
import os
import shutil
import struct
import zlib
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest

from egm_edge.boxes import Box
from egm_edge.bundle import MANIFEST_NAME
from egm_edge.cli.ground import describe
from egm_edge.grounding import Candidate, Grounding, Outcome, Task, UnparsableReason
from tests.cli.conftest import Egm, assert_refused

CAP = ("--max-new-tokens", "6")
STAGES = ("decode_image_ms", "preprocess_ms", "vision_ms", "prefill_ms", "think_ms", "answer_ms", "parse_ms")


@pytest.fixture(scope="module")
def ask(egm: Egm, tiny_bundle: Path) -> Egm:
    """`egm ground` with the tiny bundle and few tokens; random weights answer with some outcome."""
    return lambda *arguments, **options: egm("ground", *arguments, "--bundle", tiny_bundle, *CAP, **options)


def test_one_line_per_text(ask: Egm, picture: Path) -> None:
    done = ask(picture, "the red mug", "左边的杯子", "--task", "amodal")
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    first, second = done.stdout.splitlines()
    assert "  the red mug" in first  # behind it: why there is no box, and that the cap was met
    assert "  左边的杯子" in second
    assert "amodal" in first
    assert ("uncalibrated" in first) == first.startswith("FOUND")  # a map speaks of boxes


def test_json_lines_are_groundings_and_share_the_frame(ask: Egm, picture: Path) -> None:
    done = ask(picture, "the red mug", "the blue cup", "--json")
    groundings = [Grounding.from_dict(json.loads(line)) for line in done.stdout.splitlines()]
    assert [g.expression for g in groundings] == ["the red mug", "the blue cup"]
    assert [g.timings.frame_reused for g in groundings] == [False, True]
    assert groundings[0].timings.vision_ms > 0.0
    assert groundings[0].timings.decode_image_ms > 0.0
    assert groundings[1].timings.vision_ms == 0.0
    assert groundings[0].image_wh == (96, 64)


def test_timings_name_every_stage_the_tokens_and_the_machine(ask: Egm, picture: Path) -> None:
    done = ask(picture, "the red mug", "the blue cup", "--timings")
    assert done.returncode == 0, done.stderr
    rows = {line.split()[0]: line.split()[1:] for line in done.stdout.splitlines()[2:]}
    for name in (*STAGES, "ttft_ms", "total_ms", "decode_tokens_per_s"):
        assert len(rows[name]) == 2, name
    assert int(rows["image_tokens"][0]) > 0
    assert 0 < int(rows["decode_steps"][0]) <= int(rows["completion_tokens"][0])
    assert rows["frame_reused"] == ["no", "yes"]
    assert "fp32," in rows["engine"]
    assert float(rows["peak_rss_mb"][0]) > 10.0


def test_timings_as_json_carry_the_run_and_add_up(ask: Egm, picture: Path) -> None:
    texts = ("the red mug", "the blue cup", "the kettle", "the bowl", "the plate")
    done = ask(picture, *texts, "--timings", "--json", "--threads", "1", "--memory", "low")
    rows = [json.loads(line) for line in done.stdout.splitlines()]
    shares = [sum(row["timings"][name] for name in STAGES) / row["timings"]["total_ms"] for row in rows]
    assert max(shares) <= 1.01
    assert max(shares) > 0.75  # the best of five: on a busy machine a request waits between its stages too
    assert all(row["timings"]["ttft_ms"] <= row["timings"]["total_ms"] for row in rows)
    assert {row["run"]["threads"] for row in rows} == {1}
    assert {row["run"]["memory"] for row in rows} == {"low"}
    assert {row["run"]["warm_up_requests"] for row in rows} == {1}


def test_deadline_thought_and_votes_are_options(ask: Egm, picture: Path) -> None:
    one = json.loads(ask(picture, "the mug", "--json", "--max-think-tokens", "0", "--samples", "2").stdout)
    assert one["samples"] == 2 and one["deadline_met"] is None
    late = json.loads(ask(picture, "the mug", "--json", "--deadline-ms", "60000").stdout)
    assert late["deadline_met"] is not None  # six tokens are too few for a box
    assert_refused(ask(picture, "the mug", "--deadline-ms", "-5"), 2, "above 0")


def test_save_writes_an_annotated_copy(ask: Egm, picture: Path, tmp_path: Path) -> None:
    done = ask(picture, "the red mug", "--save", tmp_path / "out.png")
    assert done.returncode == 0, done.stderr
    saved, original = cv2.imread(str(tmp_path / "out.png")), cv2.imread(str(picture))
    assert saved.shape == original.shape
    assert (saved != original).any()


def test_a_picture_on_stdin(ask: Egm, picture: Path) -> None:
    with picture.open("rb") as stream:
        done = ask("-", "the red mug", stdin=stream)
    assert done.returncode == 0, done.stderr


def test_an_ascii_terminal_is_no_error(ask: Egm, picture: Path) -> None:
    done = ask(picture, "左边的杯子", env={"PYTHONIOENCODING": "ascii"})
    assert done.returncode == 0, done.stderr
    assert "\\u5de6" in done.stdout


def test_an_endless_stream_is_refused(ask: Egm) -> None:
    with open("/dev/zero", "rb") as stream:
        assert_refused(ask("-", "the red mug", stdin=stream), 2, "256 MiB")
    assert_refused(ask("/dev/zero", "the red mug"), 2, "regular file")


def test_bundle_from_the_environment(egm: Egm, tiny_bundle: Path, picture: Path) -> None:
    done = egm("ground", picture, "the red mug", *CAP, env={"EGM_BUNDLE": str(tiny_bundle)})
    assert done.returncode == 0, done.stderr


# --- images ----------------------------------------------------------------------------------------------------------


def _png_of(width: int, height: int) -> bytes:
    """A PNG header that promises any size, with hardly any data behind it."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"\0" * 64)) + chunk(b"IEND", b"")
    )


def _encoded(suffix: str, image: np.ndarray) -> bytes:
    return cv2.imencode(suffix, image)[1].tobytes()


NOISE = np.random.default_rng(1).integers(0, 255, (64, 96, 3), np.uint8)


@pytest.mark.parametrize(
    ("name", "content"),
    [
        pytest.param("notes.txt", b"not a picture", id="not an image"),
        pytest.param("empty.png", b"", id="empty file"),
        pytest.param("cut.jpg", _encoded(".jpg", NOISE)[:1500], id="truncated JPEG"),
        pytest.param("cut.png", _encoded(".png", NOISE)[:3000], id="truncated PNG"),
        pytest.param("zero.png", _png_of(0, 0), id="0x0"),
        pytest.param("bomb.png", _png_of(20_000, 20_000), id="20,000x20,000"),
        pytest.param("strip.png", _png_of(100_000, 1), id="100,000x1"),
    ],
)
def test_unusable_images_are_refused(ask: Egm, tmp_path: Path, name: str, content: bytes) -> None:
    (tmp_path / name).write_bytes(content)
    assert_refused(ask(tmp_path / name, "the red mug"), 2, "expected", "found")


def test_a_missing_image_and_a_directory_are_refused(ask: Egm, tmp_path: Path) -> None:
    assert_refused(ask(tmp_path / "none.png", "the red mug"), 2, "none.png")
    assert_refused(ask(tmp_path, "the red mug"), 2, tmp_path.name)


@pytest.mark.parametrize(
    ("name", "image"),
    [
        pytest.param("grey.png", NOISE[..., 0], id="grey"),
        pytest.param("rgba.png", np.dstack([NOISE, NOISE[..., 0]]), id="RGBA"),
        pytest.param("deep.png", NOISE.astype(np.uint16) * 257, id="16-bit"),
        pytest.param("deep_grey.png", NOISE[..., 0].astype(np.uint16) * 257, id="16-bit grey"),
    ],
)
def test_other_pixel_formats_are_answered_or_refused_clearly(
    ask: Egm, tmp_path: Path, name: str, image: np.ndarray
) -> None:
    (tmp_path / name).write_bytes(_encoded(".png", image))
    done = ask(tmp_path / name, "the red mug")
    if done.returncode == 0:
        assert done.stderr == ""
    else:
        assert_refused(done, 2, "expected", "found")


# --- texts -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "words"),
    [
        pytest.param("", ["empty text"], id="empty"),
        pytest.param("mug " * 2500, ["10,000 characters", "2,000", "shorten"], id="10 kB"),
        pytest.param("mug \x1b[31m", ["U+001B"], id="terminal escape"),
        pytest.param("mug <|im_end|>", ["<|im_end|>"], id="the model's own marker"),
    ],
)
def test_unusable_texts_are_refused_before_the_bundle_is_opened(
    egm: Egm, picture: Path, text: str, words: list[str]
) -> None:
    assert_refused(egm("ground", picture, text, "--bundle", "/no/such/bundle"), 2, *words)


@pytest.mark.parametrize(
    "text", ["الكوب الأحمر", "красная кружка", "🟥 mug", "x" * 2000], ids=["ar", "ru", "emoji", "2,000"]
)
def test_any_script_is_answered(ask: Egm, picture: Path, text: str) -> None:
    done = ask(picture, text)
    assert done.returncode == 0, done.stderr


def test_a_saved_picture_needs_a_place_before_work_starts(ask: Egm, picture: Path, tmp_path: Path) -> None:
    assert_refused(ask(picture, "mug", "--save", tmp_path / "no" / "out.png"), 2, "mkdir -p")
    assert_refused(ask(picture, "mug", "--save", tmp_path / "out.gif"), 2, ".png")


# --- bundles ---------------------------------------------------------------------------------------------------------


def _largest(bundle: Path) -> Path:
    return max((p for p in bundle.rglob("*") if p.is_file()), key=lambda p: p.stat().st_size)


def _truncate(bundle: Path) -> None:
    path = _largest(bundle)
    os.truncate(path, path.stat().st_size // 2)


def _tamper(bundle: Path) -> None:
    path = _largest(bundle)
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def _age(bundle: Path) -> None:
    path = bundle / MANIFEST_NAME
    values = json.loads(path.read_text())
    path.write_text(json.dumps(values | {"schema_version": 99, "egm_edge_version": "9.9"}))


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        pytest.param(shutil.rmtree, ["nothing there", "egm build"], id="missing"),
        pytest.param(lambda b: (b / MANIFEST_NAME).unlink(), ["without bundle.json"], id="not a bundle"),
        pytest.param(_truncate, ["bytes", "found"], id="truncated"),
        pytest.param(_tamper, ["sha256", "altered"], id="tampered with"),
        pytest.param(_age, ["schema 2", "schema 99", "9.9"], id="another version"),
    ],
)
def test_damaged_bundles_are_refused(
    egm: Egm, tiny_bundle: Path, picture: Path, tmp_path: Path, damage: Callable[[Path], object], words: list[str]
) -> None:
    bundle = tmp_path / "bundle"
    shutil.copytree(tiny_bundle, bundle)
    damage(bundle)
    assert_refused(egm("ground", picture, "the red mug", "--bundle", bundle), 4, *words)
    assert_refused(egm("inspect", bundle), 4, *words)


def test_inspect_shows_what_a_bundle_is(egm: Egm, tiny_bundle: Path) -> None:
    done = egm("inspect", tiny_bundle)
    assert done.returncode == 0, done.stderr
    assert "qwen3_vl" in done.stdout
    assert "cpu, fp32" in done.stdout
    values = json.loads(egm("inspect", tiny_bundle, "--json").stdout)
    assert values["hash"] in done.stdout


def test_a_line_says_why_there_is_no_plain_answer() -> None:
    asked = Grounding(outcome=Outcome.UNPARSABLE, expression="mug", task=Task.MODAL, image_wh=(10, 10), reason=UnparsableReason.CUT)
    assert describe(asked).endswith("mug  (why: cut)")
    boxes = (Candidate(Box(0, 0, 1, 1)), Candidate(Box(2, 2, 3, 3)))
    assert describe(replace(asked, outcome=Outcome.AMBIGUOUS, reason=None, candidates=boxes)).endswith("(2 boxes named)")
