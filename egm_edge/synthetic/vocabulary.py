"""The words of the tabletop world and the numbers behind them. Knows nothing of drawing or of questions."""

from __future__ import annotations

SHAPES: tuple[str, ...] = ("mug", "ball", "box", "bottle", "bowl", "cone", "ring", "star")

COLOURS: dict[str, tuple[int, int, int]] = {
    "red": (205, 35, 40),
    "orange": (240, 125, 20),
    "yellow": (240, 215, 40),
    "green": (40, 150, 60),
    "blue": (35, 80, 200),
    "purple": (130, 50, 160),
    "black": (32, 32, 36),
    "white": (245, 245, 245),
}
"""Colour name -> RGB, uint8 range, before light and jitter."""

SIZES: dict[str, tuple[float, float]] = {"small": (0.130, 0.155), "medium": (0.190, 0.225), "large": (0.280, 0.330)}
"""Size word -> range of `SceneObject.scale` (fraction of sqrt(width * height)); the classes keep a gap of 20 %."""

SIZE_RANK: dict[str, int] = {name: rank for rank, name in enumerate(SIZES)}

EXTENT_WH: dict[str, tuple[float, float]] = {
    "mug": (1.00, 0.88),
    "ball": (0.92, 0.92),
    "box": (1.00, 0.90),
    "bottle": (0.52, 1.20),
    "bowl": (1.15, 0.64),
    "cone": (0.86, 1.00),
    "ring": (1.00, 0.72),
    "star": (1.00, 0.95),
}
"""Width and height of a shape's outline at scale 1."""

ORDINALS: tuple[str, ...] = ("first", "second", "third", "fourth", "fifth")

NOUNS: dict[str, tuple[str, ...]] = {
    "mug": ("cup", "coffee cup", "coffee mug"), "ball": ("sphere",), "box": ("package",), "bottle": ("flask",), "bowl": (),
    "cone": (), "ring": (), "star": (), "plate": ("dish",), "vase": (), "kettle": (), "apples": ("fruit",),
    "shoe": ("shoes", "boot"), "hat": ("cap",), "plant": ("flower",), "phone": ("telephone",), "laptop": ("computer",),
    "coffeemaker": ("coffee maker", "coffee machine"), "scale": ("scales",), "bag": ("handbag",), "teapot": (),
    "carton": ("milk carton", "milk"), "bread": ("loaf",), "hamburger": ("burger",), "cake": (), "chicken": ("roast chicken",),
    "teddy": ("teddy bear", "bear"), "train": ("toy train",), "plane": ("airplane", "toy plane"), "car": ("toy car",),
    "cube": ("puzzle cube",), "radio": (), "hammer": (), "drill": ("power drill",), "tape": ("sticky tape",), "toaster": (),
    "scissors": (), "bat": ("paddle", "racket"), "spray": ("spray bottle",), "towel": ("cloth",), "helmet": (),
    "flashlight": ("torch",), "headphones": ("headset",),
}  # fmt: skip
"""Every noun of the drawn and the household world -> other ways to say it. Thoughts and labels use the noun itself."""

ALL_COLOURS: tuple[str, ...] = (*COLOURS, "grey", "brown")
"""Colour names of both worlds."""

COLOUR_SYNONYMS: dict[str, str] = {"grey": "gray", "purple": "violet"}
