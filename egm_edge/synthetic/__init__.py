"""Procedural tabletop scenes: sample_scene -> render -> queries."""

from egm_edge.synthetic.queries import Query, queries, sample_query
from egm_edge.synthetic.render import Layout, Rendered, layout, render
from egm_edge.synthetic.sample import sample_scene
from egm_edge.synthetic.scene import Scene, SceneObject, Surroundings

__all__ = [
    "Layout", "Query", "Rendered", "Scene", "SceneObject", "Surroundings",
    "layout", "queries", "render", "sample_query", "sample_scene",
]  # fmt: skip
