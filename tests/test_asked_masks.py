"""Masks that a person gives for a photo: what they mark, and everything that can be wrong with them."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from pixel_llm.asked_places import read_mask
from pixel_llm.photo_arguments import describe_options

SIZE = (12, 20)
REGION = np.zeros(SIZE, bool)
REGION[3:7, 5:9] = True


def transparent() -> Image.Image:
    picture = np.full((*SIZE, 4), 90, np.uint8)
    picture[..., 3] = REGION * 255
    return Image.fromarray(picture, "RGBA")


def palette(value: int) -> Image.Image:
    picture = Image.fromarray(REGION.astype(np.uint8), "P")
    picture.putpalette([0, 0, 0, value, 0, 0])
    return picture


PICTURES = {
    "1.png": lambda: Image.fromarray(REGION),
    "255.png": lambda: Image.fromarray(REGION.astype(np.uint8) * 255),
    "one.png": lambda: Image.fromarray(REGION.astype(np.uint8)),
    "16.png": lambda: Image.fromarray(REGION.astype(np.uint16) * 65535),
    "rgb.png": lambda: Image.fromarray(np.repeat(REGION[..., None].astype(np.uint8) * 200, 3, 2)),
    "palette.png": lambda: palette(128),
    "alpha.png": transparent,
    "opaque.png": lambda: Image.fromarray(REGION.astype(np.uint8) * 255).convert("RGBA"),
    "float.tiff": lambda: Image.fromarray(REGION.astype(np.float32)),
}


@pytest.mark.parametrize("name", PICTURES)
def test_a_region_is_read_from_any_kind_of_picture(tmp_path: Path, name: str) -> None:
    PICTURES[name]().save(tmp_path / name)
    np.testing.assert_array_equal(read_mask(tmp_path / name, SIZE), REGION)


def test_the_noise_of_a_jpeg_is_not_marked(tmp_path: Path) -> None:
    region = np.kron(REGION, np.ones((8, 8))) > 0
    Image.fromarray(region.astype(np.uint8) * 255).save(tmp_path / "a.jpg", quality=40)
    np.testing.assert_array_equal(read_mask(tmp_path / "a.jpg", region.shape), region)


@pytest.mark.parametrize(
    ("picture", "message"),
    [
        (np.zeros((9, 7), np.uint8), r"a\.png: 7 x 9 pixels, for a photo of 20 x 12 pixels$"),
        (np.zeros(SIZE, np.uint8), r"a\.png: marks nothing$"),
    ],
)
def test_what_marks_no_region_is_refused(tmp_path: Path, picture: np.ndarray, message: str) -> None:
    Image.fromarray(picture).save(tmp_path / "a.png")
    with pytest.raises(ValueError, match=message) as error:
        read_mask(tmp_path / "a.png", SIZE)
    assert "\n" not in str(error.value)


def test_a_region_may_be_the_whole_photo(tmp_path: Path) -> None:
    Image.fromarray(np.full(SIZE, 255, np.uint8)).save(tmp_path / "a.png")
    assert read_mask(tmp_path / "a.png", SIZE).all()


def test_a_turned_mask_is_read_upright(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6  # the camera's way to say: turn me clockwise
    Image.fromarray(np.rot90(REGION).astype(np.uint8) * 255).save(tmp_path / "a.png", exif=exif)
    np.testing.assert_array_equal(read_mask(tmp_path / "a.png", SIZE), REGION)


def test_what_is_no_picture_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "a.png"
    file.write_text("hello")
    with pytest.raises(ValueError, match=r"^mask .*a\.png: not an image of a known kind$"):
        read_mask(file, SIZE)
    Image.fromarray(np.random.default_rng(0).integers(0, 255, (90, 90), np.uint8)).save(file)
    file.write_bytes(file.read_bytes()[:900])
    with pytest.raises(ValueError, match=r"^mask .*a\.png: .*truncated"):
        read_mask(file, (90, 90))


def test_the_option_names_files_that_are_there(tmp_path: Path) -> None:
    photo, mask = tmp_path / "photo.jpg", tmp_path / "a.png"
    Image.fromarray(REGION).save(mask)
    photo.write_bytes(b"")
    asked = [str(photo), "--checkpoint", str(tmp_path)]
    assert describe_options([*asked, "--mask", str(mask), "--mask", str(mask)]).mask == [mask, mask]
    with pytest.raises(FileNotFoundError, match=r"no such file: .*none\.png"):
        describe_options([*asked, "--mask", str(tmp_path / "none.png")])
    with pytest.raises(ValueError, match=r"nothing is asked: .*--mask FILE"):
        describe_options(asked)
