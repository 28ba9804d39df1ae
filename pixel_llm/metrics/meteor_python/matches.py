"""What in a caption may stand for what in a reference: the same word, its stem, a synonym, a paraphrase."""

from collections import defaultdict
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from functools import cache, lru_cache

from snowballstemmer import stemmer

from pixel_llm.metrics.meteor_python.normalize import Normalizer
from pixel_llm.metrics.meteor_python.paraphrases import Paraphrases, Phrase, paraphrase_table, spans
from pixel_llm.metrics.meteor_python.resources import paraphrase_file
from pixel_llm.metrics.meteor_python.wordnet import WordNet

EXACT, STEM, SYNONYM, PARAPHRASE = range(4)
_MODULES_OF_WORDS = (EXACT, STEM, SYNONYM)


@dataclass(frozen=True, slots=True)
class Match:
    """Some words of the reference, from `start`, and some of the caption, from `other_start`.

    bits, other_bits: those words as the bits of a number.
    """

    start: int
    length: int
    other_start: int
    other_length: int
    module: int
    bits: int
    other_bits: int


@lru_cache(1 << 16)
def match_of(start: int, length: int, other_start: int, other_length: int, module: int) -> Match:
    bits, other_bits = ((1 << length) - 1) << start, ((1 << other_length) - 1) << other_start
    return Match(start, length, other_start, other_length, module, bits, other_bits)


class Text:
    """A text with what matching asks of it again and again.

    phrases: those of the paraphrases in it, by position, then by length.  places: where each of them begins.
    """

    def __init__(self, words: Phrase, phrases: Collection[Phrase], longest: int) -> None:
        self.words = words
        self.phrases = spans(words, phrases, longest)
        self.places: dict[Phrase, list[int]] = defaultdict(list)
        for start, phrase in self.phrases:
            self.places[phrase].append(start)


class Matcher:
    """Knows the program's word lists. Raises JarUnavailable where the `pycocoevalcap` package is missing."""

    def __init__(self) -> None:
        self._normalizer = Normalizer()
        self._stem = cache(stemmer("english").stemWord)
        self._meanings = WordNet().meanings
        self._modules = lru_cache(1 << 18)(self._modules_of)
        self._table = paraphrase_table(paraphrase_file())

    def words(self, text: str) -> Phrase:
        return tuple(self._normalizer.words(text))

    def paraphrases(self, texts: Iterable[Phrase]) -> Paraphrases:
        return self._table.among(texts)

    def text(self, words: Phrase, phrases: Collection[Phrase]) -> Text:
        return Text(words, phrases, self._table.longest)

    def matches(self, caption: Text, reference: Text, paraphrases: Paraphrases) -> list[list[Match]]:
        """All possible matches, by their start in the reference; the order within decides between equals.

        A caption that equals the reference is matched by exact words only.
        """
        found: list[list[Match]] = [self._of_word(word, start, caption) for start, word in enumerate(reference.words)]
        if caption.words == reference.words:
            return [[match for match in own if match.module == EXACT] for own in found]
        for start, length, other_start, other_length in paraphrased(reference, caption, paraphrases):
            found[start].append(match_of(start, length, other_start, other_length, PARAPHRASE))
        for other_start, other_length, start, length in paraphrased(caption, reference, paraphrases):
            found[start].append(match_of(start, length, other_start, other_length, PARAPHRASE))
        return found

    def _of_word(self, word: str, start: int, caption: Text) -> list[Match]:
        similar = [(i, modules) for i, other in enumerate(caption.words) if (modules := self._modules(word, other))]
        return [
            match_of(start, 1, other_start, 1, module)
            for module in _MODULES_OF_WORDS
            for other_start, modules in similar
            if module in modules
        ]

    def _modules_of(self, word: str, other: str) -> Sequence[int]:
        """By which modules two words match."""
        if word == other:
            return (EXACT,)
        modules = []
        if self._stem(word) == self._stem(other):
            modules.append(STEM)
        if not self._meanings(word).isdisjoint(self._meanings(other)):
            modules.append(SYNONYM)
        return tuple(modules)


def paraphrased(text: Text, other: Text, paraphrases: Paraphrases) -> list[tuple[int, int, int, int]]:
    """Start and length of a phrase in a text, start and length of a paraphrase of it in the other."""
    found = []
    for start, phrase in text.phrases:
        own = paraphrases.get(phrase)
        if own:
            for target in sorted(own.keys() & other.places.keys(), key=own.__getitem__):
                found += [(start, len(phrase), place, len(target)) for place in other.places[target]]
    return found
