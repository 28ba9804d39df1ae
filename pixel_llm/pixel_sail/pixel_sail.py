"""Pixel-SAIL: one transformer that reads pixels and words, answers, and says by [SEG] which pixels it means.

A sequence is an image followed by a text. An image of 2 x 2 patches with the question "what", answered "cat":

                          row  column   sees (#)
     0  <image>            0     0      # # # # # # . . . .      an image sees all of itself,
     1  patch (0, 0)       1     1      # # # # # # . . . .      and never a text
     2  patch (0, 1)       1     2      # # # # # # . . . .
     3  patch (1, 0)       2     1      # # # # # # . . . .
     4  patch (1, 1)       2     2      # # # # # # . . . .
     5  </image>           3     3      # # # # # # . . . .
     6  what               4     4      # # # # # # # . . .      a text sees its image
     7  (padding)          -     -      . . . . . . . # . .      and its own past
     8  <bos>              5     5      # # # # # # # . # .
     9  cat                6     6      # # # # # # # . # #

So what an image becomes does not depend on what is asked about it: a batch is read in two passes, first its images,
then all its texts, each on the cache of its image. A text without an image begins at position 0 and is read as by the
plain language model.
"""

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from pixel_llm.core.decoding import Decoded, DecodingRule, decode
from pixel_llm.pixel_sail.backbone import EncoderFreeBackbone, Past
from pixel_llm.pixel_sail.mask_head import MaskHead
from pixel_llm.pixel_sail.patch_embedding import PatchEmbedding
from pixel_llm.pixel_sail.text_rows import TextRows
from pixel_llm.pixel_sail.visual_prompts import VisualPromptInjection, check_symbols, painted, unseen
from pixel_llm.special_tokens import SpecialTokens
from pixel_llm.structures import Prompts, VisualPrompts


@dataclass
class SailImages:
    """Images that were read; once, however many questions there are. N patches on the canvas, row by row.

    past: of <image>, the patches and </image>.  valid: bool[B, N + 2], those that a text sees; none without an image.
    states: float[B, N, D] of the patches, 0 where there is no pixel of the image.
    grid: (rows, columns) of patches on the canvas.  next_position: int[B], where texts begin.
    sizes: int[B, 2], height and width of the real part of each canvas.
    unseen: int[L], those of the R regions that were given of which no patch is marked; see `visual_prompts.py`.
    """

    past: Past
    valid: Tensor
    states: Tensor
    grid: tuple[int, int]
    next_position: Tensor
    sizes: Tensor
    unseen: Tensor


@dataclass
class SailOutputs:
    """What the model says with the true answer as its input.

    logits: float[P, T, V]; row t predicts token t + 1.  hidden: float[P, T, D], the state after reading token t, 0 in
        the padding.
    """

    logits: Tensor
    hidden: Tensor


class PixelSail(nn.Module):
    """The whole model.

    special: the symbols behind the tokenizer's words.
    bos_id: stands between a question and its answer.  eos_id: ends the answer.  pad_id: may be one of them.
    mask_head: makes masks of [SEG] states; None in a model that only answers.
    visual_prompts: marks the patches of regions; None in a model that does not see them, whoever names them.
    """

    def __init__(
        self,
        *,
        backbone: EncoderFreeBackbone,
        patch_embedding: PatchEmbedding,
        special: SpecialTokens,
        bos_id: int,
        eos_id: int,
        pad_id: int,
        mask_head: MaskHead | None = None,
        visual_prompts: VisualPromptInjection | None = None,
    ) -> None:
        super().__init__()
        if backbone.vocabulary_size < special.vocabulary_size:
            raise ValueError(
                f"the backbone has {backbone.vocabulary_size} words, of the {special.vocabulary_size} that are needed"
            )
        self.backbone = backbone
        self.patch_embedding = patch_embedding
        self.special = special
        self.bos_id, self.eos_id, self.pad_id = bos_id, eos_id, pad_id
        self.mask_head, self.visual_prompts = mask_head, visual_prompts

    def encode_images(self, images: Tensor, sizes: Tensor, visual_prompts: VisualPrompts | None = None) -> SailImages:
        """Read images.

        images: uint8 or float32[B, 3, H, W], RGB in 0..255.  sizes: int[B, 2] of the real part of each canvas, 0 x 0
            for a text without an image.
        visual_prompts: regions that texts will name.
        """
        patches = self.patch_embedding(images, sizes)
        grid, grids = (patches.shape[2], patches.shape[3]), self.patch_embedding.grids(sizes)
        positions, valid = image_positions(grid, grids)
        symbols = valid.new_full(valid.shape, self.special.patch, dtype=torch.long)
        symbols[:, 0], symbols[:, -1] = self.special.image, self.special.image_end
        pixels = patches.flatten(2).transpose(1, 2)
        lost = sizes.new_zeros(0)
        if self.visual_prompts is not None:
            marks, lost = self._marks(visual_prompts, len(images), grid)
            pixels = pixels + marks
        embeddings = self.backbone.embed(symbols) + F.pad(pixels, (0, 0, 1, 1))
        attend = valid[:, None] | torch.eye(valid.shape[1], dtype=torch.bool, device=valid.device)
        states, past = self.backbone(embeddings, positions, attend, None)
        states = states[:, 1:-1].masked_fill(~valid[:, 1:-1, None], 0.0)
        next_position = torch.where(grids.amin(1) > 0, grids.amax(1) + 2, 0)
        return SailImages(past, valid, states, grid, next_position, sizes, lost)

    def _marks(
        self, visual_prompts: VisualPrompts | None, batch: int, grid: tuple[int, int]
    ) -> tuple[Tensor, Tensor]:
        """What regions add to their patches, float[B, N, D], and which have none, int[L].

        Computed, as zeros, also where no batch has regions.
        """
        assert self.visual_prompts is not None
        device = self.patch_embedding.mean.device
        numbers = torch.arange(self.special.visual_prompts, device=device) + self.special.prompt(0)
        if visual_prompts is None:
            symbols, lost = torch.full((batch, grid[0] * grid[1]), -1, device=device), numbers[:0]
        else:
            check_symbols(visual_prompts, self.special.visual_prompts)
            symbols = painted(visual_prompts, batch, grid, self.patch_embedding.patch)
            lost = unseen(visual_prompts, symbols)
        return self.visual_prompts(symbols, self.backbone.embed(numbers)), lost

    def mask_features(self, images: SailImages) -> Tensor:
        """float[B, E, h, w], what masks of any number of [SEG] states are made from.

        Raises ValueError with one line of a model without masks.
        """
        return self._head().features(images.states, images.grid)

    def masks(self, features: Tensor, hidden: Tensor, image_index: Tensor) -> Tensor:
        """Mask logits float[S, h, w] on the canvas, of the states (float[S, D]) of [SEG] tokens as inputs.

        features: of `mask_features`.  image_index: int[S], the image of each.
        """
        return self._head()(features, hidden, image_index)

    def _head(self) -> MaskHead:
        if self.mask_head is None:
            raise ValueError("masks are asked of a model without a mask head (mask_stride: null)")
        return self.mask_head

    def forward(self, images: SailImages, prompts: Prompts, tokens: Tensor) -> SailOutputs:
        """Teacher forcing on answers int[P, T]: <bos> w1 .. wn </s>, padded at the end."""
        context, index = self._context(prompts), prompts.image_index
        valid = torch.cat([self._words(context), self._words(tokens)], dim=1)
        rows = TextRows.of(index, valid, len(images.valid))
        embeddings = self.backbone.embed(rows.pack(torch.cat([context, tokens], dim=1), self.pad_id))
        positions = images.next_position[:, None] + rows.step.clamp(min=0)
        attend = torch.cat([images.valid[:, None].expand(-1, rows.text.shape[1], -1), rows.attend()], dim=2)
        states, _ = self.backbone(embeddings, positions[..., None].expand(-1, -1, 3), attend, images.past)
        hidden = rows.unpack(states, context.shape[1])
        return SailOutputs(self.backbone.logits(hidden), hidden)

    def _context(self, prompts: Prompts) -> Tensor:
        """int[P, C]; C is 0 where nothing has a question."""
        index = prompts.image_index
        return index.new_zeros(len(index), 0) if prompts.context is None else prompts.context

    def _words(self, context: Tensor) -> Tensor:
        """bool[P, C], False in the padding at the end; a token equal to it before the last word is no padding."""
        return (context != self.pad_id).flip(1).cumsum(1).flip(1) > 0

    @torch.no_grad()
    def generate(self, images: SailImages, prompts: Prompts, rule: DecodingRule) -> Decoded:
        """Answer on its own; row t of `hidden` is the state after reading token t, as in `SailOutputs`."""
        first = torch.full_like(prompts.image_index, self.bos_id)
        return decode(_Answering(self, images, rule.max_tokens), prompts, first, rule)


@dataclass
class _Answer:
    """Where the answering of N prompts stands.

    past: of image, question and answer so far.  seen: bool[N, S], which of its positions are something.
    position: int[N], of the next token.
    """

    past: Past
    seen: Tensor
    position: Tensor


class _Answering:
    """A model as a search sees it."""

    def __init__(self, model: PixelSail, images: SailImages, max_tokens: int) -> None:
        self.model, self.images, self.max_tokens = model, images, max_tokens
        self.width, self.eos_id, self.pad_id = model.backbone.width, model.eos_id, model.pad_id

    def start(self, prompts: Prompts) -> _Answer:
        """Read the questions, each on a copy of its image's cache with room for the answer."""
        context, index = self.model._context(prompts), prompts.image_index
        words = self.model._words(context)
        past = self.images.past.select(index).reserve(context.shape[1] + self.max_tokens)
        seen, first = torch.cat([self.images.valid[index], words], dim=1), self.images.next_position[index]
        if context.shape[1]:
            steps, positions = words.shape[1], first[:, None] + (words.cumsum(1) - 1).clamp(min=0)
            causal = torch.ones(steps, steps, dtype=torch.bool, device=words.device).tril()
            itself = torch.eye(steps, dtype=torch.bool, device=words.device)
            image = self.images.valid[index, None].expand(-1, steps, -1)
            attend = torch.cat([image, causal & words[:, None] | itself], dim=2)
            embeddings = self.model.backbone.embed(context)
            _, past = self.model.backbone(embeddings, positions[..., None].expand(-1, -1, 3), attend, past)
        return _Answer(past, seen, first + words.sum(1))

    def step(self, state: _Answer, tokens: Tensor) -> Tensor:
        backbone = self.model.backbone
        state.seen = torch.cat([state.seen, torch.ones_like(state.seen[:, :1])], dim=1)
        positions = state.position[:, None, None].expand(-1, 1, 3)
        embeddings = backbone.embed(tokens)[:, None]
        hidden, state.past = backbone(embeddings, positions, state.seen[:, None], state.past)
        state.position = state.position + 1
        return hidden[:, 0]

    def reorder(self, state: _Answer, index: Tensor) -> None:
        state.past = state.past.select(index)
        state.seen, state.position = state.seen[index], state.position[index]

    def logits(self, hidden: Tensor) -> Tensor:
        return self.model.backbone.logits(hidden)


def image_positions(grid: tuple[int, int], grids: Tensor) -> tuple[Tensor, Tensor]:
    """Positions of <image>, patches and </image>, int[B, N + 2, 3], and which of them exist, bool[B, N + 2].

    grid: (rows, columns) of the canvas.  grids: int[B, 2], those of each image.
    """
    rows, columns = (torch.arange(side, device=grids.device) for side in grid)
    row, column = (axis.flatten() for axis in torch.meshgrid(rows, columns, indexing="ij"))
    places = torch.stack([torch.zeros_like(row), row, column], dim=1) + 1
    begin, end = grids.new_zeros(len(grids), 1, 3), (grids.amax(1) + 1)[:, None, None].expand(-1, 1, 3)
    positions = torch.cat([begin, places.expand(len(grids), -1, -1), end], dim=1)
    some = grids.amin(1, keepdim=True) > 0
    inside = (row < grids[:, :1]) & (column < grids[:, 1:])
    return positions, torch.cat([some, inside, some], dim=1)
