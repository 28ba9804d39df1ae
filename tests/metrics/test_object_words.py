"""Share of object words inside their object's box."""

import pytest
import torch

from pixel_llm.metrics.object_words import ObjectWordsInside


def test_share_over_all_updates_edges_included():
    metric = ObjectWordsInside()
    box = torch.tensor([[0.2, 0.2, 0.6, 0.4]])
    metric.update(torch.tensor([[0.2, 0.4], [0.5, 0.5], [0.3, 0.3]]), box.expand(3, 4))
    metric.update(torch.zeros(0, 2), torch.zeros(0, 4))
    metric.update(torch.tensor([[0.7, 0.3]]), box)
    assert metric.compute().item() == pytest.approx(2 / 4)


def test_no_word_is_no_number():
    with pytest.warns(UserWarning, match="before"):
        assert ObjectWordsInside().compute().isnan()
