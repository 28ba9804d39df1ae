"""Words of a text, against what the Java program was seen to make of it."""

from importlib.util import find_spec

import pytest

from pixel_llm.metrics.meteor_python.normalize import Normalizer
from pixel_llm.metrics.meteor_python.wordnet import WordNet

pytestmark = pytest.mark.skipif(find_spec("pycocoevalcap") is None, reason="the captions extra is not installed")

SEEN = {
    "A dog's bowl, isn't it?": "a dog 's bowl , isn 't it ?",
    "1,000,5 dogs,cats": "1,000,5 dogs , cats",
    "a,b,c": "a , b,c",
    "a,,b": "a , ,b",
    "a'b'c": "a 'b'c",
    "a''b": 'a " b',
    "'''a": "\" ' a",
    "a--b---c": "a b--c",
    "a-b-c": "a b-c",
    "a-–b": "a- - b",
    "...-a": "... -a",
    "a..b.c": "a .. b.c",
    "'..'": "' .. '",
    "the 1990's": "the 1990 's",
    "U.S. It": "us it",
    "e.g. Dog": "eg dog",
    "No. 5 and No. Five": "no. 5 and no . five",
    "Mr. X sat. the end.": "mr. x sat. the end .",
    "é. é": "é . é",
    "dog.\u00a0cat\u2003x\u3000y": "dog . cat x y",
    "café(ok)$5 😀!": "café ( ok ) $ 5 😀 !",
}


@pytest.mark.parametrize(("text", "words"), SEEN.items())
def test_words_are_those_of_the_program(text, words):
    assert Normalizer().words(text) == words.split()


def test_a_word_has_the_meanings_of_its_base_form():
    wordnet = WordNet()
    assert wordnet.meanings("dogs") == wordnet.meanings("dog") != frozenset()
    assert wordnet.meanings("mice") >= wordnet.meanings("mouse")  # an exception
    assert wordnet.meanings("running") > wordnet.meanings("run")
    assert wordnet.meanings("discuss").isdisjoint(wordnet.meanings("discus"))  # no plural
    assert wordnet.meanings("as").isdisjoint(wordnet.meanings("a"))
    assert wordnet.meanings("xyzzy") == frozenset()
