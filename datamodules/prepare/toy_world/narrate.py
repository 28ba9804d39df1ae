"""Telling a toy scene: sentences from left to right with relations, and when each word is spoken.

Like an annotator of Localized Narratives, the narrator looks at what a word is about: every word carries the object
(or the background) that the hand points at while it is said.
"""

from dataclasses import dataclass

import numpy as np

from datamodules.prepare.toy_world.scene import Scene, Shape

BACKGROUND = -1  # what a word points at: an object's index, or the background


@dataclass(frozen=True)
class SpokenWord:
    """text as transcribed, without punctuation; begin, end: characters in the caption; start, stop: seconds.

    target: index of the object that the hand points at, or BACKGROUND.
    """

    text: str
    begin: int
    end: int
    start: float
    stop: float
    target: int


@dataclass(frozen=True)
class ObjectMention:
    """Characters begin..end of the caption name object `target`."""

    begin: int
    end: int
    target: int


@dataclass(frozen=True)
class Narration:
    caption: str
    words: tuple[SpokenWord, ...]
    mentions: tuple[ObjectMention, ...]


class _Script:
    """Collects words with their targets; knows the caption that they make."""

    def __init__(self) -> None:
        self.caption = ""
        self.words: list[tuple[str, int, int, int]] = []
        self.mentions: list[ObjectMention] = []

    def say(self, text: str, target: int) -> None:
        for word in text.split():
            word = word.capitalize() if not self.caption or self.caption.endswith(".") else word
            self.caption += (" " if self.caption else "") + word
            self.words.append((word, len(self.caption) - len(word), len(self.caption), target))

    def name(self, article: str, noun: str, target: int) -> None:
        """Say a phrase that names an object; the article is no part of the name."""
        self.say(article, target)
        begin = len(self.caption) + 1
        self.say(noun, target)
        self.mentions.append(ObjectMention(begin, len(self.caption), target))

    def full_stop(self) -> None:
        self.caption += "."


def narrate(scene: Scene) -> Narration:
    """The narration of a scene, a pure function of it."""
    rng = np.random.default_rng((*scene.seed, 2))
    script = _Script()
    order = sorted(range(len(scene.objects)), key=lambda i: scene.objects[i].x)
    _open(script, scene, order[0], rng)
    for position, new in enumerate(order[1:], start=1):
        previous = order[position - 1]
        anchor = previous if position == 1 or rng.random() < 0.8 else int(rng.choice(order[: position - 1]))
        _relate(script, scene, new, anchor, anchor == previous, rng)
    script.say(f"the background is {scene.tint} and {scene.pattern}", BACKGROUND)
    script.full_stop()
    return Narration(script.caption, _speak(script, rng), tuple(script.mentions))


def _open(script: _Script, scene: Scene, first: int, rng: np.random.Generator) -> None:
    opening = str(rng.choice(["in this image there is", "on the left there is", "I can see"]))
    script.say(opening, first)
    _introduce(script, scene.objects[first], first)
    script.full_stop()


def _relate(script: _Script, scene: Scene, new: int, anchor: int, previous: bool, rng: np.random.Generator) -> None:
    relation = relation_of(scene, new, anchor)
    if rng.random() < 0.5:
        script.say(relation, anchor)
        _refer(script, scene, anchor, previous, rng)
        script.say("there is", new)
        _introduce(script, scene.objects[new], new)
    else:
        _introduce(script, scene.objects[new], new)
        script.say("is " + relation, new)
        _refer(script, scene, anchor, previous, rng)
    script.full_stop()


def relation_of(scene: Scene, new: int, anchor: int) -> str:
    """Where the new object is, seen from the anchor."""
    a, b = scene.objects[anchor], scene.objects[new]
    dx, dy = b.x - a.x, b.y - a.y
    if max(abs(dx), abs(dy)) < 0.95 * (a.radius + b.radius):
        return "in front of" if new > anchor else "behind"
    if abs(dx) > abs(dy):
        return "to the right of" if dx > 0 else "to the left of"
    return "below" if dy > 0 else "above"


def _introduce(script: _Script, shape: Shape, index: int) -> None:
    noun = noun_phrase(shape)
    script.name("an" if noun[0] in "aeiou" else "a", noun, index)


def _refer(script: _Script, scene: Scene, index: int, previous: bool, rng: np.random.Generator) -> None:
    """Point back at an object: by pronoun, or by as many attributes as tell it apart."""
    if previous and rng.random() < 0.4:
        script.say("it", index)
        return
    shape = scene.objects[index]
    alike = sum((o.colour, o.shape) == (shape.colour, shape.shape) for o in scene.objects)
    script.name("the", f"{shape.colour} {shape.shape}" if alike == 1 else noun_phrase(shape), index)


def noun_phrase(shape: Shape) -> str:
    """`small red striped ring`; medium size and plain texture go without saying."""
    size, colour, texture, kind = shape.attributes
    return " ".join(w for w in (size, colour, texture, kind) if w not in ("medium", "plain"))


def _speak(script: _Script, rng: np.random.Generator) -> tuple[SpokenWord, ...]:
    """Give every word its time: longer words take longer, sentences are followed by a pause."""
    time, spoken = float(rng.uniform(0.4, 1.0)), []
    rate = rng.uniform(0.85, 1.2)
    for text, begin, end, target in script.words:
        duration = rate * (0.12 + 0.045 * len(text)) * rng.uniform(0.85, 1.15)
        spoken.append(SpokenWord(text, begin, end, round(time, 3), round(time + duration, 3), target))
        time = round(time + duration, 3)
        if script.caption[end : end + 1] == ".":
            time = round(time + rng.uniform(0.3, 0.9), 3)
        elif rng.random() < 0.1:
            time = round(time + rng.uniform(0.05, 0.3), 3)
    return tuple(spoken)
