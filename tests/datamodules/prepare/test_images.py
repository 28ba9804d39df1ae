"""What images of every kind become in a shard."""

import io
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from datamodules.prepare.images import Change, ImageError, to_jpeg

LEFT, RIGHT = (200, 30, 30), (30, 30, 200)


def picture(width: int = 48, height: int = 32) -> Image.Image:
    """Red on the left half, blue on the right."""
    image = Image.new("RGB", (width, height), LEFT)
    image.paste(RIGHT, (width // 2, 0, width, height))
    return image


def saved(path: Path, image: Image.Image, **options: Any) -> Path:
    image.save(path, **options)
    return path


def decoded(jpeg: bytes) -> Image.Image:
    image = Image.open(io.BytesIO(jpeg))
    assert (image.format, image.mode, image.getexif().get(0x0112)) == ("JPEG", "RGB", None)
    return image


def assert_close(image: Image.Image, x: int, y: int, colour: tuple[int, int, int]) -> None:
    np.testing.assert_allclose(np.array(image)[y, x].astype(int), colour, atol=16)


@pytest.mark.parametrize(
    "options", [{}, {"progressive": True}, {"quality": 30, "subsampling": 0}, {"icc_profile": b"x" * 99}]
)
def test_an_ordinary_jpeg_is_stored_byte_for_byte(tmp_path: Path, options: dict[str, Any]) -> None:
    path = saved(tmp_path / "a.jpg", picture(), **options)
    stored = to_jpeg(path)
    assert (stored.jpeg, stored.width, stored.height, stored.change) == (path.read_bytes(), 48, 32, Change.KEPT)


@pytest.mark.parametrize("orientation", range(2, 9))
def test_a_turned_picture_is_stored_upright(tmp_path: Path, orientation: int) -> None:
    """The file holds the picture as the camera turned it; PIL's transpositions are inverses of what EXIF names."""
    way = Image.Transpose
    turns = {
        2: way.FLIP_LEFT_RIGHT, 3: way.ROTATE_180, 4: way.FLIP_TOP_BOTTOM, 5: way.TRANSPOSE,
        6: way.ROTATE_90, 7: way.TRANSVERSE, 8: way.ROTATE_270,
    }  # fmt: skip
    exif = Image.Exif()
    exif[0x0112] = orientation
    path = saved(tmp_path / "a.jpg", picture().transpose(turns[orientation]), exif=exif, quality=95)
    stored = to_jpeg(path)
    assert (stored.width, stored.height, stored.change) == (48, 32, Change.ENCODED)
    image = decoded(stored.jpeg)
    assert image.size == (48, 32)
    assert_close(image, 8, 16, LEFT)
    assert_close(image, 40, 16, RIGHT)


def test_an_orientation_that_means_nothing_changes_nothing(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 9
    assert to_jpeg(saved(tmp_path / "a.jpg", picture(), exif=exif)).change == Change.KEPT
    assert to_jpeg(saved(tmp_path / "b.jpg", picture(), exif=b"Exif\0\0garbage")).change == Change.KEPT


@pytest.mark.parametrize(
    ("name", "mode"),
    [("a.jpg", "CMYK"), ("a.png", "RGB"), ("a.png", "P"), ("a.png", "RGBA"), ("a.gif", "P"), ("a.webp", "RGB")],
)
def test_other_kinds_become_rgb_jpeg(tmp_path: Path, name: str, mode: str) -> None:
    stored = to_jpeg(saved(tmp_path / name, picture().quantize(2) if mode == "P" else picture().convert(mode)))
    image = decoded(stored.jpeg)
    assert (stored.change, image.size) == (Change.ENCODED, (48, 32))
    assert_close(image, 8, 16, LEFT)
    assert_close(image, 40, 16, RIGHT)


@pytest.mark.parametrize(("name", "mode"), [("a.jpg", "L"), ("a.png", "L"), ("a.png", "LA"), ("a.png", "I;16")])
def test_grey_pictures_keep_their_greys(tmp_path: Path, name: str, mode: str) -> None:
    levels = np.repeat(np.array([[40, 200]], np.uint8), 24, axis=1).repeat(32, axis=0)
    if mode == "I;16":
        image = Image.fromarray(levels.astype(np.uint16) * 257)
    else:
        image = Image.fromarray(levels).convert(mode)
    stored = decoded(to_jpeg(saved(tmp_path / name, image)).jpeg)
    assert_close(stored, 8, 16, (40, 40, 40))
    assert_close(stored, 40, 16, (200, 200, 200))


def test_transparency_is_laid_on_white(tmp_path: Path) -> None:
    image = picture().convert("RGBA")
    image.paste((0, 0, 0, 0), (0, 0, 24, 32))
    stored = decoded(to_jpeg(saved(tmp_path / "a.png", image)).jpeg)
    assert_close(stored, 8, 16, (255, 255, 255))
    assert_close(stored, 40, 16, RIGHT)


@pytest.mark.parametrize(("name", "exif"), [("a.jpg", None), ("a.png", None), ("turned.jpg", 6)])
def test_a_large_picture_is_shrunk_and_keeps_its_original_size_in_writing(
    tmp_path: Path, name: str, exif: int | None
) -> None:
    block = Image.Exif()
    if exif:
        block[0x0112] = exif
    path = saved(tmp_path / name, picture(200, 100), exif=block)
    stored = to_jpeg(path, max_pixels=5000)
    upright = (100, 200) if exif else (200, 100)
    assert (stored.width, stored.height, stored.change) == (*upright, Change.SHRUNK)
    width, height = decoded(stored.jpeg).size
    assert 4000 <= width * height <= 5000
    assert width / height == pytest.approx(upright[0] / upright[1], rel=0.03)


def test_exactly_the_limit_is_kept(tmp_path: Path) -> None:
    assert to_jpeg(saved(tmp_path / "a.jpg", picture(100, 50)), max_pixels=5000).change == Change.KEPT


BROKEN = ["half.jpg", "half.png", "head.jpg", "empty.jpg", "text.jpg", "missing.jpg", "folder.jpg", "bomb.png"]


@pytest.mark.parametrize("name", BROKEN)
def test_a_broken_file_is_named_in_one_line(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    noise = Image.fromarray(np.random.default_rng(0).integers(0, 255, (64, 64, 3), dtype=np.uint8))
    if name.startswith("half"):
        data = saved(path, noise).read_bytes()
        path.write_bytes(data[: len(data) // 2])
    elif name == "head.jpg":
        path.write_bytes(saved(path, noise).read_bytes()[:20])
    elif name == "folder.jpg":
        path.mkdir()
    elif name == "bomb.png":
        data = bytearray(saved(path, noise).read_bytes())
        data[16:24] = (60_000).to_bytes(4, "big") * 2
        path.write_bytes(data)
    elif name != "missing.jpg":
        path.write_text("no picture" if name == "text.jpg" else "")
    with pytest.raises(ImageError) as raised:
        to_jpeg(path)
    assert str(raised.value).startswith(f"{path}: ")
    assert "\n" not in str(raised.value)


def test_a_png_with_one_wrong_byte_is_refused(tmp_path: Path) -> None:
    path = saved(tmp_path / "a.png", Image.effect_noise((64, 64), 90).convert("RGB"))
    whole = path.read_bytes()
    for place in range(100, len(whole) - 30, 300):
        path.write_bytes(whole[:place] + bytes([whole[place] ^ 1]) + whole[place + 1 :])
        with pytest.raises(ImageError):
            to_jpeg(path)


@pytest.mark.shared
def test_real_photos_cut_anywhere_are_refused(shared: Path, tmp_path: Path) -> None:
    photos = sorted((shared / "samples/images/coco").glob("*.jpg"))[:20]
    for photo in photos:
        data = photo.read_bytes()
        for cut in (10, 500, len(data) // 2, len(data) - 700):
            path = tmp_path / "cut.jpg"
            path.write_bytes(data[:-cut])
            with pytest.raises(ImageError):
                to_jpeg(path)


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="the peak memory is read from /proc")
def test_a_hundred_megapixels_fit_into_memory(tmp_path: Path) -> None:
    """The whole picture takes 400 MB in PIL; the process that shrinks it stays below that, all told."""
    path = tmp_path / "large.jpg"
    Image.new("RGB", (10_000, 10_000), LEFT).save(path)
    script = (
        "import pathlib, sys; from datamodules.prepare.images import to_jpeg; s = to_jpeg(pathlib.Path(sys.argv[1]));"
        "print(s.width, s.height, s.change.name, len(s.jpeg), open('/proc/self/status').read())"
    )
    command = [sys.executable, "-W", "error", "-c", script, str(path)]
    found = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    assert found.startswith("10000 10000 SHRUNK")
    peak_kb = int(found.split("VmHWM:")[1].split()[0])
    assert peak_kb < 300_000
