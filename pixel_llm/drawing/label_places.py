"""Where labels of boxes can stand so that no label covers another one, and none covers an object."""

from collections.abc import Iterator, Sequence

from pixel_llm.coordinates import Box

Size = tuple[float, float]
Place = tuple[float, float]
_COVERED = 0.1  # a label may hide so much of a box


def label_places(sizes: Sequence[Size], boxes: Sequence[Box], canvas: Size) -> list[Place] | None:
    """Upper left corners xy of labels beside their boxes, apart from each other and off the boxes.

    sizes: (width, height) of each label.  boxes: x0 y0 x1 y1 of its box.  canvas: (width, height) that all lie on; one
    unit for all. None where not every label finds a place.
    """
    taken: list[Box] = []
    for size, box in zip(sizes, boxes, strict=True):
        free = [label for label in _beside(box, size, canvas) if not any(_overlap(label, other) for other in taken)]
        label = next((label for label in free if _covered(label, boxes) <= _COVERED), None)
        if label is None:
            return None
        taken.append(label)
    return [(label[0], label[1]) for label in taken]


def number_places(sizes: Sequence[Size], boxes: Sequence[Box], canvas: Size) -> list[Place]:
    """The same for small labels that have to stand somewhere: apart from each other where that is possible."""
    taken: list[Box] = []
    for size, box in zip(sizes, boxes, strict=True):
        labels = list(_beside(box, size, canvas)) or [_within(box[0], box[1], size, canvas)]
        taken.append(min(labels, key=lambda label: sum(_overlap(label, other) for other in taken)))
    return [(label[0], label[1]) for label in taken]


def _beside(box: Box, size: Size, canvas: Size) -> Iterator[Box]:
    """Labels at a box that lie on the canvas, the best first: above, below, at the sides, inside."""
    x0, y0, x1, y1 = box
    width, height = size
    above, below, right, left = y0 - height, y1, x1 - width, x0 - width
    for x, y in (
        (x0, above), (right, above), (x0, below), (right, below), (x1, y0), (left, y0), (x1, y1 - height),
        (left, y1 - height), (x0, y0), (right, y0), (x0, y1 - height), (right, y1 - height),
    ):  # fmt: skip
        label = _within(x, y, size, canvas)
        # moved sideways only, still at its box, and short enough for the canvas
        if label[1] == y and x0 - width <= label[0] <= x1 and width <= canvas[0]:
            yield label


def _within(x: float, y: float, size: Size, canvas: Size) -> Box:
    """A label at (x, y), moved so far that it lies on the canvas."""
    x, y = max(min(x, canvas[0] - size[0]), 0.0), max(min(y, canvas[1] - size[1]), 0.0)
    return x, y, x + size[0], y + size[1]


def _covered(label: Box, boxes: Sequence[Box]) -> float:
    """The largest share of a box that a label hides."""
    return max(_overlap(label, box) / max((box[2] - box[0]) * (box[3] - box[1]), 1.0) for box in boxes)


def _overlap(a: Box, b: Box) -> float:
    """Area of what two boxes have in common."""
    width, height = min(a[2], b[2]) - max(a[0], b[0]), min(a[3], b[3]) - max(a[1], b[1])
    return max(width, 0.0) * max(height, 0.0)
