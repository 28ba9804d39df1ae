"""Referring to the objects of a toy scene: each expression means exactly one object, which is checked on the scene.

Three kinds: by attributes ("large striped cross"), by place ("the leftmost circle"), and by a relation to another
object ("the small ring to the left of the blue cross"). Medium size and plain texture are not said, as in narratives;
a texture only where size, colour and shape would not do.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import combinations

import numpy as np

from datamodules.prepare.toy_world.narrate import relation_of
from datamodules.prepare.toy_world.scene import SHAPES, TEXTURES, Scene, Shape

Words = tuple[str, ...]

PER_OBJECT = 3
SHOWN = 0.6  # an object of which less than this share is visible is not referred to
DIRECTIONS = {"to the left of": (-1, 0), "to the right of": (1, 0), "above": (0, -1), "below": (0, 1)}
CLEARLY = 1.2  # the object lies so much further in a relation's direction than across it; others less, as clearly
_PLACES = {
    "leftmost {}": (-1, 0),
    "rightmost {}": (1, 0),
    "{} on the left": (-1, 0),
    "{} on the right": (1, 0),
    "{} at the top": (0, -1),
    "{} at the bottom": (0, 1),
}
_LEAD = 6.0  # pixels by which the object at a place is ahead of the next


@dataclass(frozen=True)
class Expression:
    """What is said, and of what kind it is: "attributes", "place" or "relation".

    head: begin and end of the characters that name the object, without article, place and relation.
    """

    text: str
    head: tuple[int, int]
    kind: str


@dataclass(frozen=True)
class _Candidate:
    """An expression before its words: pattern.format(name) says it; needed: the name alone means several objects."""

    name: Words
    pattern: str
    needed: bool


@dataclass(frozen=True)
class _Known:
    """meanings: for each object, what it may be called and the objects that are called so."""

    scene: Scene
    shown: list[bool]
    meanings: list[dict[Words, list[int]]]

    def names(self, index: int) -> list[Words]:
        """What means this object alone."""
        return [words for words, meant in self.meanings[index].items() if meant == [index]]


def refer(scene: Scene, visible: Sequence[float]) -> list[list[Expression]]:
    """Up to three different expressions of each object, in the scene's order; none of objects that are mostly hidden.

    visible: share of each object that nothing hides.
    """
    rng = np.random.default_rng((*scene.seed, 5))
    shown = [share >= SHOWN for share in visible]
    meanings = [{words: meant_by(scene, words) for words in descriptions(shape)} for shape in scene.objects]
    known = _Known(scene, shown, meanings)
    return [_of_object(known, i, rng) if shown[i] else [] for i in range(len(scene.objects))]


def meant_by(scene: Scene, words: Sequence[str]) -> list[int]:
    """Indices of the objects that all the words are true of."""
    return [i for i, shape in enumerate(scene.objects) if set(words) <= set(shape.attributes)]


def descriptions(shape: Shape) -> list[Words]:
    """Every selection of what is worth saying of the shape, in the order size colour texture shape."""
    said = [word for word in shape.attributes if word not in ("medium", "plain")]
    return [words for count in range(len(said) + 1) for words in combinations(said, count)]


def phrase(words: Words) -> str:
    """`red striped ring`; what has no name of its own is a shape."""
    return " ".join(words if words and words[-1] in SHAPES else (*words, "shape"))


def _of_object(known: _Known, index: int, rng: np.random.Generator) -> list[Expression]:
    """A relation and attributes, then whatever is possible; twice the same words count once."""
    candidates = {
        "relation": list(_relations(known, index)),
        "attributes": [_Candidate(words, "{}", True) for words in known.names(index)],
        "place": list(_places(known, index)),
    }
    choose: dict[str, Callable] = {"relation": _by_need, "place": _by_need, "attributes": _by_length}
    last = rng.permutation(["relation", "attributes", "place"]).tolist()
    found: dict[str, Expression] = {}
    for kind in ["relation", "attributes", *last]:
        if len(found) < PER_OBJECT and candidates[kind]:
            chosen = choose[kind](_without_texture(candidates[kind]), rng)
            candidates[kind].remove(chosen)
            expression = _say(chosen, kind, rng)
            found.setdefault(expression.text.removeprefix("the "), expression)
    return list(found.values())


def _without_texture(candidates: list[_Candidate]) -> list[_Candidate]:
    return [c for c in candidates if not _says_texture(c.name)] or candidates


def _says_texture(words: Words) -> bool:
    return any(word in TEXTURES for word in words)


def _by_need(candidates: list[_Candidate], rng: np.random.Generator) -> _Candidate:
    """One without which the object would not be known, rather one that names its shape."""
    needed = [c for c in candidates if c.needed] or candidates
    named = [c for c in needed if c.name and c.name[-1] in SHAPES] or needed
    return named[rng.integers(len(named))]


def _by_length(candidates: list[_Candidate], rng: np.random.Generator) -> _Candidate:
    """As often one of the shortest as any; mostly one that names the shape."""
    if rng.random() < 0.75:
        candidates = [c for c in candidates if c.name[-1] in SHAPES] or candidates
    if rng.random() < 0.5:
        shortest = min(len(c.name) for c in candidates)
        candidates = [c for c in candidates if len(c.name) == shortest]
    return candidates[rng.integers(len(candidates))]


def _say(candidate: _Candidate, kind: str, rng: np.random.Generator) -> Expression:
    name = phrase(candidate.name)
    article = "the " if rng.random() < 0.5 else ""
    begin = len(article) + candidate.pattern.index("{}")
    return Expression(article + candidate.pattern.format(name), (begin, begin + len(name)), kind)


def _places(known: _Known, index: int) -> Iterator[_Candidate]:
    """Where the object lies among several of its name, if it is clearly the first there and in that half."""
    reaches = {pattern: [_reach(known.scene, j, d) for j in range(len(known.shown))] for pattern, d in _PLACES.items()}
    for words, meant in known.meanings[index].items():
        others = [j for j in meant if j != index]
        for pattern, reach in reaches.items():
            if others and reach[index] > 0 and all(reach[index] - reach[j] > _LEAD for j in others):
                yield _Candidate(words, pattern, True)


def _relations(known: _Known, index: int) -> Iterator[_Candidate]:
    """Where the object lies seen from another one, if no other of its name may be said to lie there too."""
    for anchor, shown in enumerate(known.shown):
        names = known.names(anchor)
        if anchor == index or not shown or not names:
            continue
        relation = relation_of(known.scene, index, anchor)
        if relation not in DIRECTIONS or along(known.scene, index, anchor, relation) < CLEARLY:
            continue
        shortest = min(names, key=lambda words: (_says_texture(words), words[-1] not in SHAPES, len(words)))
        there = [j for j in range(len(known.shown)) if j != anchor]
        there = [j for j in there if along(known.scene, j, anchor, relation) >= 1 / CLEARLY]
        for words, meant in known.meanings[index].items():
            if set(meant) & set(there) == {index}:
                yield _Candidate(words, f"{{}} {relation} the {phrase(shortest)}", len(meant) > 1)


def _reach(scene: Scene, index: int, direction: tuple[int, int]) -> float:
    """Pixels from the middle of the image to the object's centre in a direction."""
    shape = scene.objects[index]
    return direction[0] * (shape.x - scene.width / 2) + direction[1] * (shape.y - scene.height / 2)


def along(scene: Scene, index: int, anchor: int, relation: str) -> float:
    """How far the object lies from the anchor in the relation's direction, over how far across it."""
    a, b = scene.objects[anchor], scene.objects[index]
    dx, dy = b.x - a.x, b.y - a.y
    u, v = DIRECTIONS[relation]
    return (u * dx + v * dy) / max(abs(v * dx + u * dy), 1e-6)
