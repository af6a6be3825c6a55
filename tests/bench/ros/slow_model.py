"""A model that answers later than it could: for measurements of what the node does about it. The label holds the raw box."""

from __future__ import annotations

import json
import os
import time
from dataclasses import replace
from typing import Any

from egm_ros.model_process import load_grounder
from egm_ros.settings import Settings

from egm_edge.grounding import Grounding

FACTORY = f"{__name__}:load_slow"
DELAY_VARIABLE = "EGM_MEASURE_DELAY_S"


def load_slow(settings: Settings) -> SlowGrounder:
    """The node's bundle, EGM_MEASURE_DELAY_S seconds slower."""
    return SlowGrounder(load_grounder(settings), float(os.environ[DELAY_VARIABLE]))


class SlowGrounder:
    """A Grounder whose answers wait."""

    def __init__(self, grounder: Any, delay_s: float) -> None:
        self._grounder, self._delay_s = grounder, delay_s

    def __getattr__(self, name: str) -> Any:
        return getattr(self._grounder, name)

    def ground(self, *arguments: Any, **options: Any) -> Grounding:
        found: Grounding = self._grounder.ground(*arguments, **options)
        time.sleep(self._delay_s)
        return replace(found, label="" if found.box is None else json.dumps(found.box.xyxy))
