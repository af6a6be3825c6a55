"""How far a backend may be from the checkpoint at each stage. Plain numbers; `build_engine.precisions` has those of each precision.

Full precision differs by the order of summation alone.
"""

from __future__ import annotations

from dataclasses import dataclass

PIXEL_STEP = 2e-5  # of a normalised value; one grey level is 0.008 and more


@dataclass(frozen=True, slots=True)
class Bounds:
    """Limits of one precision.

    Attributes:
        vision: root-mean-square error of image embeddings over their own root mean square.
        kl_nats: mean Kullback-Leibler divergence of next-token distributions, reference to backend.
        logits: root-mean-square error of logits over their standard deviation.
        same_text: every greedy reply must be the reference's, ties apart.
        accuracy_points: Acc@0.5 that may be lost, percentage points; one case is always allowed.
        disagreeing: share of the reference's boxes that the backend may answer with another one (IoU < 0.5).
    """

    vision: float
    kl_nats: float
    logits: float
    same_text: bool = False
    accuracy_points: float = 1.0
    disagreeing: float = 0.05


# Of a bundle whose rounding was taken away; float16 and bfloat16 where some weights could not be given back their own values.
EXACT = Bounds(vision=2e-5, kl_nats=1e-9, logits=5e-5, same_text=True)
NEARLY_EXACT = Bounds(vision=6e-3, kl_nats=4e-5, logits=1e-2)
