"""Every expression has exactly the referent that is claimed, judged by a second, independent reading of the words."""

from __future__ import annotations

import random
import re
from collections import Counter

import pytest

from egm_edge.grounding import Task
from egm_edge.synthetic import Query, Scene, layout, queries, sample_query, sample_scene
from egm_edge.synthetic.queries import KINDS, grid
from egm_edge.synthetic.vocabulary import COLOURS, ORDINALS, SHAPES, SIZE_RANK


def members(scene: Scene, phrase: str) -> list[int]:
    """Objects that fit a noun phrase, by the words in it."""
    words = phrase.split()
    fits = range(len(scene.objects))
    for word in words:
        if word in SHAPES:
            fits = [i for i in fits if scene.objects[i].shape == word]  # type: ignore[assignment]
        elif word in COLOURS:
            fits = [i for i in fits if scene.objects[i].colour == word]  # type: ignore[assignment]
        elif word in SIZE_RANK:
            fits = [i for i in fits if scene.objects[i].size == word]  # type: ignore[assignment]
        elif word != "object":
            return []
    return list(fits)


def referents(scene: Scene, expression: str) -> list[int]:
    """All objects that an expression may mean."""
    text = re.sub(r"^[Tt]he ", "", expression)
    things = scene.objects
    if found := re.fullmatch(r"(leftmost|rightmost|largest|smallest) (.+)", text):
        key = {
            "leftmost": lambda i: -things[i].x,
            "rightmost": lambda i: things[i].x,
            "largest": lambda i: SIZE_RANK[things[i].size],
            "smallest": lambda i: -SIZE_RANK[things[i].size],
        }[found[1]]
        fits = members(scene, found[2])
        return [i for i in fits if key(i) == max(map(key, fits))]
    if found := re.fullmatch(rf"({'|'.join(ORDINALS)}) (.+) from the (left|right)", text):
        fits = sorted(members(scene, found[2]), key=lambda i: things[i].x, reverse=found[3] == "right")
        rank = ORDINALS.index(found[1])
        return fits[rank : rank + 1]
    if found := re.fullmatch(r"(.+?) (left of|right of|in front of|behind) the (.+)", text):
        marks = referents(scene, found[3])
        if not marks or not members(scene, found[1]):
            return []
        (mark,) = marks
        side = {
            "left of": lambda i: things[i].x < things[mark].x,
            "right of": lambda i: things[i].x > things[mark].x,
            "in front of": lambda i: things[i].y > things[mark].y,
            "behind": lambda i: things[i].y < things[mark].y,
        }[found[2]]
        return [i for i in members(scene, found[1]) if side(i)]
    return members(scene, text)


def many_queries(count: int, task: Task = Task.MODAL) -> list[tuple[Scene, Query]]:
    made = []
    for seed in range(count):
        scene = sample_scene(seed, (2, 6), occlusion=0.6)
        where = layout(scene, 640, 480)
        for kind in KINDS:
            query = sample_query(scene, where, random.Random(seed), kind=kind, task=task)
            if query is not None:
                made.append((scene, query))
    return made


def test_every_expression_has_one_referent_or_none() -> None:
    made = many_queries(400)
    for scene, query in made:
        expected = [] if query.target is None else [query.target]
        assert referents(scene, query.expression) == expected, query
    counts = Counter(query.kind for _, query in made)
    assert min(counts[kind] for kind in KINDS) > 50, counts


@pytest.mark.parametrize("task", list(Task))
def test_the_box_is_the_targets_box(task: Task) -> None:
    for scene, query in many_queries(60, task):
        if query.target is None:
            assert query.box_norm1000 is None
            continue
        where = layout(scene, 640, 480)
        box = (where.amodal if task is Task.AMODAL else where.modal)[query.target]
        assert box is not None and query.box_norm1000 == box.to_norm1000(640, 480)


def test_the_reasoning_ends_with_the_answer() -> None:
    for _, query in many_queries(100):
        if query.box_norm1000 is None:
            assert query.reasoning.endswith(" none")
            continue
        rank = int(query.reasoning.rpartition("target ")[2])
        items = re.findall(r"(\d) \w+ \w+ \w+ (\[[^\]]+\])", query.reasoning.rpartition(": ")[2])
        assert items[rank - 1] == (str(rank), str(list(grid(query.box_norm1000))))


def test_what_is_missing_is_what_the_thought_names() -> None:
    """The head that the thought rejects fits nothing in the scene, or too little of it, or the word is unknown."""
    for scene, query in many_queries(100):
        if query.target is None:
            rejected = query.reasoning.rpartition(". ")[0] if "target none" in query.reasoning else query.reasoning
            head = rejected.rpartition(": ")[0].rpartition(". ")[2]
            assert (head == "unknown word") == (query.kind == "unknown-word")
            fits = members(scene, head)
            assert not fits or query.kind in ("absent-ordinal", "absent-relation"), (query, head)


def test_other_words_mean_the_same() -> None:
    """Every synonym leads to the plain noun in the thought and the label."""
    scene = sample_scene(4, (4, 6))
    where = layout(scene, 640, 480)
    plain = [sample_query(scene, where, random.Random(seed)) for seed in range(60)]
    varied = [sample_query(scene, where, random.Random(seed), variety=1.0) for seed in range(60)]
    assert [q and q.reasoning for q in plain] == [q and q.reasoning for q in varied]
    assert sum(a != b for a, b in zip(plain, varied, strict=True)) > 20


def test_most_amodal_queries_ask_for_something_occluded() -> None:
    occluded = total = 0
    for scene, query in many_queries(200, Task.AMODAL):
        if query.target is not None:
            where = layout(scene, 640, 480)
            if min(where.visible) < 0.9:
                total += 1
                occluded += where.visible[query.target] < 0.9
    assert occluded / total > 0.4


def test_queries_of_a_scene_differ_and_repeat_with_the_seed() -> None:
    scene = sample_scene(4, (4, 6))
    first, second = queries(scene, random.Random(1), count=5), queries(scene, random.Random(1), count=5)
    assert first == second
    assert len({(q.expression, q.task) for q in first}) == len(first)


@pytest.mark.parametrize(
    ("box", "expected"),
    [
        pytest.param((0.0, 2.4, 997.6, 1000.0), (0, 0, 1000, 1000), id="rounds to the grid"),
        pytest.param((-40.0, 3.0, 1100.0, 503.0), (0, 5, 1000, 505), id="stays inside 0-1000"),
    ],
)
def test_grid(box: tuple[float, float, float, float], expected: tuple[int, int, int, int]) -> None:
    assert grid(box) == expected
