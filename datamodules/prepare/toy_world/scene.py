"""What a toy scene is: a few shapes with attributes, places and depths on a textured background.

A scene is a pure function of (seed, split, index). Lengths are in units of the image's shorter side unless a name
says pixels; positions are in pixels of the image.
"""

from dataclasses import dataclass

import numpy as np

SHAPES = ("circle", "square", "triangle", "star", "cross", "ring")
COLOURS = {
    "red": (214, 40, 38),
    "orange": (245, 140, 25),
    "yellow": (248, 222, 60),
    "green": (40, 160, 60),
    "blue": (35, 80, 205),
    "purple": (140, 50, 170),
    "white": (246, 246, 246),
    "black": (22, 22, 26),
}
SIZES = {"small": (0.095, 0.11), "medium": (0.14, 0.16), "large": (0.19, 0.22)}
TEXTURES = ("plain", "striped", "dotted", "checkered")
BACKGROUND_TINTS = {"grey": (128, 128, 128), "brown": (128, 100, 76), "beige": (188, 172, 142)}
BACKGROUND_PATTERNS = ("smooth", "grainy", "cloudy", "lined")
IMAGE_SIZES = ((160, 120), (120, 160), (144, 144))

SPLITS = ("train", "val", "test", "test_unseen_pairs")
# One colour per shape that is never seen on it outside `test_unseen_pairs`, where nothing else is seen; each half is
# seen in other pairs.
UNSEEN_PAIRS = frozenset((tuple(COLOURS)[3 * i % 8], shape) for i, shape in enumerate(SHAPES))


@dataclass(frozen=True)
class Shape:
    """One object. x, y: centre in pixels; radius: half its side in pixels; angle in radians."""

    shape: str
    colour: str
    size: str
    texture: str
    x: float
    y: float
    radius: float
    angle: float

    @property
    def attributes(self) -> tuple[str, str, str, str]:
        return self.size, self.colour, self.texture, self.shape

    @property
    def has_unseen_pair(self) -> bool:
        return (self.colour, self.shape) in UNSEEN_PAIRS


@dataclass(frozen=True)
class Scene:
    """objects are painted in order, so later ones hide earlier ones; `seed` feeds rendering and narration."""

    width: int
    height: int
    tint: str
    pattern: str
    objects: tuple[Shape, ...]
    seed: tuple[int, ...]


def make_scene(seed: int, split: str, index: int) -> Scene:
    """The scene of a split's image; no two (split, index) share a random stream."""
    key = (seed, SPLITS.index(split), index)
    rng = np.random.default_rng(key)
    width, height = IMAGE_SIZES[rng.integers(len(IMAGE_SIZES))]
    tint = str(rng.choice(list(BACKGROUND_TINTS)))
    pattern = str(rng.choice(BACKGROUND_PATTERNS))
    while True:
        objects = _place(rng, int(rng.integers(3, 7)), width, height, unseen=split == "test_unseen_pairs")
        if objects:
            return Scene(width, height, tint, pattern, objects, key)


def _place(rng: np.random.Generator, count: int, width: int, height: int, unseen: bool) -> tuple[Shape, ...]:
    """`count` shapes that overlap a little at most, or nothing when they did not fit."""
    placed: list[Shape] = []
    for _ in range(60):
        shape = _draw(rng, width, height, placed, unseen)
        if all(_far_enough(shape, other) and shape.attributes != other.attributes for other in placed):
            placed.append(shape)
            if len(placed) == count:
                return tuple(placed)
    return ()


def _draw(rng: np.random.Generator, width: int, height: int, placed: list[Shape], unseen: bool) -> Shape:
    while True:
        kind, colour = str(rng.choice(SHAPES)), str(rng.choice(list(COLOURS)))
        if placed and rng.random() < 0.4:  # a distractor: an attribute in common with something already there
            other = placed[rng.integers(len(placed))]
            kind, colour = (other.shape, colour) if rng.random() < 0.5 else (kind, other.colour)
        if ((colour, kind) in UNSEEN_PAIRS) == unseen:
            break
    size = str(rng.choice(list(SIZES)))
    radius = rng.uniform(*SIZES[size]) * min(width, height)
    x, y = rng.uniform(radius, width - radius), rng.uniform(radius, height - radius)
    texture = str(rng.choice(TEXTURES, p=(0.4, 0.2, 0.2, 0.2)))
    return Shape(kind, colour, size, texture, float(x), float(y), float(radius), float(rng.uniform(-0.15, 0.15)))


def _far_enough(a: Shape, b: Shape) -> bool:
    """Boxes may overlap by up to a third of the smaller radius sum in one direction."""
    reach = 0.8 * (a.radius + b.radius)
    return max(abs(a.x - b.x), abs(a.y - b.y)) > reach
