"""Questions about regions of a toy scene in the form of PerBench's three files; each answer is true of the scene alone.

Descriptions name size, colour, texture and shape of an object, its place, and its nearest neighbours. Choices ask for
one of these attributes or the place. Segmentations ask, seen from objects that are given, for the nearest, for those of
their colour or shape, and for the only one of a shape in a direction. Mostly hidden objects are neither given nor
asked for.
"""

from collections.abc import Iterator, Sequence
from itertools import combinations
from typing import Any

import numpy as np

from datamodules.formats.masks import any_rle
from datamodules.formats.perbench import CHOICE, DESCRIPTION, SEGMENTATION
from datamodules.prepare.toy_world.annotations import image_file
from datamodules.prepare.toy_world.narrate import noun_phrase, relation_of
from datamodules.prepare.toy_world.refer import CLEARLY, DIRECTIONS, SHOWN, along
from datamodules.prepare.toy_world.render import shares_of_areas
from datamodules.prepare.toy_world.scene import COLOURS, SHAPES, SIZES, TEXTURES, Scene, Shape

Json = dict[str, Any]
Asked = tuple[str, list[int], list[int]]  # a question with {} for each given object, these, and those to be segmented

PER_IMAGE = 2  # questions of each task
_NEIGHBOURS = 2
_OPTIONS = 4
_NEARER = 1.3  # the next object is at least so many times as far away as the nearest
_ATTRIBUTES = {"size": tuple(SIZES), "colour": tuple(COLOURS), "texture": TEXTURES, "shape": SHAPES}
_COLUMNS, _ROWS = ("left", "", "right"), ("top", "", "bottom")
_PLACES = tuple(f"{row} {column}".strip() or "middle" for row in _ROWS for column in _COLUMNS)


def perbench(scene: Scene, instances: list[Json], image_id: int, split: str) -> dict[str, list[Json]]:
    """For each task the entries of an image, one or none; of its questions there are up to two.

    instances: the image's COCO annotations, of which the masks are.
    """
    rng = np.random.default_rng((*scene.seed, 8))
    masks = [_run_lengths(instance["segmentation"], scene) for instance in instances]
    visible = shares_of_areas(scene, [instance["area"] for instance in instances])
    shown = [i for i, share in enumerate(visible) if share >= SHOWN]
    chosen = [shown[i] for i in rng.permutation(len(shown))[:PER_IMAGE]]
    name = {"image_name": image_file(image_id, split)}
    described = [{"segmentation": masks[i], "caption": describe(scene, i, shown)} for i in chosen]
    choices = [{"object": masks[i], **_choice(scene, i, rng)} for i in chosen]
    asked = list(_segmentations(scene, shown))
    picked = [asked[i] for i in rng.permutation(len(asked))[:PER_IMAGE]]
    return {
        DESCRIPTION: [name | {"object_annotations": described}] if described else [],
        CHOICE: [name | {"mcqs": choices}] if choices else [],
        SEGMENTATION: [name | _tagged(one, masks) for one in picked],
    }


def describe(scene: Scene, index: int, shown: Sequence[int]) -> str:
    """What an object looks like, where it is, and how it lies to its nearest neighbours among those shown."""
    shape = scene.objects[index]
    near = _by_distance(scene, index, shown)[:_NEIGHBOURS]
    relations = [f"{relation_of(scene, index, i)} the {noun_phrase(scene.objects[i])}" for i in near]
    place = place_of(scene, shape)
    where = f"in the {place}" if place == "middle" else f"at the {place}"
    neighbours = f" It is {' and '.join(relations)}." if relations else ""
    return f"A {' '.join(shape.attributes)} {where} of the image.{neighbours}"


def place_of(scene: Scene, shape: Shape) -> str:
    """The ninth of the image that the object's centre is in: `top left`, `right`, `middle`."""
    row, column = (min(int(3 * share), 2) for share in (shape.y / scene.height, shape.x / scene.width))
    return _PLACES[3 * row + column]


def _choice(scene: Scene, index: int, rng: np.random.Generator) -> Json:
    shape = scene.objects[index]
    right = dict(zip(_ATTRIBUTES, shape.attributes, strict=True)) | {"place": place_of(scene, shape)}
    values = _ATTRIBUTES | {"place": _PLACES}
    kind = str(rng.choice(list(values)))
    wrong = [value for value in values[kind] if value != right[kind]]
    offered = rng.permutation([right[kind], *rng.permutation(wrong)[: _OPTIONS - 1]]).tolist()
    options = [f"{letter}. {value}" for letter, value in zip("ABCD", offered, strict=False)]
    asked = "Where in the image is the object?" if kind == "place" else f"What is the {kind} of the object?"
    return {"question": f"{asked} {' '.join(options)}", "answer": options[offered.index(right[kind])]}


def _segmentations(scene: Scene, shown: Sequence[int]) -> Iterator[Asked]:
    for index in shown:
        near = _by_distance(scene, index, range(len(scene.objects)))
        if near[0] in shown and _NEARER * _distance(scene, index, near[0]) < _distance(scene, index, near[1]):
            yield "Which object is nearest to {}?", [index], near[:1]
        for kind in ("colour", "shape"):
            same = _alike(scene, index, kind)
            if same and set(same) <= set(shown):
                yield f"Which objects have the same {kind} as {{}}?", [index], same
        for relation in DIRECTIONS:
            yield from _alone_there(scene, index, relation, shown)
    for a, b in combinations(shown, 2):
        meant = sorted({*_alike(scene, a, "colour"), *_alike(scene, b, "colour")} - {a, b})
        if scene.objects[a].colour != scene.objects[b].colour and meant and set(meant) <= set(shown):
            yield "Which objects have the colour of {} or that of {}?", [a, b], meant


def _alone_there(scene: Scene, index: int, relation: str, shown: Sequence[int]) -> Iterator[Asked]:
    """The objects that lie in a direction clearly and alone among those of their shape."""
    there = [i for i in range(len(scene.objects)) if i != index and along(scene, i, index, relation) >= 1 / CLEARLY]
    for target in there:
        same = [i for i in there if scene.objects[i].shape == scene.objects[target].shape]
        if same == [target] and target in shown and along(scene, target, index, relation) >= CLEARLY:
            yield f"Which {scene.objects[target].shape} is {relation} {{}}?", [index], [target]


def _alike(scene: Scene, index: int, kind: str) -> list[int]:
    """The other objects of the same colour or shape."""
    value = getattr(scene.objects[index], kind)
    return [i for i, shape in enumerate(scene.objects) if i != index and getattr(shape, kind) == value]


def _by_distance(scene: Scene, index: int, objects: Sequence[int]) -> list[int]:
    """The others of these objects, the nearest first."""
    return sorted((i for i in objects if i != index), key=lambda i: _distance(scene, index, i))


def _distance(scene: Scene, index: int, other: int) -> float:
    """Between the centres, in pixels."""
    a, b = scene.objects[index], scene.objects[other]
    return float(np.hypot(a.x - b.x, a.y - b.y))


def _tagged(asked: Asked, masks: Sequence[Json]) -> Json:
    """Objects get their tags in the order of the scene, so those given are not always the first."""
    question, given, targets = asked
    tags = {index: f"<object{number}>" for number, index in enumerate(sorted({*given, *targets}), start=1)}
    found = [tags[index] for index in targets]
    answer = f"It is {found[0]}." if len(found) == 1 else f"They are {', '.join(found[:-1])} and {found[-1]}."
    return {
        "question": question.format(*(tags[index] for index in given)),
        "answer": answer,
        "segmentations": {tag: masks[index] for index, tag in tags.items()},
    }


def _run_lengths(segmentation: Any, scene: Scene) -> Json:
    return dict(any_rle(segmentation, scene.height, scene.width))
