"""CIDEr-D: reference numbers, its dependence on the set."""

import numpy as np
import pytest

from pixel_llm.metrics.cider import cider


def test_equals_the_reference_implementation(scored):
    values = cider(scored.captions, scored.references)
    np.testing.assert_allclose(values, scored.want["CIDEr"]["per_item"], rtol=0, atol=1e-9)


def test_one_caption_alone_scores_zero():
    assert cider(["a dog runs in a park"], [["a dog runs in a park"]]) == [0.0]


def test_perfect_captions_of_different_images_score_ten():
    texts = ["a dog runs fast today", "two cats sleep on sofas"]
    assert cider(texts, [[text] for text in texts]) == pytest.approx([10.0, 10.0])


def test_order_of_the_set_does_not_matter():
    texts = ["a dog", "a cat sleeps", "a big dog runs", ""]
    references = [["a dog runs"], ["a cat"], ["the big dog runs", "a dog"], ["nothing here"]]
    backwards = cider(texts[::-1], references[::-1])[::-1]
    assert cider(texts, references) == pytest.approx(backwards)
