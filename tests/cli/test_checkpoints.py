"""`egm ground` and `egm evaluate` on a checkpoint directory, as on its bundle."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.cli.conftest import Egm, assert_refused

TEXTS = ("the red mug", "左边的杯子")


def answers(egm: Egm, picture: Path, directory: Path) -> list[tuple[str, str, object]]:
    done = egm("ground", picture, *TEXTS, "--bundle", directory, "--json", "--max-new-tokens", "16")
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    rows = [json.loads(line) for line in done.stdout.splitlines()]
    return [(row["text"], row["outcome"], row["box"]) for row in rows]


def test_ground_gives_the_text_of_the_fp32_bundle(
    egm: Egm, picture: Path, tiny_qwen3_vl: Path, tiny_bundle: Path
) -> None:
    found = answers(egm, picture, tiny_qwen3_vl)
    assert len(found) == len(TEXTS) and all(text for text, _, _ in found)
    assert found == answers(egm, picture, tiny_bundle)


def test_timings_name_transformers(egm: Egm, picture: Path, tiny_qwen3_vl: Path) -> None:
    done = egm("ground", picture, "the mug", "--bundle", tiny_qwen3_vl, "--timings", "--json", "--max-new-tokens", "4")
    [row] = [json.loads(line) for line in done.stdout.splitlines()]
    assert row["run"]["engine"].startswith("transformers ") and row["run"]["precision"] == "fp32"
    assert row["timings"]["vision_ms"] > 0 < row["timings"]["prefill_ms"]


def test_evaluate_gives_the_records_of_the_fp32_bundle(
    egm: Egm, picture: Path, tiny_qwen3_vl: Path, tiny_bundle: Path, tmp_path: Path
) -> None:
    data = tmp_path / "rows.jsonl"
    rows = [{"image": picture.name, "expression": text, "box": [10, 10, 40, 40], "id": text} for text in TEXTS]
    data.write_text("".join(json.dumps(row) + "\n" for row in rows))
    records = []
    for name, directory in (("checkpoint", tiny_qwen3_vl), ("bundle", tiny_bundle)):
        out = tmp_path / name
        done = egm(
            "evaluate", directory, "--data", data, "--images", picture.parent, "--out", out, "--budgets", "12", "--json"
        )
        assert done.returncode == 0, done.stderr
        lines = [json.loads(line) for line in (out / "records.jsonl").read_text().splitlines()]
        records.append([(line["id"], line["text"], line["iou"]) for line in lines if "text" in line])
    assert records[0] == records[1] and len(records[0]) == len(TEXTS)


@pytest.mark.parametrize("verb", ["ground", "evaluate"])
def test_a_directory_of_pickles_is_refused(
    egm: Egm, picture: Path, tiny_qwen3_vl: Path, tmp_path: Path, verb: str
) -> None:
    (tmp_path / "config.json").write_text((tiny_qwen3_vl / "config.json").read_text())
    (tmp_path / "pytorch_model.bin").write_bytes(b"")
    data = tmp_path / "rows.jsonl"
    data.write_text(json.dumps({"image": picture.name, "expression": "a", "box": [1, 1, 4, 4], "id": "1"}) + "\n")
    arguments = {
        "ground": (picture, "the mug", "--bundle", tmp_path),
        "evaluate": (tmp_path, "--data", data, "--images", picture.parent, "--out", tmp_path / "out"),
    }
    assert_refused(egm(verb, *arguments[verb]), 3, "safetensors")
