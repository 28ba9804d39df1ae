"""The hand that moves the mouse while the narrator speaks: it circles what is meant, lags, overshoots and trembles."""

import math

import numpy as np

from datamodules.prepare.toy_world.narrate import BACKGROUND, Narration
from datamodules.prepare.toy_world.scene import Scene

Point = tuple[float, float, float]

_STEP = 1 / 40  # seconds between points, as a browser reports them
_STIFFNESS, _DAMPING = 28.0, 0.5  # an underdamped hand: about a tenth of overshoot
_LEAVING = 0.25  # probability that the pointer leaves the image in the pause behind a sentence


def trace(scene: Scene, narration: Narration) -> list[list[Point]]:
    """Strokes of (x, y, t), x and y normalised by the image's size and not clipped, t in seconds."""
    rng = np.random.default_rng((*scene.seed, 3))
    schedule = _schedule(narration, rng)
    count = int((schedule[-1][1] - schedule[0][0]) / _STEP)
    tremor = rng.normal(0, 0.004, (count + 1, 2)).tolist()
    phase, turn = rng.uniform(0, 2 * math.pi), rng.choice([-1, 1]) * rng.uniform(20, 24)
    spread = rng.uniform(0.5, 0.65)
    strokes: list[list[Point]] = [[]]
    x = y = vx = vy = 0.0
    position, seen = 0, False
    for step in range(count):
        t = schedule[0][0] + step * _STEP
        while position + 1 < len(schedule) and t >= schedule[position + 1][0]:
            position += 1
        _, stop, target = schedule[position]
        if t > stop:  # between two entries of the schedule the pointer is outside
            if strokes[-1]:
                strokes.append([])
            seen = False
            continue
        gx, gy = _goal(scene, target, phase + turn * t, spread)
        if not seen:
            x, y, vx, vy, seen = gx, gy, 0.0, 0.0, True
        vx += _STEP * (_STIFFNESS**2 * (gx - x) - 2 * _DAMPING * _STIFFNESS * vx)
        vy += _STEP * (_STIFFNESS**2 * (gy - y) - 2 * _DAMPING * _STIFFNESS * vy)
        x, y = x + _STEP * vx, y + _STEP * vy
        dx, dy = tremor[step]
        strokes[-1].append((round(x + dx, 5), round(y + dy, 5), round(t, 3)))
    return [stroke for stroke in strokes if stroke]


def _schedule(narration: Narration, rng: np.random.Generator) -> list[tuple[float, float, int]]:
    """When the hand attends to what: (start, stop, target), each a little behind the words."""
    entries: list[tuple[float, float, int]] = []
    lag = rng.uniform(0.0, 0.08)
    for word, following in zip(narration.words, (*narration.words[1:], None), strict=True):
        pause = 0.0 if following is None else following.start - word.stop
        leaves = pause > 0.3 and rng.random() < _LEAVING
        stop = word.stop + (0.1 if leaves or following is None else pause)
        entries.append((word.start + lag, stop + lag, word.target))
    return entries


def _goal(scene: Scene, target: int, angle: float, spread: float) -> tuple[float, float]:
    """Where the hand wants to be: on an ellipse inside the object, or on one in the middle of the background."""
    if target == BACKGROUND:
        return 0.5 + 0.2 * math.cos(angle), 0.5 + 0.2 * math.sin(angle)
    shape = scene.objects[target]
    reach = spread * shape.radius
    return (shape.x + reach * math.cos(angle)) / scene.width, (shape.y + reach * math.sin(angle)) / scene.height
