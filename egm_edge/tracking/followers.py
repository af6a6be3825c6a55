"""Which followers there are, by name."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from egm_edge.errors import InputError
from egm_edge.tracking.follower import Follower
from egm_edge.tracking.frames import SmallFrame
from egm_edge.tracking.hybrid import HybridFollower
from egm_edge.tracking.opencv_follower import MODEL_FILES, OpenCvFollower, opencv_maker
from egm_edge.tracking.similarity import Similarity

FollowerMaker = Callable[[SmallFrame, Similarity, tuple[float, float], float, Follower | None], Follower]
DEFAULT = "hybrid"
FOLLOWERS = (DEFAULT, *MODEL_FILES)


def follower_maker(name: str, model_files: tuple[str, ...] = ()) -> FollowerMaker:
    """What makes followers of that name from the grounded frame, the pose there, the half width and height, the phase,
    and what followed the same object from an earlier answer.

    Raises:
        InputError: an unknown name, or one that needs something else.
    """
    if name not in FOLLOWERS:
        raise InputError(f"a follower out of {', '.join(FOLLOWERS)}", repr(name), "name one of them")
    if name != DEFAULT:
        return partial(OpenCvFollower, make=opencv_maker(name, model_files))
    if model_files:
        raise InputError(f"no model file for the follower {DEFAULT!r}", f"{len(model_files)}", "name vit or nano")
    return HybridFollower
