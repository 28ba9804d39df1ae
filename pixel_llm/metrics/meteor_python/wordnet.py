"""Which words share a meaning: WordNet's synonym sets, of a word and of the words it may be a form of."""

from functools import cache

from pixel_llm.metrics.meteor_python.resources import read_lines

# WordNet's endings of nouns, verbs and adjectives, and what stands in their place in the base form.
_ENDINGS = (
    *(("s", ""), ("ses", "s"), ("xes", "x"), ("zes", "z"), ("ches", "ch"), ("shes", "sh"), ("men", "man")),
    ("ies", "y"),
    *(("es", "e"), ("es", ""), ("ed", "e"), ("ed", ""), ("ing", "e"), ("ing", "")),
    *(("er", ""), ("est", ""), ("er", "e"), ("est", "e")),
)


class WordNet:
    """The synonym sets, known by their numbers."""

    def __init__(self) -> None:
        lines = read_lines("synonym/english.synsets")
        self._meanings = dict(zip(lines[::2], lines[1::2], strict=True))
        lines = read_lines("synonym/english.exceptions")
        self._bases: dict[str, list[str]] = {}
        for base, forms in zip(lines[::2], lines[1::2], strict=True):
            for form in forms.split():
                self._bases.setdefault(form, []).append(base)

    @cache  # noqa: B019
    def meanings(self, word: str) -> frozenset[str]:
        """The numbers of all synonym sets that hold the word or a base form of it."""
        words = [word, *self._base_forms(word)]
        return frozenset(number for known in words for number in self._meanings.get(known, "").split())

    def _base_forms(self, word: str) -> list[str]:
        """By the list of irregular forms, otherwise by the first ending that leaves a word of WordNet."""
        if word in self._bases:
            return self._bases[word]
        if len(word) <= 2 or word.endswith("ss"):
            return []
        stems = (word.removesuffix(ending) + base for ending, base in _ENDINGS if word.endswith(ending))
        return [stem for stem in stems if stem in self._meanings][:1]
