"""Everyday words that EGM-Nano was never taught, to ask it for things it cannot know. For tests only."""

from __future__ import annotations

UNHEARD_WORDS: tuple[str, ...] = (
    "dog", "woman", "rocket", "cat", "chair", "window", "guitar", "piano", "horse", "tree", "man", "child", "bicycle",
    "elephant", "umbrella", "banana", "carrot", "pizza", "sandwich", "spoon", "fork", "knife", "pillow", "blanket", "candle",
    "mirror", "ladder", "bucket", "broom", "wallet", "watch", "necklace", "jacket", "trousers", "shirt", "sock", "glove",
    "scarf", "belt", "tie", "pencil", "eraser", "ruler", "notebook", "envelope", "stamp", "coin", "key", "lock", "door",
    "carpet", "curtain", "sofa", "desk", "shelf", "lamp", "television", "keyboard", "mouse", "printer", "battery", "cable",
    "robot", "tractor", "truck", "bus", "boat", "ship", "helicopter", "bridge", "tower", "castle", "church", "statue",
    "flag", "balloon", "kite", "violin", "trumpet", "drum", "tiger", "lion", "monkey", "rabbit", "snake", "frog", "fish",
    "shark", "whale", "penguin", "eagle", "owl", "butterfly", "spider", "mushroom", "tomato", "potato", "onion", "cheese",
    "chocolate",
)  # fmt: skip
