"""Held-out questions: suites of cases, each on a scene of its own, in both worlds and under a camera's accidents.

Evaluation seeds start at EVALUATION_SEED; training never reaches them. Knows nothing of models.
"""

from __future__ import annotations

import itertools
import random
import re
from collections.abc import Callable
from dataclasses import dataclass, replace

import cv2
import numpy as np
from numpy.typing import NDArray

from egm_edge.boxes import Box
from egm_edge.grounding import Task
from egm_edge.synthetic import Query, Scene, layout, render, sample_query, sample_scene
from egm_edge.synthetic.household import HouseholdScene, render_household, sample_household
from egm_edge.synthetic.household.assets import assets
from egm_edge.synthetic.query import World
from egm_edge.synthetic.render import Layout
from training.nano.augment import through_jpeg
from training.nano.unheard_words import UNHEARD_WORDS

EVALUATION_SEED = 900_000_000
CAMERA_WH = (640, 480)
WHOLLY_VISIBLE = 0.9
LEAST_SIDE_PX = 25
_TO_ANOTHER_SCENE = 1_000_000
_NO_NOUN = re.compile(r"\b(object|thing)\b")
Image = NDArray[np.uint8]

DRAWN_KINDS: tuple[str, ...] = ("attribute", "superlative", "ordinal", "relation")
HOUSEHOLD_KINDS: tuple[str, ...] = (*DRAWN_KINDS, "two-step")
ABSENT_KINDS: tuple[str, ...] = ("negative", "absent-superlative", "absent-ordinal", "absent-relation")


@dataclass(frozen=True, slots=True)
class Suite:
    """A set of held-out questions, one a scene.

    Attributes:
        name: what the model card calls it. objects: fewest and most.
        kinds: of the questions, in turn. task: modal, or amodal with a really occluded target.
        first_seed: its scenes' seeds follow this one.
        split: "" for the drawn world, else of `sample_household`; "instances" asks for objects held out from training.
        frame_wh: of the camera, pixels. accident: name in ACCIDENTS, "" for none.
        variety: as in `sample_query`. solid: share of solids of the drawn shapes, as in `sample_household`.
        shuffled: put every question to the picture of another scene, in which nothing has the target's noun.
    """

    name: str
    objects: tuple[int, int]
    kinds: tuple[str, ...]
    task: Task
    first_seed: int
    split: str = ""
    frame_wh: tuple[int, int] = CAMERA_WH
    accident: str = ""
    variety: float = 0.0
    solid: float = 0.0
    shuffled: bool = False

    def cases(self, count: int) -> list[SuiteCase]:
        """The first `count` cases, kinds in turn."""
        found: list[SuiteCase] = []
        seed = self.first_seed
        while len(found) < count:
            seed += 1
            case = self._case(seed, self.kinds[len(found) % len(self.kinds)], len(found))
            if case is not None:
                found.append(case)
        return found

    def _case(self, seed: int, kind: str, number: int) -> SuiteCase | None:
        world, where = self.scene(seed), self.layout(seed)
        query = sample_query(world, where, random.Random(seed), kind=kind, task=self.task, variety=self.variety)
        if query is None:
            return None
        if kind == "unknown-word":
            word = UNHEARD_WORDS[number % len(UNHEARD_WORDS)]
            query = replace(
                query, expression=("the {}", "{}", "the red {}", "the leftmost {}")[number // 25 % 4].format(word)
            )
        if query.target is not None:
            if self.task is Task.AMODAL and where.visible[query.target] >= WHOLLY_VISIBLE:
                return None
            thing = world.objects[query.target]
            if self.split and not _askable(where.modal[query.target], thing, self.split == "instances"):
                return None
            if self.accident in MOVING and query.box_norm1000:
                query = replace(query, box_norm1000=_moved_box(query.box_norm1000))
        return self._beside_another(seed, query) if self.shuffled else SuiteCase(self, seed, query)

    def _beside_another(self, seed: int, query: Query) -> SuiteCase | None:
        """The question beside another scene's picture; None where the target's noun is in it, or the question leaves a noun out."""
        assert query.target is not None
        noun = self.scene(seed).objects[query.target].shape
        there = any(thing.shape == noun for thing in self.scene(seed + _TO_ANOTHER_SCENE).objects)
        if there or _NO_NOUN.search(query.expression):
            return None
        return SuiteCase(self, seed + _TO_ANOTHER_SCENE, replace(query, target=None, box_norm1000=None))

    @property
    def _occlusion(self) -> float:
        return 1.0 if self.task is Task.AMODAL else 0.35

    def scene(self, seed: int) -> World:
        aspect = self.frame_wh[0] / self.frame_wh[1]
        if not self.split:
            return sample_scene(seed, self.objects, aspect=aspect, occlusion=self._occlusion)
        return sample_household(
            seed, self.objects, aspect=aspect, occlusion=self._occlusion, split=self.split, solid=self.solid
        )

    def layout(self, seed: int) -> Layout:
        scene = self.scene(seed)
        if isinstance(scene, HouseholdScene):
            return render_household(scene, *self.frame_wh).layout
        assert isinstance(scene, Scene)
        return layout(scene, *self.frame_wh)

    def frame(self, seed: int) -> Image:
        """[H, W, 3] uint8 RGB."""
        scene = self.scene(seed)
        if isinstance(scene, HouseholdScene):
            image = render_household(scene, *self.frame_wh).image
        else:
            assert isinstance(scene, Scene)
            image = render(scene, *self.frame_wh).image
        return ACCIDENTS[self.accident](image)


@dataclass(frozen=True, slots=True)
class SuiteCase:
    """One held-out question: its suite, the seed of its scene, the query."""

    suite: Suite
    seed: int
    query: Query

    def frame(self) -> Image:
        """The camera's frame, [H, W, 3] uint8 RGB."""
        return self.suite.frame(self.seed)


def _askable(box: Box | None, thing: object, only_held_out: bool) -> bool:
    """Large enough for the table of the card, and of the split that is asked for."""
    if box is None or np.sqrt(box.area_px2) < LEAST_SIDE_PX:
        return False
    held_out = {asset.key for asset in assets() if asset.held_out}
    return not only_held_out or getattr(thing, "key", "") in held_out


_SHRINK = 0.6


def _shrunk(image: Image) -> Image:
    """60 % of the size, in the middle of a plain frame."""
    height, width = image.shape[:2]
    canvas = np.empty_like(image)
    canvas[:] = np.median(image[:, (0, -1)].reshape(-1, 3), 0)
    small = cv2.resize(image, (round(width * _SHRINK), round(height * _SHRINK)), interpolation=cv2.INTER_AREA)
    top, left = (height - small.shape[0]) // 2, (width - small.shape[1]) // 2
    canvas[top : top + small.shape[0], left : left + small.shape[1]] = small
    return canvas


def _moved_box(box: tuple[float, float, float, float]) -> tuple[float, float, float, float]:
    x1, y1, x2, y2 = (500 + (v - 500) * _SHRINK for v in box)
    return x1, y1, x2, y2


def _hue(image: Image) -> Image:
    """Hue turned by 12 of OpenCV's 180."""
    hsv = cv2.cvtColor(image, cv2.COLOR_RGB2HSV)
    hsv[..., 0] = (hsv[..., 0].astype(np.int16) + 12) % 180
    return cv2.cvtColor(hsv, cv2.COLOR_HSV2RGB).astype(np.uint8, copy=False)


ACCIDENTS: dict[str, Callable[[Image], Image]] = {
    "": lambda image: image, "shrunk": _shrunk, "hue": _hue, "jpeg": lambda image: through_jpeg(image, 30),
}  # fmt: skip
"""What happens to a frame on its way to the model."""
MOVING = frozenset({"shrunk"})


_seed = itertools.count(EVALUATION_SEED, 2_000_000)
_THREE_TO_SIX = (3, 6)
MODAL = Suite("3-6 objects, modal", _THREE_TO_SIX, DRAWN_KINDS, Task.MODAL, next(_seed))
AMODAL = Suite("3-6 objects, amodal, occluded target", _THREE_TO_SIX, DRAWN_KINDS, Task.AMODAL, next(_seed))
NEGATIVE = Suite("3-6 objects, negative", _THREE_TO_SIX, ("negative",), Task.MODAL, next(_seed))
EASY = Suite("1-3 objects, attribute", (1, 3), ("attribute",), Task.MODAL, next(_seed))
ABSENT = Suite("3-6 objects, absent, every kind", _THREE_TO_SIX, ABSENT_KINDS, Task.MODAL, next(_seed))
UNHEARD = Suite("3-6 objects, unheard words", _THREE_TO_SIX, ("unknown-word",), Task.MODAL, next(_seed))
SHRUNK = replace(MODAL, name="3-6 objects, shrunk to 60 %", accident="shrunk", first_seed=next(_seed))
CROWDED = replace(MODAL, name="7-9 objects, modal", objects=(7, 9), first_seed=next(_seed))
WIDE = replace(MODAL, name="3-6 objects, 1280x720", frame_wh=(1280, 720), first_seed=next(_seed))
HUE = replace(MODAL, name="3-6 objects, hue +12", accident="hue", first_seed=next(_seed))
JPEG = replace(MODAL, name="3-6 objects, JPEG 30", accident="jpeg", first_seed=next(_seed))
HOUSEHOLD = Suite("household, modal", _THREE_TO_SIX, HOUSEHOLD_KINDS, Task.MODAL, next(_seed), "test", variety=0.3)
HOUSEHOLD_AMODAL = replace(
    HOUSEHOLD, name="household, amodal, occluded target", task=Task.AMODAL, first_seed=next(_seed)
)
HOUSEHOLD_ABSENT = replace(HOUSEHOLD, name="household, absent, every kind", kinds=ABSENT_KINDS, first_seed=next(_seed))
HOUSEHOLD_INSTANCES = replace(
    HOUSEHOLD, name="household, unseen instances", kinds=("attribute",), split="instances", first_seed=next(_seed)
)
SOLID = Suite(
    "drawn shapes as solids, modal", _THREE_TO_SIX, DRAWN_KINDS, Task.MODAL, next(_seed), "test", variety=0.3, solid=1.0
)
SHUFFLED = replace(HOUSEHOLD, name="household, shuffled pictures", first_seed=next(_seed), shuffled=True)

TABLE: dict[str, Suite] = {
    "modal": MODAL, "amodal-occluded": AMODAL, "negative": NEGATIVE, "easy": EASY, "absent": ABSENT, "unheard": UNHEARD,
    "shrunk": SHRUNK, "crowded": CROWDED, "wide": WIDE, "hue": HUE, "jpeg": JPEG, "household": HOUSEHOLD,
    "household-amodal": HOUSEHOLD_AMODAL, "household-absent": HOUSEHOLD_ABSENT, "household-instances": HOUSEHOLD_INSTANCES,
    "solid": SOLID, "shuffled": SHUFFLED,
}  # fmt: skip
"""Every suite, by the name that commands use."""
