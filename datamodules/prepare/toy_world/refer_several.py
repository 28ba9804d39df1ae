"""Referring to none or several objects of a toy scene ("the red ring" where there is none, "all circles")."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product

import numpy as np

from datamodules.prepare.toy_world.refer import SHOWN, Expression, Words, descriptions, meant_by, phrase
from datamodules.prepare.toy_world.scene import UNSEEN_PAIRS, Scene

PER_NUMBER = 2
_NUMERALS = {2: "two", 3: "three", 4: "four", 5: "five", 6: "six"}


@dataclass(frozen=True)
class GroupExpression:
    """What is said, the indices of all objects that it means, and of what kind it is: "none", "one" or "several"."""

    text: str
    targets: tuple[int, ...]
    kind: str


def refer_to_any_number(
    scene: Scene, visible: Sequence[float], single: Sequence[Sequence[Expression]]
) -> list[GroupExpression]:
    """Up to two expressions each that mean no object, one (chosen from `single`, one list for each object) and several.

    visible: share of each object that nothing hides; what would mean a mostly hidden one is not said.
    """
    rng = np.random.default_rng((*scene.seed, 6))
    none = [GroupExpression(_article(rng) + phrase(words), (), "none") for words in _absent(scene)]
    one = [GroupExpression(said.text, (i,), "one") for i, expressions in enumerate(single) for said in expressions]
    several = []
    for words, targets in _shared(scene).items():
        if all(visible[i] >= SHOWN for i in targets):
            quantifier = "all" if rng.random() < 0.5 else f"{_article(rng)}{_NUMERALS[len(targets)]}"
            several.append(GroupExpression(f"{quantifier} {_plural(phrase(words))}", targets, "several"))
    return [group[i] for group in (none, one, several) for i in rng.permutation(len(group))[:PER_NUMBER]]


def _absent(scene: Scene) -> list[Words]:
    """Pairs of a word and a shape that are true of nothing together, though each is of something."""
    words = {word for shape in scene.objects for word in shape.attributes[:3]} - {"medium", "plain"}
    shapes = {shape.shape for shape in scene.objects}
    pairs = product(sorted(words), sorted(shapes))
    return [pair for pair in pairs if pair not in UNSEEN_PAIRS and not meant_by(scene, pair)]


def _shared(scene: Scene) -> dict[Words, tuple[int, ...]]:
    """Descriptions that mean several objects, with their indices."""
    said = {words: tuple(meant_by(scene, words)) for shape in scene.objects for words in descriptions(shape)}
    return {words: targets for words, targets in said.items() if len(targets) > 1}


def _article(rng: np.random.Generator) -> str:
    return "the " if rng.random() < 0.5 else ""


def _plural(name: str) -> str:
    return name + ("es" if name.endswith("s") else "s")
