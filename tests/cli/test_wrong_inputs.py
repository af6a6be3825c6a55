"""A hundred and forty things people type wrong: each is one line that says what was expected, what was found and what to do."""

from __future__ import annotations

import json
import os
import re
import shutil
import struct
from pathlib import Path

import pytest

from egm_edge.assets import shipped_bundle, shipped_checkpoint
from egm_edge.cli import main

FRAME = Path(__file__).resolve().parents[2] / "examples" / "frames" / "tabletop_1.png"
NANO = str(shipped_bundle())

WRONG = [
    # verbs and options
    ("", 2, "usage"),
    ("grond a.png mug", 2, "grond"),
    ("ground", 2, "IMAGE"),
    ("ground frame.png", 2, "a TEXT"),
    ("ground frame.png mug --tas modal", 2, "--tas"),
    ("ground frame.png mug --task whole", 2, "modal"),
    ("ground frame.png mug --threads 0", 2, "from 1 to 512"),
    ("ground frame.png mug --samples 33", 2, "from 1 to 32"),
    ("ground frame.png mug --deadline-ms nan", 2, "above 0"),
    ("ground frame.png mug --deadline-ms -1", 2, "above 0"),
    ("ground frame.png mug --max-new-tokens 0", 2, "from 1"),
    ("ground frame.png mug --every 0", 2, "from 1"),
    ("ground frame.png mug --memory huge", 2, "auto"),
    # pictures
    ("ground none.png mug", 2, "none.png"),
    ("ground folder mug", 2, "none"),
    ("ground *.jpg --ask mug", 2, "none that match"),
    ("ground notes.txt mug", 2, "JPEG"),
    ("ground empty.png mug", 2, "no bytes"),
    ("ground http://127.0.0.1:9/a.png mug", 2, "--allow-urls"),
    ("ground http://127.0.0.1:9/a.png mug --allow-urls", 2, "check the address"),
    ("ground broken.mp4 mug", 2, "video"),
    ("ground camera:99 mug", 2, "camera"),
    ("ground frame.png copy.png mug", 2, "--ask"),
    ("ground frame.png copy.png", 2, "--ask"),
    ("ground the_mug frame.png", 2, "the file 'frame.png'"),
    ("ground <words> frame.png", 2, "the picture comes first: egm ground frame.png"),
    ("ground frame.png --ask copy.png", 2, "the file 'copy.png'"),
    ("ground frame.png mug --ask bowl", 2, "nothing at mug"),
    ("ground rows.jsonl mug", 2, "JPEG"),
    ("ground cut.png mug", 2, "complete and undamaged"),
    ("ground video.png mug", 2, "a video by its first bytes"),
    ("ground bomb.png mug", 2, "64 megapixels"),
    ("ground loop.png mug", 2, "symbolic links"),
    ("ground /dev/zero mug", 2, "no regular file"),
    ("ground <name of 5000> mug", 2, "too long"),
    ("ground <two lines> mug", 2, "nothing at two lines"),
    ("ground ftp://127.0.0.1/a.png mug", 2, "http(s)"),
    ("ground file:///tmp/a.png mug", 2, "the path of a file"),
    ("ground <spaced address> mug --allow-urls", 2, "check the address"),
    ("ground camera:abc mug", 2, "camera:0"),
    ("ground camera:99999999999999999999 mug", 2, "camera:0"),
    ("ground - - --ask mug", 2, "stdin once"),
    # texts
    ("ground frame.png <not unicode>", 2, "printable"),
    ("ground frame.png --ask <empty>", 2, "empty"),
    ("ground frame.png mug --bogus <two lines>", 2, "--bogus two lines"),
    ("ground frame.png mug --samples 1.5", 2, "from 1 to 32"),
    ("ground frame.png mug --deadline-ms inf", 2, "above 0"),
    ("ground frame.png mug --max-think-tokens -1", 2, "from 0"),
    ("ground frame.png <empty>", 2, "empty"),
    ("ground frame.png <|im_end|>", 2, "<|im_end|>"),
    ("ground frame.png <long>", 2, "2,000"),
    # where boxes are saved
    ("ground frame.png mug --save frame.png", 2, "a picture to read"),
    ("ground frame.png mug --save out.gif", 2, ".png"),
    ("ground frame.png mug --save no/such/out.png", 2, "mkdir -p"),
    ("ground frame.png copy.png --ask mug --save out.png", 2, "FOLDER/"),
    ("ground frame.png copy.png --ask mug --save .", 2, "a picture to read"),
    ("ground frame.png mug --save <empty>", 2, "name one"),
    ("ground frame.png mug --save notes.txt", 2, ".png"),
    ("ground frame.png copy.png --ask mug --save copy.png/", 2, "File exists"),
    ("ground same --ask mug --save boxes/", 2, "two of one name"),
    ("ground frame.png mug --save <picture of 300>", 2, "File name too long; choose another place"),
    ("ground frame.png mug --save /proc/x.png", 2, "to write /proc/x.png"),
    ("track frame.png --box 1,1,9,9 --record <name of 300>", 2, "File name too long; choose another place"),
    ("track frame.png --box 1,1,9,9 --record /proc/x", 2, "to write /proc/x"),
    ("data flip rows.jsonl -o <name of 300>", 2, "File name too long; choose another place"),
    ("data flip rows.jsonl -o /proc/x", 2, "to write /proc/x"),
    ("data traces rows.jsonl --images . --model m --endpoint http://x -o a.jsonl --ledger rows.jsonl", 2, "which is read"),
    ("data split rows.jsonl -o /proc", 2, "to write /proc/train.jsonl"),
    ("measure {nano} --out /proc", 2, "to write /proc/measure.json"),
    ("measure {nano} --out <name of 300>", 2, "File name too long; choose another --out"),
    ("calibrate {nano} --data rows.jsonl --dry-run --out /proc", 2, "to write /proc/calibration.json"),
    ("evaluate {nano} --data rows.jsonl --out /proc/x", 2, "choose another --out"),
    ("evaluate {nano} --data rows.jsonl --out <name of 300>", 2, "File name too long; choose another --out"),
    ("build egm-nano -o <name of 300>", 5, "File name too long"),
    ("build egm-nano -o /proc/x", 5, "/proc/x"),
    ("train nano --evaluate folder --table /proc/x", 2, "to write /proc/x"),
    ("setup edgellm --host --into /proc/x", 2, "to write /proc/x.lock"),
    ("build <name of 300> -o out", 2, "expected a path; found aaa"),
    ("measure {nano} --frames <name of 300>", 2, "expected a path; found aaa"),
    ("data check <name of 300>", 2, "expected a path; found aaa"),
    ("train plan <name of 300>", 2, "expected a path; found aaa"),
    ("train nano --only base --carry /proc/x", 2, "to write /proc/x"),
    ("train nano --out /proc/x", 2, "choose another --out"),
    # models
    ("ground frame.png mug --bundle /no/such", 4, "nothing there"),
    ("ground frame.png mug --bundle egm-nan", 4, "did you mean egm-nano"),
    ("ground frame.png mug --bundle folder", 4, "without bundle.json"),
    ("ground frame.png mug --bundle notes.txt", 4, "which is a file"),
    ("ground frame.png mug --bundle model.gguf", 4, "llama.cpp"),
    ("ground frame.png mug --bundle http://127.0.0.1:9", 6, "check the server"),
    ("ground frame.png mug --bundle http://127.0.0.1:9 --timings", 2, "leave --timings out"),
    ("ground frame.png mug --bundle old", 4, "schema"),
    ("ground frame.png mug --bundle cut", 4, "bytes"),
    ("ground frame.png mug --bundle <empty>", 4, "nothing there"),
    ("ground frame.png mug --bundle EGM-Nano", 4, "did you mean egm-nano"),
    ("ground frame.png mug --bundle localhost:8000", 4, "did you mean http://localhost:8000"),
    ("ground frame.png mug --bundle http://127.0.0.1:99999", 2, "an address such as"),
    ("ground frame.png mug --bundle <spaced address>", 2, "an address such as"),
    ("ground frame.png mug --bundle half", 4, "no such file"),
    ("ground frame.png mug --bundle shard", 3, "model-00002-of-00002.safetensors"),
    ("ground frame.png mug --bundle torn", 3, "a complete safetensors file"),
    ("serve /no/such", 4, "nothing there"),
    ("serve http://127.0.0.1:9", 2, "taken for a server address"),
    ("measure /no/such", 4, "nothing there"),
    ("measure http://127.0.0.1:9", 2, "taken for a server address"),
    ("inspect /no/such", 4, "nothing there"),
    ("inspect folder", 4, "without bundle.json"),
    ("inspect http://127.0.0.1:9", 2, "taken for a server address"),
    ("calibrate {nano}", 2, "--data"),
    ("calibrate /no/such --data rows.jsonl", 4, "nothing there"),
    ("calibrate {nano} --data far.jsonl --dry-run", 2, "far.jsonl:1"),
    ("calibrate egm-nano --data rows.jsonl", 2, "egm build egm-nano"),
    ("calibrate {nano} --data rows.jsonl --dry-run --out frame.png", 2, "choose another --out"),
    ("calibrate {nano} --data rows.jsonl --dry-run --keep-in /no/such", 2, "a directory /no/such"),
    ("calibrate {checkpoint} --data rows.jsonl", 2, "taken for a checkpoint directory"),
    ("evaluate {nano} --data none.jsonl", 2, "none.jsonl"),
    ("evaluate /no/such --data rows.jsonl --images .", 4, "nothing there"),
    ("verify {nano} --reference /nope", 3, "nothing there"),
    ("verify /no/such --reference egm-nano", 4, "nothing there"),
    ("verify {nano} --scenes 5", 2, "--reference"),
    ("verify {nano} --reference egm-nano --url http://127.0.0.1:9", 2, "found both"),
    ("verify {nano} --reference egm-nano --limit 3", 2, "--data"),
    ("verify {nano} --reference egm-nano --data rows.jsonl --scenes 3", 2, "found both"),
    ("verify {nano} --reference egm-nano --brief", 2, "found both"),
    ("verify {nano} --model m", 2, "--url"),
    ("verify {nano} --reference <empty>", 3, "nothing there"),
    # options that would do nothing
    ("ground frame.png mug --every 3", 2, "a video or a camera with --every, found frame.png; leave --every out"),
    ("ground frame.png mug --bundle http://127.0.0.1:9 --threads 2", 2, "a bundle or checkpoint with --threads"),
    ("ground frame.png mug --bundle http://127.0.0.1:9 --memory low", 2, "a bundle or checkpoint with --memory"),
    ("track frame.png --box 1,1,9,9 --bundle {nano}", 2, "--ask TEXT with --bundle"),
    ("track frame.png --box 1,1,9,9 --task amodal", 2, "--ask TEXT with --task"),
    ("evaluate {nano} --data rows.jsonl --family nonsense", 2, "a server's address with --family"),
    ("evaluate {nano} --data rows.jsonl --coordinates pixels", 2, "a server's address with --coordinates"),
    ("evaluate {nano} --data rows.jsonl --timeout-s 5", 2, "a server's address with --timeout-s"),
    ("evaluate http://127.0.0.1:9 --data rows.jsonl --threads 2", 2, "a bundle with --threads"),
    ("evaluate http://127.0.0.1:9 --data rows.jsonl --deadline-ms 100", 2, "a bundle with --deadline-ms"),
    ("calibrate {nano} --remove --dry-run", 2, "no --remove with --dry-run, found both"),
    ("calibrate {nano} --remove --data rows.jsonl", 2, "no --remove with --data, found both"),
    ("calibrate {nano} --held-out rows.jsonl --keep-in folder", 2, "--data FILE with --keep-in"),
    ("measure {nano} --pairs 3", 2, "--beside PEER with --pairs"),
    ("measure {nano} --beside transformers --checkpoint folder --peer-model m", 2, "another --beside with --peer-model"),
    ("measure {nano} --beside http://127.0.0.1:9 --beside-dtype float32", 2, "--beside transformers with --beside-dtype"),
    ("verify {nano} --max-new-tokens 5", 2, "--reference CHECKPOINT with --max-new-tokens"),
    ("verify {nano} --url http://127.0.0.1:9 --threads 2", 2, "no --url with --threads, found both"),
    ("train nano --direct", 2, "--evaluate CHECKPOINT with --direct"),
    ("train nano --evaluate folder --smoke", 2, "no --evaluate with --smoke, found both"),
    ("train nano --only base --carry state.pt --smoke", 2, "no --carry with --smoke, found both"),
    ("data convert rows.jsonl --kind rows --pictures folder -o out.jsonl", 2, "leave --pictures out"),
    # numbers that are none
    ("data traces rows.jsonl --images . --model m --endpoint http://x --price nan 1 -o out.jsonl", 2, "from 0, found 'nan'"),
    ("data traces rows.jsonl --images . --model m --endpoint http://x --price 0 inf -o out.jsonl", 2, "from 0, found 'inf'"),
    ("data traces rows.jsonl --images . --model m --endpoint http://x --price 0 -1 -o out.jsonl", 2, "--price"),
    ("data split rows.jsonl --val nan -o out", 2, "above 0"),
    ("train nano --minutes inf", 2, "above 0"),
    ("track frame.png --box 1,1,9,9 --fps nan", 2, "above 0"),
    ("measure {nano} --rate inf", 2, "up to 1000"),
    ("evaluate HTTP://127.0.0.1:9 --data rows.jsonl --tries 1", 6, "check the server"),
    # building
    ("build /no/such --target cpu -o out", 3, "nothing there"),
    ("build folder --target cpu -o out", 3, "config.json"),
    ("build egm-nano --target jetson -o out", 2, "jetson-orin-nano"),
    ("build egm-nano --target cpu --precision int5 -o out", 5, "int8"),
    ("build egm-nano --target cpu", 2, "--output"),
    ("build egm-nano --target jetson-agx-orin --precision fp8 -o out", 5, "int8"),
    ("targets jetson", 2, "jetson-orin-nano"),
    ("recommend --device toaster", 2, "egm targets"),
    ("recommend --device jetson", 2, "jetson-orin-nano"),
    ("build egm-nano --calibration none.jsonl -o out", 2, "no file none.jsonl"),
    ("build egm-nano --max-pixels abc -o out", 2, "--max-pixels"),
    ("build egm-nano --max-pixels 0 -o out", 2, "from 1"),
    ("build egm-nano --batch -1 -o out", 2, "from 1"),
    ("build egm-nano --calibration rows.jsonl -o out", 2, "leave --calibration out"),
    ("build egm-nano --target vllm --calibration rows.jsonl -o out", 2, "vllm in bf16"),
    ("build {nano} -o out", 3, "taken for a bundle directory"),
    ("build <empty> -o out", 3, "nothing there"),
    ("targets <empty>", 2, "egm targets"),
    ("recommend --device <empty>", 2, "egm targets"),
    # the other verbs
    ("track none.mp4 --box 1,2,3,4", 2, "nothing at none.mp4"),
    ("track frame.png --box 4,4,1,1", 2, "X1 < X2"),
    ("track frame.png --ask mug --save out.gif", 2, ".mp4"),
    ("track frame.png --box 900,900,950,950", 2, "640x480"),
    ("track frame.png --box nan,1,2,3", 2, "X1 < X2"),
    ("track frame.png --box 1,1,9,9 --record folder", 2, "a folder"),
    ("track frame.png --box 1,1,9,9 --record pipe.png", 2, "a device or a pipe"),
    ("ground frame.png mug --save pipe.png", 2, "a device or a pipe"),
    ("data flip rows.jsonl -o pipe.png", 2, "not a regular file"),
    ("track frame.png --box 1,1,9,9 --record a.mp4 --save a.mp4", 2, "twice"),
    ("track http://127.0.0.1:9/a.mp4 --box 1,1,9,9", 2, "download it first"),
    ("verify notes.txt", 4, "which is a file"),
    ("verify {nano} --url notaurl", 2, "http://localhost:8000"),
    ("serve {nano} --port 99999", 2, "65,535"),
    ("serve {nano} --fetch-network abc", 2, "network"),
    ("measure {nano} --sweep foo=1", 2, "resolution"),
    ("measure {nano} --frames none", 2, "--frames"),
    ("measure {nano} --frames frame.png", 2, "a file at frame.png"),
    ("measure {nano} --sweep resolution=99999x99999", 2, "resolution"),
    ("measure {nano} --expression <empty>", 2, "empty"),
    ("measure {nano} --beside transformers --checkpoint /no/such", 3, "nothing at"),
    ("measure compare notes.txt notes.txt", 2, "egm measure --out"),
    ("evaluate {nano} --data notes.txt", 2, "notes.txt:1"),
    ("evaluate score folder", 2, "run egm evaluate first"),
    ("data scenes --suites foo -o out", 2, "--suites"),
    ("data nothing", 2, "flip"),
    ("data flip rows.jsonl -o rows.jsonl", 2, "which is read"),
    ("data split split/train.jsonl --val 0.5 -o split", 2, "train.jsonl, which is read"),
    ("train nothing", 2, "grpo"),
    ("train plan none.yaml", 2, "qwen3-vl"),
    ("completion fish", 2, "bash"),
]


@pytest.fixture(scope="module")
def here(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a picture, a text file and damaged bundles."""
    root = tmp_path_factory.mktemp("wrong")
    for name in ("frame.png", "copy.png"):
        shutil.copy(FRAME, root / name)
    for name, content in {"notes.txt": "hello", "empty.png": "", "broken.mp4": "no video", "model.gguf": "GGUF"}.items():
        (root / name).write_text(content)
    (root / "folder").mkdir()
    os.mkfifo(root / "pipe.png")
    (root / "cut.png").write_bytes(FRAME.read_bytes()[:5000])
    (root / "bomb.png").write_bytes(FRAME.read_bytes()[:16] + struct.pack(">II", 60_000, 60_000) + FRAME.read_bytes()[24:])
    (root / "video.png").write_bytes(b"\0\0\0\x20ftypisom\0\0\2\0isomiso2avc1mp41" + bytes(64))
    (root / "loop.png").symlink_to("loop.png")
    (root / "same").mkdir()
    (root / "split").mkdir()
    for name in ("a.png", "a.jpg"):
        shutil.copy(FRAME, root / "same" / name)
    row = {"image": "frame.png", "expression": "the red bowl", "box": [22, 84, 161, 163], "width": 640, "height": 480}
    for name in ("rows.jsonl", "split/train.jsonl"):
        (root / name).write_text(json.dumps(row) + "\n")
    far = {"image": "frame.png", "expression": "the red bowl", "box": [22, 84, 5000, 163]}
    (root / "far.jsonl").write_text(json.dumps(far) + "\n")
    for name in ("old", "cut"):
        shutil.copytree(NANO, root / name)
    manifest = json.loads((root / "old" / "bundle.json").read_text())
    (root / "old" / "bundle.json").write_text(json.dumps(manifest | {"schema_version": 99}))
    largest = max((p for p in (root / "cut").rglob("*") if p.is_file()), key=lambda p: p.stat().st_size)
    largest.write_bytes(largest.read_bytes()[:100])
    shutil.copytree(NANO, root / "half", ignore=shutil.ignore_patterns("*.npy", "*.data"))
    for name in ("shard", "torn"):
        shutil.copytree(shipped_checkpoint(), root / name)
    index = {"weight_map": {"a": "model.safetensors", "b": "model-00002-of-00002.safetensors"}}
    (root / "shard" / "model.safetensors.index.json").write_text(json.dumps(index))
    weights = root / "torn" / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:100_000])
    return root


WORDS = {
    "<empty>": "", "<long>": "mug " * 600, "<words>": "the red mug", "<two lines>": "two\nlines", "<not unicode>": "\udcff mug",
    "<name of 5000>": "a" * 5000, "<name of 300>": "a" * 300,
    "<picture of 300>": "a" * 300 + ".png", "<spaced address>": "http://127.0.0.1:9/a b.png",
}  # fmt: skip


@pytest.mark.parametrize(("line", "code", "said"), WRONG, ids=[line or "nothing" for line, _, _ in WRONG])
def test_it_is_one_line(
    line: str, code: int, said: str, here: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(here)
    monkeypatch.delenv("EGM_BUNDLE", raising=False)
    places = {"{nano}": NANO, "{checkpoint}": str(shipped_checkpoint())}
    arguments = [(WORDS | places).get(w, w) for w in re.findall(r"<[^>]*>|\S+", line) if w]
    before = {path: path.read_bytes() for path in here.iterdir() if path.is_file()}
    try:
        found = main(arguments)
    except SystemExit as stopped:
        found = int(stopped.code or 0)
    output = capfd.readouterr()
    told = [text for text in output.err.splitlines() if not text.startswith("[")]  # OpenCV's own warnings
    assert found == code, output.err
    assert said in output.err and "Traceback" not in output.err
    assert line == "" or len(told) == 1, output.err
    assert output.out == ""
    assert {path: path.read_bytes() for path in here.iterdir() if path.is_file()} == before
