"""The model card of EGM-Nano: measured numbers in, README.md out. Knows nothing of how they were measured."""

from __future__ import annotations

from training.nano.evaluate import Score
from training.nano.state import Cost

_HEAD = """\
---
license: apache-2.0
library_name: transformers
pipeline_tag: image-text-to-text
tags: [visual-grounding, referring-expression-comprehension, robotics]
---

# EGM-Nano

A {parameters:.1f} M parameter visual grounding model of the true EGM architecture (`Qwen3VLForConditionalGeneration`): a
picture and a referring expression in, a short reasoning text and a box out. It is trained from scratch, by this
repository's `training/`, on procedurally drawn tabletop scenes. It is the embedded default, the demo and the fixture of the
end-to-end tests. **It knows only its drawn world; it is not meant for photographs.** Use `nvidia/EGM-4B` or `nvidia/EGM-8B`
for those: everything that runs for Nano runs for them by changing one path.

## Measured

Greedy decoding, held-out seeds, 640x480 frames shrunk to 256x192 by the image processor's bicubic resize, one question a
scene, bf16 weights as shipped, fp32 arithmetic. A box counts when its IoU is at least 0.5; a negative (the thing asked for is
not there) counts when the answer is the empty list. Intervals are 95 % Wilson intervals.

| suite | queries | scenes | Acc@0.5 | 95 % interval | mean IoU |
|---|---|---|---|---|---|
{rows}

## Training

{cost}

Recipe: a vision warm-up with dense auxiliary read-outs (dropped at export), then the decoder on a mix of list-every-object
and reasoning queries behind an error-gated curriculum, then everything together with a falling rate. No GRPO in this version.
Reproduce with `egm train nano` (`training/configs/nano.yaml`); measure with `egm train nano --evaluate CHECKPOINT`.

## What it understands

- Shapes: mug, ball, box, bottle, bowl, cone, ring, star, object. Colours: red, orange, yellow, green, blue, purple, black, white.
- Sizes: small, medium, large; leftmost, rightmost, largest, smallest; first ... fifth X from the left / right;
  X left of / right of / in front of / behind the Y.
- Prompts are EGM's, letter for letter: `Locate {{expression}}, output its bbox coordinates using JSON format`, and
  `Locate {{expression}} amodally, output its bbox coordinates using JSON format`. No system prompt.
- The thought lists the candidates with their boxes and names the target's number; when nothing fits it lists the nearest
  rivals and ends in "none", and the answer is an empty list. Closing the thought at once
  (a line break, `</think>`, a blank line) gives the direct mode. The label in the answer is the short noun phrase, not the
  whole expression.

## Limits

- Other words are spelled in bytes that it has hardly seen: expect nonsense outside the vocabulary above.
- Coordinates are multiples of 5 on the 0-1000 grid. Amodal boxes stay inside the frame: the scenes hold no object that leaves it.
- One object is the answer, or none. Negatives are a small share of training.
- Frames: 4:3 (256x192), 16:9 (288x160) and square (192x192) were trained; other aspect ratios interpolate the position grid.

Licence: Apache-2.0. No external data, no pretrained weights.
"""


def model_card(report: dict[str, dict[str, Score]], cost: Cost | None, parameters: int) -> str:
    """Render the card.

    Args:
        report: suite -> query kind -> Score, from `evaluate.full_report`.
        cost: of the run, None when unknown.
        parameters: of the model.
    """
    rows = "\n".join(
        f"| {suite} | {kind} | {s.count} | {s.accuracy:.3f} | {s.interval95[0]:.3f} - {s.interval95[1]:.3f} | {s.mean_iou:.3f} |"
        for suite, kinds in report.items()
        for kind, s in kinds.items()
        if not (kind == "all" and len(kinds) == 2)
    )
    spent = "The cost of this run was not recorded."
    if cost:
        spent = (
            f"{cost.cpu_minutes:.0f} CPU-minutes on one thread of an AMD EPYC virtual CPU ({cost.stages}), "
            f"{cost.scenes:,} scenes, {cost.queries:,} queries."
        )
    return _HEAD.format(rows=rows, cost=spent, parameters=parameters / 1e6)
