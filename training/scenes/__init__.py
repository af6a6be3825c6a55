"""Procedural tabletop scenes: sample_scene -> render -> queries."""

from training.scenes.queries import Query, queries, sample_query
from training.scenes.render import Layout, Rendered, layout, render
from training.scenes.sample import sample_scene
from training.scenes.scene import Scene, SceneObject, Surroundings

__all__ = [
    "Layout", "Query", "Rendered", "Scene", "SceneObject", "Surroundings",
    "layout", "queries", "render", "sample_query", "sample_scene",
]  # fmt: skip
