"""BLEU: reference numbers, corners."""

import numpy as np
import pytest

from pixel_llm.metrics.bleu import bleu


def test_equals_the_reference_implementation(scored):
    assert bleu(scored.captions, scored.references) == pytest.approx(scored.want["BLEU"]["corpus"], abs=1e-12)
    single = [bleu([caption], [own]) for caption, own in zip(scored.captions, scored.references, strict=True)]
    np.testing.assert_allclose(np.transpose(single), scored.want["BLEU"]["per_item"], rtol=0, atol=1e-12)


def test_perfect_empty_and_repeated_captions():
    assert bleu(["a dog runs in a park"], [["a dog runs in a park"]]) == pytest.approx([1.0] * 4, abs=1e-8)
    assert bleu([""], [["a dog"]]) == pytest.approx([0.0] * 4)
    assert bleu(["dog dog dog dog"], [["dog runs"]])[0] == pytest.approx(1 / 4)  # clipped


def test_short_captions_are_punished_by_the_closest_reference():
    one, two = bleu(["a dog"], [["a dog runs"]])[0], bleu(["a dog"], [["a dog runs", "a dog"]])[0]
    assert one == pytest.approx(np.exp(1 - 3 / 2))
    assert two == pytest.approx(1.0)
