"""The cache of keys and values that a backbone's attention reads."""

from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from pixel_llm.pixel_sail.backbone import Past


class LayerPast(NamedTuple):
    """One layer's share of a past.

    keys, values: float[N', heads, room, d]; positions from `length` on are spare room.
    rows: int[N], the row of each sequence; None where sequence n has row n.
    in_place: new positions may be written into the room.
    """

    keys: Tensor
    values: Tensor
    length: int
    rows: Tensor | None
    in_place: bool

    def extend(self, keys: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
        """The past's keys and values with new ones (float[N, heads, L, d]) behind, float[N, heads, S + L, d] each."""
        return self._extend(self.keys, keys), self._extend(self.values, values)

    def _extend(self, past: Tensor, new: Tensor) -> Tensor:
        end = self.length + new.shape[2]
        if self.in_place:
            past[:, :, self.length : end] = new
            return past[:, :, :end]
        past = past[:, :, : self.length]
        return torch.cat([(past if self.rows is None else past[self.rows]).to(new.dtype), new], dim=2)


class KeyValues(Past):
    """A past as keys and values of each layer.

    Rows are gathered when a layer reads them and not before: of sixteen questions about an image no more than one
    layer's copies of its keys need exist at a time.

    image: how many of the positions are the image's: those of the first pass.
    """

    def __init__(
        self,
        keys: list[Tensor],
        values: list[Tensor],
        length: int | None = None,
        rows: Tensor | None = None,
        in_place: bool = False,
        image: int | None = None,
    ) -> None:
        """keys, values: float[N', heads, room, d] of each layer; the rest as in `LayerPast`."""
        self.keys, self.values, self.rows, self.in_place = keys, values, rows, in_place
        self.length = keys[0].shape[2] if length is None else length
        self.image = self.length if image is None else image

    def layer(self, number: int) -> LayerPast:
        return LayerPast(self.keys[number], self.values[number], self.length, self.rows, self.in_place)

    def grown(self, keys: list[Tensor], values: list[Tensor]) -> "KeyValues":
        """The past after reading on, from what each layer's `extend` gave."""
        length = keys[0].shape[2]
        if self.in_place:  # the whole room, of which `extend` gave a part
            keys, values = self.keys, self.values
        return KeyValues(keys, values, length, in_place=self.in_place, image=self.image)

    def select(self, index: Tensor) -> "KeyValues":
        if self.in_place:
            keys, values = ([part[index] for part in parts] for parts in (self.keys, self.values))
            return KeyValues(keys, values, self.length, in_place=True, image=self.image)
        rows = index if self.rows is None else self.rows[index]
        return KeyValues(self.keys, self.values, self.length, rows, image=self.image)

    def reserve(self, positions: int) -> "KeyValues":
        keys, values = ([self._room(part, positions) for part in parts] for parts in (self.keys, self.values))
        return KeyValues(keys, values, self.length, in_place=True, image=self.image)

    def _room(self, part: Tensor, positions: int) -> Tensor:
        part = part[:, :, : self.length]
        return F.pad(part if self.rows is None else part[self.rows], (0, 0, 0, positions))
