"""Painting a toy scene: pixels and the visible mask of every object."""

import io
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from datamodules.prepare.toy_world.scene import BACKGROUND_TINTS, COLOURS, Scene, Shape

Floats = NDArray[np.floating]
Masks = NDArray[np.bool_]


def render(scene: Scene) -> tuple[NDArray[np.uint8], Masks]:
    """Pixels uint8[H, W, 3] and visible masks bool[N, H, W], one per object in the scene's order."""
    rng = np.random.default_rng((*scene.seed, 1))
    canvas = _background(scene, rng)
    masks = np.zeros((len(scene.objects), scene.height, scene.width), bool)
    for i, shape in enumerate(scene.objects):
        rows, columns = _window(shape, scene)
        u, v = _local_frame(shape, rows, columns)
        distance = _signed_distance(shape, u, v)
        coverage = np.clip(0.5 - distance, 0, 1)[..., None]
        window = canvas[rows, columns]
        window += coverage * (_paint(shape, u, v, distance) - window)
        masks[:i, rows, columns] &= coverage[None, ..., 0] < 0.5
        masks[i, rows, columns] = coverage[..., 0] >= 0.5
    light = rng.uniform(0.9, 1.05) + rng.uniform(-0.08, 0.08) * np.linspace(-1, 1, scene.width, dtype=np.float32)
    canvas *= light[None, :, None]
    canvas += rng.standard_normal(canvas.shape, dtype=np.float32) * 4
    return np.clip(canvas, 0, 255).astype(np.uint8), masks


def visible_shares(scene: Scene, masks: Masks) -> list[float]:
    """How much of each object nothing hides, 0 to 1, given the visible masks that `render` returns."""
    return shares_of_areas(scene, [float(mask.sum()) for mask in masks])


def shares_of_areas(scene: Scene, areas: Sequence[float]) -> list[float]:
    """The same, given how many pixels of each object nothing hides."""
    return [
        float(area / np.count_nonzero(_signed_distance(shape, *_local_frame(shape, *_window(shape, scene))) <= 0))
        for shape, area in zip(scene.objects, areas, strict=True)
    ]

def to_jpeg(pixels: NDArray[np.uint8]) -> bytes:
    """uint8[H, W, 3] -> JPEG bytes."""
    out = io.BytesIO()
    Image.fromarray(pixels).save(out, "JPEG", quality=90)
    return out.getvalue()


def _background(scene: Scene, rng: np.random.Generator) -> Floats:
    """float32[H, W, 3] of the tint with its pattern."""
    h, w = scene.height, scene.width
    if scene.pattern == "grainy":
        field = rng.standard_normal((h, w), dtype=np.float32) * 16
    elif scene.pattern == "cloudy":
        coarse = rng.standard_normal((6, 6), dtype=np.float32) * 22
        field = np.asarray(Image.fromarray(coarse).resize((w, h), Image.Resampling.BICUBIC))
    elif scene.pattern == "lined":
        field = (
            14 * np.sign(np.sin(np.arange(h, dtype=np.float32) * 2 * np.pi / 7))[:, None] * np.ones((1, w), np.float32)
        )
    else:
        field = np.linspace(-12, 12, h, dtype=np.float32)[:, None] * np.ones((1, w), np.float32)
    return np.asarray(BACKGROUND_TINTS[scene.tint], np.float32) + field[..., None]


def _window(shape: Shape, scene: Scene) -> tuple[slice, slice]:
    reach = shape.radius * 1.2 + 2
    top, left = max(int(shape.y - reach), 0), max(int(shape.x - reach), 0)
    return slice(top, min(int(shape.y + reach) + 1, scene.height)), slice(
        left, min(int(shape.x + reach) + 1, scene.width)
    )


def _local_frame(shape: Shape, rows: slice, columns: slice) -> tuple[Floats, Floats]:
    """Pixel centres relative to the object's, turned by its angle: two float32[h, w] in pixels."""
    y = np.arange(rows.start, rows.stop, dtype=np.float32)[:, None] + 0.5 - np.float32(shape.y)
    x = np.arange(columns.start, columns.stop, dtype=np.float32)[None, :] + 0.5 - np.float32(shape.x)
    c, s = np.float32(np.cos(shape.angle)), np.float32(np.sin(shape.angle))
    return c * x + s * y, c * y - s * x


def _signed_distance(shape: Shape, u: Floats, v: Floats) -> Floats:
    """Approximate distance to the outline in pixels, negative inside."""
    r = np.float32(shape.radius)
    if shape.shape == "circle":
        return np.hypot(u, v) - r
    if shape.shape == "ring":
        return np.abs(np.hypot(u, v) - 0.75 * r) - 0.25 * r
    if shape.shape == "square":
        return np.maximum(np.abs(u), np.abs(v)) - 0.88 * r
    if shape.shape == "cross":
        arm, length = 0.32 * r, 0.95 * r
        return np.minimum(
            np.maximum(np.abs(u) - arm, np.abs(v) - length), np.maximum(np.abs(u) - length, np.abs(v) - arm)
        )
    if shape.shape == "triangle":
        return np.maximum(v - 0.8 * r, (np.abs(u) * 1.8 - v - 0.95 * r) / 2.06)
    sector = np.pi / 5  # star: the outline between an outer tip and an inner corner is straight enough in angle
    angle = np.abs((np.arctan2(u, -v) + sector) % (2 * sector) - sector) / sector
    return (np.hypot(u, v) - r * (1.0 - 0.55 * angle**0.8)) * 0.7


def _paint(shape: Shape, u: Floats, v: Floats, distance: Floats) -> Floats:
    """float32[h, w, 3]: the colour with its texture, whose second tone is darker (lighter on black).

    distance: to the outline, in pixels; the texture leaves a plain rim.
    """
    colour = np.asarray(COLOURS[shape.colour], np.float32)
    second = colour * 0.5 if shape.colour != "black" else np.full(3, 120, np.float32)
    period = np.float32(max(5.0, shape.radius * 0.5))
    if shape.texture == "plain":
        return np.broadcast_to(colour, (*u.shape, 3))
    if shape.texture == "striped":
        dark = np.sin((u + v) * (2 * np.pi / (1.41 * period))) > 0.1
    elif shape.texture == "checkered":
        dark = (np.sin(u * (np.pi / period)) * np.sin(v * (np.pi / period))) > 0
    else:
        du, dv = (u + period / 2) % period - period / 2, (v + period / 2) % period - period / 2
        dark = np.hypot(du, dv) < 0.32 * period
    return np.where((dark & (distance < -1.5))[..., None], second, colour)
