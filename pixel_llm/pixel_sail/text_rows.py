"""The texts of an image behind each other in one row, where none sees another.

Of texts of unequal length little is then padding, and the keys of an image are read where they are: a row of its own
for each text would need a copy of them.
"""

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass
class TextRows:
    """Where the words of P texts about B images stand in B rows of W places.

    text: int[B, W], the text of each place, -1 for none.  step: int[B, W], which of its words, from 0.
    place: int[P, L], of each word in the rows laid end to end; B * W for what is no word.
    """

    text: Tensor
    step: Tensor
    place: Tensor

    @classmethod
    def of(cls, image_index: Tensor, valid: Tensor, images: int) -> "TextRows":
        """image_index: int[P], the image of each text, in any order.  valid: bool[P, L], what is a word of it."""
        lengths, order = valid.sum(1), image_index.argsort(stable=True)
        totals = lengths.new_zeros(images).index_add(0, image_index, lengths)
        width = max(1, int(totals.max()))
        ends = lengths[order].cumsum(0)
        start = torch.empty_like(lengths)
        start[order] = ends - lengths[order] - (totals.cumsum(0) - totals)[image_index[order]]
        step = valid.cumsum(1) - 1
        place = torch.where(valid, image_index[:, None] * width + start[:, None] + step, images * width)
        number = torch.arange(len(valid), device=valid.device)[:, None].expand_as(valid)
        text, steps = (_laid_out(values, place, -1, (images, width)) for values in (number, step))
        return cls(text, steps, place)

    def pack(self, words: Tensor, empty: int) -> Tensor:
        """int[P, L] -> int[B, W], `empty` where there is no word."""
        return _laid_out(words, self.place, empty, (self.text.shape[0], self.text.shape[1]))

    def unpack(self, states: Tensor, first: int = 0) -> Tensor:
        """float[B, W, D] -> float[P, L - first, D], from word `first` on; 0 for what is no word."""
        states = torch.cat([states.flatten(0, 1), states.new_zeros(1, states.shape[2])])
        return states[self.place[:, first:]]

    def attend(self) -> Tensor:
        """What each place sees of its row, bool[B, W, W]: its own text's past and itself."""
        return (self.text[:, :, None] == self.text[:, None]).tril()


def _laid_out(values: Tensor, place: Tensor, empty: int, shape: tuple[int, int]) -> Tensor:
    rows = values.new_full((shape[0] * shape[1] + 1,), empty)
    return rows.scatter(0, place.flatten(), values.flatten())[:-1].view(shape)
