"""Which of several boxes is the answer. One rule for every shape; knows nothing of text beyond labels.

The box whose label matches the expression best; where no label matches, the last one, which is what the training reward
takes. Boxes that match equally well and are not one box written twice leave the answer open: AMBIGUOUS.

A label matches, best first: (1) it is the expression, articles, case and punctuation aside; (2) it is a phrase of the
expression, the one nearest to its head noun ("red mug" of "red mug left of the kettle", not "kettle"); (3) the expression
is a phrase of it. Where an object has several names, the best counts first, then the next.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

import numpy as np

from egm_edge.boxes import iou_matrix

SAME_BOX_IOU = 0.7
MAX_LABEL_CHARS = 400
_HEAD_LAST = re.compile(r"[぀-ヿ㐀-鿿가-힯]")  # Chinese, Japanese and Korean put the head noun last
_ARTICLES = re.compile(r"\b(?:the|an?|this|that|my|your|our)\b")
_MARKS = re.compile(r"[^\w+&/'’-]+|_+")
Match = tuple[int, int, int]
NO_MATCH: Match = (0, 0, 0)
EXACT = 3  # the first number of a match that is the expression itself


def choose(boxes: Sequence[Sequence[float]], names: Sequence[Sequence[str]], expression: str) -> int | None:
    """Index of the answer among xyxy boxes of any one frame, at least one; None when several match equally.

    Args:
        names: what each box is called: its label and, where its object has more (a description), those too.

    Example:
        >>> boxes = [(0, 0, 10, 10), (50, 50, 90, 90)]
        >>> choose(boxes, [["red mug"], ["kettle"]], "the red mug left of the kettle")
        0
        >>> choose(boxes, [[""], [""]], "the red mug"), choose(boxes, [["mug"], ["mug"]], "mug")
        (1, None)
        >>> choose(boxes, [["mug", "a red mug by the wall"], ["mug", "a blue one"]], "red mug")
        0
    """
    last = len(boxes) - 1
    if not last or not expression:
        return last
    matches = [
        sorted({match for name in own if (match := label_match(name, expression)) != NO_MATCH}, reverse=True)
        for own in names
    ]
    best = max(matches)
    if not best:
        return last
    tied = [i for i, match in enumerate(matches) if match == best]
    xyxy = np.array([boxes[i] for i in tied], np.float64)
    return tied[-1] if bool((iou_matrix(xyxy[-1:], xyxy) >= SAME_BOX_IOU).all()) else None


def label_match(label: str, expression: str) -> Match:
    """How well a label fits an expression; greater is better, NO_MATCH where it does not."""
    said, asked = normal(label), normal(expression)
    if not said or not asked:
        return NO_MATCH
    if said == asked:
        return (EXACT, 0, 0)
    head_last = bool(_HEAD_LAST.search(asked))
    if not head_last:
        said, asked = f" {said} ", f" {asked} "
    if said in asked:
        end = asked.rfind(said) + len(said) if head_last else -(asked.find(said) + len(said))
        return (2, end, len(said))
    return (1, 0, 0) if asked in said else NO_MATCH


def normal(words: str) -> str:
    """Words in lower case without articles and punctuation."""
    plain = words[:MAX_LABEL_CHARS].casefold()
    return " ".join(_MARKS.sub(" ", _ARTICLES.sub(" ", plain)).split()) or plain.strip()
