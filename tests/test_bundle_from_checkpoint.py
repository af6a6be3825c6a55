"""What is said of a checkpoint's weights before any is read."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from egm_edge.bundle_from_checkpoint import check_weights
from egm_edge.errors import CheckpointError


def _weights(header: object, data: bytes = b"0000") -> bytes:
    written = json.dumps(header).encode()
    return len(written).to_bytes(8, "little") + written + data


def _tensor(end: object) -> dict[str, object]:
    return {"dtype": "F32", "shape": [1], "data_offsets": [0, end]}


def test_a_whole_file_passes(tmp_path: Path) -> None:
    (tmp_path / "model.safetensors").write_bytes(_weights({"__metadata__": {"format": "pt"}, "a": _tensor(4)}))
    check_weights(tmp_path)


@pytest.mark.parametrize(
    "content",
    [
        pytest.param(_weights({"a": _tensor(8)}), id="cut short"),
        pytest.param(_weights({"a": _tensor("x")}), id="an offset in words"),
        pytest.param(_weights({"a": _tensor(None), "b": _tensor(4)}), id="an offset of null"),
        pytest.param(_weights([1]), id="a list for a header"),
        pytest.param((1 << 62).to_bytes(8, "little"), id="a header beyond all sizes"),
        pytest.param(b"", id="nothing"),
    ],
)
def test_damaged_weights_are_told_in_a_line(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "model.safetensors").write_bytes(content)
    with pytest.raises(CheckpointError, match="complete safetensors file"):
        check_weights(tmp_path)


@pytest.mark.parametrize("weight_map", [[], {"a": []}, {"a": "x" * 5000}, {"a": "x\0y"}, {"a": "model-1.safetensors"}])
def test_an_index_that_names_no_files(tmp_path: Path, weight_map: object) -> None:
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps({"weight_map": weight_map}))
    with pytest.raises(CheckpointError, match=r"weight_map|every shard"):
        check_weights(tmp_path)


@pytest.mark.parametrize(
    "made",
    [
        pytest.param(lambda path: path.mkdir(), id="a folder"),
        pytest.param(lambda path: path.symlink_to("nowhere"), id="a link to nothing"),
    ],
)
def test_weights_that_cannot_be_read(tmp_path: Path, made: Callable[[Path], None]) -> None:
    made(tmp_path / "model.safetensors")
    with pytest.raises(CheckpointError, match="readable safetensors file"):
        check_weights(tmp_path)
