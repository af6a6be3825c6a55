"""The pack: known licences only, credited where it lies, small, and every noun taught."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest

from egm_edge.assets import ASSETS_DIR
from egm_edge.synthetic.household.assets import FOLDER, assets, attribution, parts_of
from egm_edge.synthetic.vocabulary import ALL_COLOURS, NOUNS


def test_every_object_has_an_author_and_a_licence_that_allows_this() -> None:
    assert {asset.licence for asset in assets()} == {"CC0", "CC-BY 3.0", "CC-BY 3.0 US"}
    assert all(asset.author and asset.model.endswith(".obj") for asset in assets())
    for asset in assets():
        assert asset.author in attribution() and asset.model in attribution()


def test_the_credit_that_is_shipped_is_the_generated_one() -> None:
    """Beside the pack, and beside the weights where they were trained on pictures of it."""
    card = (ASSETS_DIR / "egm-nano" / "README.md").read_text(encoding="utf-8")
    for folder in (FOLDER, *([ASSETS_DIR / "egm-nano"] if "ATTRIBUTION.md" in card else [])):
        assert (folder / "ATTRIBUTION.md").read_text(encoding="utf-8") == attribution()


def test_seventy_objects_of_forty_nouns_in_three_megabytes() -> None:
    assert len(assets()) >= 70 and len({asset.noun for asset in assets()}) == 40
    assert {asset.noun for asset in assets()} <= set(NOUNS)
    assert {asset.colour for asset in assets()} <= {"", *ALL_COLOURS}
    assert sum(path.stat().st_size for path in FOLDER.iterdir()) <= 3_000_000


def test_a_held_out_instance_leaves_others_of_its_noun() -> None:
    kept = Counter(asset.noun for asset in assets() if not asset.held_out)
    held = [asset for asset in assets() if asset.held_out]
    assert len(held) >= 6 and all(kept[asset.noun] >= 2 for asset in held)


@pytest.mark.parametrize("key", ["hamburger", "coffee-mug"], ids=["textured", "plain"])
def test_meshes_stand_on_the_table(key: str) -> None:
    parts = parts_of(key)
    points = np.concatenate([part.vertices for part in parts])
    assert abs(points[:, 2].min()) < 0.005 and 0.05 < points[:, 2].max() < 0.4, "metres, z up, foot at 0"
    assert any(part.texture is not None for part in parts) == (key == "hamburger")
    for part in parts:
        assert part.faces.max() < len(part.vertices)
