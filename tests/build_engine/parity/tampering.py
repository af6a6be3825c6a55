"""Bundles with one mistake in them, sealed as a wrong builder would have sealed them: every hash is right."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import numpy_helper

from egm_edge.bundle import MANIFEST_NAME, FileRecord, Manifest, sha256_of
from egm_edge.families import PromptSpec
from egm_edge.pixels import PixelSpec


def copy_of(bundle: Path, out_dir: Path) -> Path:
    return Path(shutil.copytree(bundle, out_dir))


def edit_manifest(root: Path, change: Callable[[dict[str, Any]], None]) -> None:
    """Change values of the manifest, then seal it: file, spec and manifest hashes are made to fit."""
    manifest = Manifest.from_json((root / MANIFEST_NAME).read_text())
    values = json.loads(json.dumps(asdict(manifest)))
    change(values)
    values["pixel_spec_hash"] = PixelSpec.from_dict(values["pixel_spec"]).hash
    values["prompt_spec_hash"] = PromptSpec.from_dict(values["prompt_spec"]).hash
    values["files"] = {
        name: FileRecord(sha256_of(root / name), (root / name).stat().st_size) for name in values["files"]
    }
    (root / MANIFEST_NAME).write_text(replace(manifest, **values).to_json())


def seal(root: Path) -> None:
    edit_manifest(root, lambda values: None)


def edit_weight(root: Path, graph: str, name: str, change: Callable[[np.ndarray], np.ndarray]) -> None:
    """Change one initializer of an ONNX graph in place (same shape and type)."""
    path = next(path for folder in ("graphs", "portable") if (path := root / folder / f"{graph}.onnx").is_file())
    model = onnx.load(str(path))
    tensors = {tensor.name: tensor for tensor in model.graph.initializer}
    array = numpy_helper.to_array(tensors[name])
    changed = np.ascontiguousarray(change(array.copy()), array.dtype)
    assert changed.shape == array.shape and not np.array_equal(changed, array)
    tensors[name].CopyFrom(numpy_helper.from_array(changed, name))
    path.with_name(path.name + ".data").unlink()
    onnx.save(model, str(path), save_as_external_data=True, location=path.name + ".data", size_threshold=1024)
    seal(root)


def edit_array(root: Path, name: str, change: Callable[[np.ndarray], np.ndarray]) -> None:
    """Change a .npy file."""
    array = np.load(root / name)
    np.save(root / name, np.ascontiguousarray(change(array), array.dtype))
    seal(root)


def without_deepstack_additions(root: Path) -> None:
    """The decoder keeps its deep-stack inputs and adds none of them."""
    path = root / "graphs" / "decoder.onnx"
    model = onnx.load(str(path), load_external_data=False)
    skipped = {}
    for node in list(model.graph.node):
        if node.op_type == "Add" and any(name.startswith("deepstack_") for name in node.input):
            skipped[node.output[0]] = next(name for name in node.input if not name.startswith("deepstack_"))
            model.graph.node.remove(node)
    for node in model.graph.node:
        node.input[:] = [skipped.get(name, name) for name in node.input]
    assert skipped
    path.write_bytes(model.SerializeToString())
    seal(root)
