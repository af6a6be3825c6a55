"""Second witnesses: what the product's own modules say, said once more by somebody else. Written from the recipe and from the
answer formats of the two families, and sharing no code with `families`, `parsing` or `boxes`, so that a mistake there is not
made on both sides of a comparison.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import onnx

from egm_edge.grounding import Task

# EGM's evaluation prompts (arXiv 2601.13633 and its repository's inference scripts): no final period.
_REGION = "bounding box coordinate of the region this sentence describes: <ref>{}</ref>"
TASK_TEXTS = {
    ("qwen3_vl", Task.MODAL): "Locate {}, output its bbox coordinates using JSON format",
    ("qwen3_vl", Task.AMODAL): "Locate {} amodally, output its bbox coordinates using JSON format",
    ("internvl3", Task.MODAL): "Please provide the " + _REGION,
    ("internvl3", Task.AMODAL): "Please provide the amodal " + _REGION,
}
_NUMBERS = r"\[+\s*(-?\d+(?:\.\d+)?)\s*,\s*(-?\d+(?:\.\d+)?)\s*,\s*(-?\d+(?:\.\d+)?)\s*,\s*(-?\d+(?:\.\d+)?)\s*\]+"
_LABEL = r'(?:\s*,\s*"label"\s*:\s*"(?!no)[^"]*")?'  # "not found" beside a box is for the parser to judge
_ANSWERS = (  # whole ones, of one box
    re.compile(r'(?:```json\s*)?\[?\s*\{\s*"bbox_2d"\s*:\s*' + _NUMBERS + _LABEL + r"\s*\}\s*\]?(?:\s*```)?"),
    re.compile(r"(?:<ref>[^<]*</ref>\s*)?<box>\s*" + _NUMBERS + r"\s*</box>"),
)

# Replies in both families' syntax, thought and all, with the box they give: x1, y1, x2, y2, no two alike, one from edge to edge and
# one beyond the picture; alone, and behind so many boxes of another thing that the reply is a long one.
THOUGHT = "It is at [1, 2, 3, 4], not at [700, 800, 900, 950]."
SCRIPTS = {
    "qwen3_vl": '```json\n[{{"bbox_2d": [{0}, {1}, {2}, {3}], "label": "cup"}}]\n```',
    "internvl3": "<ref>cup</ref><box>[[{0}, {1}, {2}, {3}]]</box>",
}
OTHERS = 8
OTHERS_FIRST = {
    "qwen3_vl": SCRIPTS["qwen3_vl"].replace("[{{", "[" + OTHERS * '{{"bbox_2d": [601, 602, 703, 704], "label": "plate"}}, ' + "{{"),
    "internvl3": OTHERS * "<ref>plate</ref><box>[[601, 602, 703, 704]]</box>" + SCRIPTS["internvl3"],
}
SCRIPTED_BOXES = ((103, 207, 311, 859), (0, 640, 1000, 655), (-35, 120, 480, 977))


def task_text(family: str, expression: str, task: Task) -> str:
    """The whole user text of a request."""
    return TASK_TEXTS[family, task].format(expression)


def read_box(text: str, *, in_thought: bool) -> tuple[float, float, float, float] | None:
    """The box of an answer that is one box and its label and no more, norm1000 as written; None where there is none behind the
    thought, where it is degenerate or not within the picture, and where anything else leaves the parser something to decide."""
    answer = text.rpartition("</think>")[2].strip()
    found = [match.groups() for pattern in _ANSWERS if (match := pattern.fullmatch(answer))]
    if not found or (in_thought and "</think>" not in text):
        return None
    x1, y1, x2, y2 = (float(value) for value in found[0])
    within = min(x1, y1) >= 0 and 2 <= max(x2, y2) <= 1000  # all up to 1 would be shares of a side
    return (x1, y1, x2, y2) if within and x1 < x2 and y1 < y2 else None


def in_pixels(norm1000: Sequence[float], image_wh: tuple[int, int], task: Task) -> tuple[float, ...]:
    """Pixels of the original picture: a thousandth is a thousandth of its side; a modal box ends at its edges."""
    sides = (*image_wh, *image_wh)
    clipped = norm1000 if task is Task.AMODAL else [min(max(value, 0), 1000) for value in norm1000]
    return tuple(value * side / 1000 for value, side in zip(clipped, sides, strict=True))


class Observed:
    """Norms and activations of a torch model in the order in which they ran; attach, run the model, detach.

    What an attribute of a graph says differs by less than float32 can show (tanh for erf in a GELU: 5e-4 at most, and nothing
    where activations are small), so that it is compared as it stands.
    """

    def __init__(self, model: Any) -> None:
        self.seen: dict[str, dict[str, list[Any]]] = {
            part: {"Gelu": [], "LayerNormalization": [], "SimplifiedLayerNormalization": []}
            for part in ("vision", "decoder")
        }
        self._hooks = []
        for name, module in model.named_modules():
            part = "vision" if any(word in name for word in ("visual", "vision_tower", "projector")) else "decoder"
            if (found := _kind(module)) is not None:
                self._hooks.append(module.register_forward_hook(self._note(part, *found)))

    def _note(self, part: str, kind: str, value: Any) -> Any:
        def note(*_: Any) -> None:
            self.seen[part][kind].append(value)

        return note

    def detach(self, *, vision_runs: int) -> None:
        """Stop listening; the vision tower has run `vision_runs` times since."""
        for hook in self._hooks:
            hook.remove()
        self.seen["vision"] = {
            kind: values[: len(values) // vision_runs] for kind, values in self.seen["vision"].items()
        }


def _kind(module: Any) -> tuple[str, Any] | None:
    name = type(module).__name__
    if "GELU" in name.upper():
        tanh = "tanh" in (name.lower(), getattr(module, "approximate", "")) or "tanh" in name.lower() or "New" in name
        return "Gelu", "tanh" if tanh else "none"
    if name == "LayerNorm":
        return "LayerNormalization", f"{module.eps:.3g}"
    if name.endswith("RMSNorm"):
        return "SimplifiedLayerNormalization", f"{getattr(module, 'variance_epsilon', getattr(module, 'eps', 0)):.3g}"
    return None


def attribute_problems(graph: Path, expected: dict[str, list[Any]]) -> list[str]:
    """Norms and activations of a graph that are not the model's own.

    Operators that a graph is not written in (an RMS norm in plain arithmetic) are left to the comparison of values.
    """
    nodes = list(onnx.load(str(graph), load_external_data=False).graph.node)
    problems = []
    for kind, wanted in expected.items():
        found = [_attribute(node) for node in nodes if node.op_type.removeprefix("Skip") == kind]
        if found and found != wanted:
            at = next(
                (i for i, (a, b) in enumerate(zip(found, wanted, strict=False)) if a != b), min(len(found), len(wanted))
            )
            ours, theirs = (values[at] if at < len(values) else "none" for values in (found, wanted))
            problems.append(f"{kind} {at + 1} of {graph.stem}.onnx is {ours}, in the model {theirs}")
    return problems


def _attribute(node: Any) -> str:
    values = {attribute.name: attribute for attribute in node.attribute}
    if node.op_type == "Gelu":
        return values["approximate"].s.decode() if "approximate" in values else "none"
    return f"{values['epsilon'].f:.3g}" if "epsilon" in values else "1e-05"
