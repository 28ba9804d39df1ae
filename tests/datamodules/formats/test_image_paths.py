"""Where the images of each published data set are looked for."""

import pytest

from datamodules.formats.image_paths import candidate_image_paths
from datamodules.formats.records import RecordError

PUBLISHED = [
    ("mscoco_train2017", "391895", "train2017/000000391895.jpg"),
    ("mscoco_val2017", "391895", "val2017/000000391895.jpg"),
    ("mscoco_val2017", "391895", "000000391895.jpg"),
    ("flickr30k_train", "1000092795", "1000092795.jpg"),
    ("open_images_train", "0c4f95a9d5a54", "train/0c4f95a9d5a54.jpg"),
    ("open_images_validation", "0c4f95a9d5a54", "validation/0c4f95a9d5a54.jpg"),
    ("open_images_test", "0c4f95a9d5a54", "0c4f95a9d5a54.jpg"),
    ("ade20k_train", "ADE_train_00000001", "training/ADE_train_00000001.jpg"),
    ("ade20k_validation", "ADE_val_00000001", "validation/ADE_val_00000001.jpg"),
    ("ADE20k", "ADE_train_00000001", "ADE_train_00000001.jpg"),
    ("anything", "scene", "scene.png"),
    ("anything", "scene", "scene.jpeg"),
]


@pytest.mark.parametrize(("dataset_id", "image_id", "path"), PUBLISHED)
def test_published_names_are_candidates(dataset_id: str, image_id: str, path: str) -> None:
    assert path in candidate_image_paths(dataset_id, image_id)


@pytest.mark.parametrize(
    ("dataset_id", "image_id", "first"),
    [
        ("mscoco_train2017", "391895", "train2017/000000391895.jpg"),
        ("flickr30k_test", "1000092795", "test/1000092795.jpg"),
    ],
)
def test_the_official_place_comes_first(dataset_id: str, image_id: str, first: str) -> None:
    assert candidate_image_paths(dataset_id, image_id)[0] == first


def test_a_file_that_the_record_names_comes_before_all_others() -> None:
    paths = candidate_image_paths("instances_val2017", "7", "odd name.jpg")
    assert paths[:2] == ["odd name.jpg", "val2017/odd name.jpg"]


@pytest.mark.parametrize("image_id", ["../1", "a/../../b", "/etc/passwd", "a\\b", "a\0b"])
def test_an_id_that_leaves_the_folder_is_refused(image_id: str) -> None:
    with pytest.raises(RecordError, match="leaves the image folder"):
        candidate_image_paths("mscoco_train2017", image_id)
    with pytest.raises(RecordError, match="leaves the image folder"):
        candidate_image_paths("mscoco_train2017", "1", image_id)
