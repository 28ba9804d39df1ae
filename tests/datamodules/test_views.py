"""Views: boxes and points move as the pixels do; files of every kind are shown upright in RGB or refused by name."""

import io
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from datamodules.views import View, decode_jpeg, flip, random_view, resized_shape, whole_view

RED, BLUE = (200, 30, 30), (30, 30, 200)


def painted(height: int, width: int, box: tuple[int, int, int, int]) -> Tensor:
    """A black picture with a white rectangle, x0 y0 x1 y1 in pixels."""
    pixels = torch.zeros(3, height, width, dtype=torch.uint8)
    pixels[:, box[1] : box[3], box[0] : box[2]] = 255
    return pixels


def found_box(view: View) -> np.ndarray | None:
    """Where the rectangle lies in a view, in fractions of it: the columns and rows at half its light or more."""
    light = view.pixels[0].numpy().astype(float)
    if light.max() < 5:
        return None
    (x0, x1), (y0, y1) = (np.flatnonzero(light.max(axis) >= light.max() / 2)[[0, -1]] for axis in (0, 1))
    return np.array([x0, y0, x1 + 1, y1 + 1]) / np.tile(light.shape[::-1], 2)


def assert_on_its_pixels(view: View, box: tuple[int, int, int, int]) -> None:
    height, width = view.original_size
    moved = view.boxes(np.array(box) / [width, height, width, height])
    pixel = 1 / np.tile(view.pixels.shape[:0:-1], 2)
    found = found_box(view)
    if found is None:
        assert ((moved[2:] - moved[:2]) < pixel[2:]).any()  # nothing of it is left, or less than a pixel
    else:
        assert (np.abs(found - moved) <= pixel).all()


SHAPES = [(80, 120), (120, 80), (97, 97), (61, 200), (30, 17)]


@pytest.mark.parametrize("canvas", [64, 150])
@pytest.mark.parametrize("shape", SHAPES)
def test_a_box_stays_on_its_pixels_in_the_whole_view(shape: tuple[int, int], canvas: int) -> None:
    height, width = shape
    box = (width // 5, height // 4, width * 2 // 3, height * 3 // 4)
    view = whole_view(painted(height, width, box), canvas, shape)
    assert found_box(view) is not None
    assert_on_its_pixels(view, box)


@pytest.mark.parametrize("seed", range(20))
def test_a_box_stays_on_its_pixels_in_random_views(seed: int) -> None:
    rng = np.random.default_rng(seed)
    height, width = SHAPES[seed % len(SHAPES)]
    x0, y0 = int(rng.integers(width * 2 // 3)), int(rng.integers(height * 2 // 3))
    box = (x0, y0, x0 + int(rng.integers(4, width // 3)), y0 + int(rng.integers(4, height // 3)))
    for _ in range(20):
        view = random_view(painted(height, width, box), 64, (height, width), (0.5, 2.5), 0.5, rng)
        assert max(view.pixels.shape[-2:]) <= 64
        assert_on_its_pixels(view, box)


def test_points_move_as_boxes_do_and_unknown_ones_stay_unknown() -> None:
    view = flip(View(torch.zeros(3, 8, 8), (0.25, 0.5, 0.75, 1.0), False, (16, 16)))
    points = np.array([[0.25, 0.5], [0.4, 0.6], [0.9, 0.1]])
    np.testing.assert_allclose(view.points(points), [[1, 0], [0.7, 0.2], [0, 0]])
    np.testing.assert_allclose(view.boxes(np.array([0.3, 0.6, 0.5, 0.7])), [0.5, 0.2, 0.9, 0.4])
    assert np.isnan(view.boxes(np.full((2, 4), np.nan))).all()


@pytest.mark.parametrize("shape", [(1, 3000), (3000, 20), (1, 1)])
def test_a_strip_stays_on_its_canvas(shape: tuple[int, int]) -> None:
    view = whole_view(torch.zeros(3, *shape), 96, shape)
    assert max(view.pixels.shape[-2:]) == 96
    assert min(view.pixels.shape[-2:]) >= 1


def test_the_shape_of_the_image_is_kept() -> None:
    rng = np.random.default_rng(0)
    for height, width in rng.integers(20, 3000, (200, 2)).tolist():
        shape = resized_shape(height, width, 384, 384)
        ratio = max(height, width) / min(height, width)
        assert 384 - ratio - 1 <= max(shape) <= 384  # the shorter side is cut to whole pixels, then the longer
        assert max(shape) / min(shape) == pytest.approx(ratio, rel=1 / min(shape))
        assert (shape[0] < shape[1]) == (height < width) or max(shape) - min(shape) <= 1
    assert min(resized_shape(10_000, 1, 64, 64)) == 1


def picture() -> Image.Image:
    """Red on the left half, blue on the right."""
    image = Image.new("RGB", (48, 32), RED)
    image.paste(BLUE, (24, 0, 48, 32))
    return image


def encoded(image: Image.Image, kind: str, **options: Any) -> bytes:
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def assert_halves(pixels: Tensor, left: tuple[int, int, int], right: tuple[int, int, int]) -> None:
    assert (pixels.dtype, tuple(pixels.shape)) == (torch.uint8, (3, 32, 48))
    for column, colour in ((8, left), (40, right)):
        np.testing.assert_allclose(pixels[:, 16, column].int(), colour, atol=16)


@pytest.mark.parametrize(
    ("kind", "mode"), [("JPEG", "RGB"), ("JPEG", "CMYK"), ("PNG", "P"), ("PNG", "RGBA"), ("GIF", "P"), ("WEBP", "RGB")]
)
def test_every_kind_is_shown_in_rgb(kind: str, mode: str) -> None:
    image = picture().quantize(2) if mode == "P" else picture().convert(mode)
    assert_halves(decode_jpeg(encoded(image, kind), "k"), RED, BLUE)


@pytest.mark.parametrize(("kind", "mode"), [("JPEG", "L"), ("PNG", "LA"), ("PNG", "I;16")])
def test_grey_becomes_three_equal_channels(kind: str, mode: str) -> None:
    levels = np.repeat(np.array([[40, 200]], np.uint8), 24, axis=1).repeat(32, axis=0)
    wide = Image.fromarray(levels.astype(np.uint16) * 257)
    data = encoded(wide if mode == "I;16" else Image.fromarray(levels).convert(mode), kind)
    assert_halves(decode_jpeg(data, "k"), (40, 40, 40), (200, 200, 200))


def test_what_lies_behind_transparency_is_not_shown() -> None:
    image = picture().convert("RGBA")
    image.paste((0, 0, 0, 0), (0, 0, 24, 32))
    assert_halves(decode_jpeg(encoded(image, "PNG"), "k"), (255, 255, 255), BLUE)


def test_a_turned_photo_is_shown_upright() -> None:
    turns = {3: Image.Transpose.ROTATE_180, 6: Image.Transpose.ROTATE_90, 8: Image.Transpose.ROTATE_270}
    for orientation, turn in turns.items():
        exif = Image.Exif()
        exif[0x0112] = orientation
        assert_halves(decode_jpeg(encoded(picture().transpose(turn), "JPEG", exif=exif), "k"), RED, BLUE)


def test_a_hundred_megapixels_are_shown_whole() -> None:
    pixels = decode_jpeg(encoded(Image.new("L", (12_500, 8_000), 90), "JPEG"), "k")
    assert tuple(pixels.shape) == (3, 8_000, 12_500)
    view = whole_view(pixels, 64, (8_000, 12_500))
    assert tuple(view.pixels.shape) == (3, 40, 62)
    assert view.pixels.unique().tolist() == [90]


def broken() -> dict[str, bytes]:
    noise = Image.effect_noise((64, 64), 90).convert("RGB")
    jpeg, png = encoded(noise, "JPEG"), encoded(noise, "PNG")
    bomb = png[:16] + (60_000).to_bytes(4, "big") * 2 + png[24:]
    flipped = png[:200] + bytes([png[200] ^ 1]) + png[201:]
    return {
        "half a jpeg": jpeg[: len(jpeg) // 2],
        "a jpeg without its end": jpeg[:-300],
        "half a png": png[: len(png) // 2],
        "a png with a wrong byte": flipped,
        "a png of 3,600 megapixels": bomb,
        "text": b"no picture",
        "nothing": b"",
    }


@pytest.mark.parametrize("name", broken())
def test_a_broken_file_is_refused_with_the_name_of_its_record(name: str) -> None:
    with pytest.raises(ValueError, match=r"^a\.tar, k7: the image cannot be read \(") as raised:
        decode_jpeg(broken()[name], "a.tar, k7")
    assert "\n" not in str(raised.value)
