"""The household pack: which objects there are, by whom and under which licence, and their meshes.

`assets.csv` has a row an object, `pack.npz` its parts. Knows nothing of rendering.
"""

from __future__ import annotations

import csv
import functools
from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from egm_edge.assets import ASSETS_DIR

FOLDER = ASSETS_DIR / "household"
_CREDIT = """\
# Household objects: attribution

The meshes in `pack.npz` were made by the authors below, published with the furniture libraries of Sweet Home 3D
(www.sweethome3d.com) and are under the licences named. They were changed: scaled, decimated, textures reduced. Pictures
rendered from them, and EGM-Nano, which was trained on such pictures, carry this list with them.

| object | author | licence | model |
|---|---|---|---|
"""
_LICENCES = {
    "CC0": "[CC0](https://creativecommons.org/publicdomain/zero/1.0/)",
    "CC-BY 3.0": "[CC-BY 3.0](https://creativecommons.org/licenses/by/3.0/)",
    "CC-BY 3.0 US": "[CC-BY 3.0 US](https://creativecommons.org/licenses/by/3.0/us/)",
}


@dataclass(frozen=True, slots=True)
class Asset:
    """One object.

    Attributes:
        noun: a word of `vocabulary.NOUNS`.
        key: of its arrays in the pack.
        name, author, licence, model: what its library says of it.
        colour: the word that fits it as it is, "" where no single one does.
        repaint: its main part may be painted in any colour.
        held_out: kept from training.
        solid: a mesh made by formula (`solids`), not one of the pack.
    """

    noun: str
    key: str
    name: str
    author: str
    licence: str
    model: str
    colour: str
    repaint: bool
    held_out: bool
    solid: bool = False


@dataclass(frozen=True, slots=True)
class Part:
    """A piece of one material.

    Attributes:
        vertices: [V, 3] float32, metres, z up, the object's foot at the origin.
        faces: [F, 3] int64.
        rgb: [3] float32, 0-1, where there is no texture.
        uv: [V, 2] float32 or None; texture: [h, w, 3] uint8 RGB or None.
    """

    vertices: NDArray[np.float32]
    faces: NDArray[np.int64]
    rgb: NDArray[np.float32]
    uv: NDArray[np.float32] | None
    texture: NDArray[np.uint8] | None


@functools.cache
def assets() -> tuple[Asset, ...]:
    """Every object of the pack, in the table's order."""
    with (FOLDER / "assets.csv").open(newline="", encoding="utf-8") as stream:
        return tuple(
            Asset(**{**row, "repaint": row["repaint"] == "1", "held_out": row["held_out"] == "1"})  # type: ignore[arg-type]
            for row in csv.DictReader(stream)
        )


def parts_of(key: str) -> list[Part]:
    """The parts of an object."""
    found: list[Part] = []
    with np.load(FOLDER / "pack.npz") as pack:
        while f"{key}/v{len(found)}" in pack:
            at = len(found)
            uv = texture = None
            if f"{key}/t{at}" in pack:
                uv = pack[f"{key}/u{at}"].astype(np.float32)
                bgr = cv2.imdecode(pack[f"{key}/t{at}"], cv2.IMREAD_COLOR)
                texture = np.asarray(bgr, np.uint8)[..., ::-1]
            vertices, faces = pack[f"{key}/v{at}"].astype(np.float32), pack[f"{key}/f{at}"].astype(np.int64)
            found.append(Part(vertices, faces, pack[f"{key}/rgb{at}"], uv, texture))
    return found


def attribution() -> str:
    """The list of authors and licences, Markdown."""
    rows = (f"| {a.name} ({a.noun}) | {a.author} | {_LICENCES[a.licence]} | `{a.model}` |" for a in assets())
    return _CREDIT + "\n".join(rows) + "\n"
