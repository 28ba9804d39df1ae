"""What the transformer learns from the features of frozen vision experts.

The paper has two: the states of its patches learn SAM's, the features that masks are looked for in learn those of a
segmentation expert. What a teacher makes of an image never changes, so it can come from a cache
(`datamodules/features.py`) instead; `Batch.features` then has it under the teacher's name.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.random import fork_rng

from pixel_llm.core.image_encoder import ImageEncoder
from pixel_llm.losses import masked_mean


class Teacher(nn.Module, ABC):
    """name: of its features in `Batch.features`.  channels: C of them."""

    def __init__(self, name: str, channels: int) -> None:
        super().__init__()
        self.name, self.channels = name, channels

    @abstractmethod
    def forward(self, images: Tensor, sizes: Tensor) -> Tensor:
        """What it makes of whole canvases, without gradients: float[B, C, h, w], on a grid of its own.

        images: uint8[B, 3, H, W], RGB, zero beyond the image.  sizes: int[B, 2], height and width of the real part.
        """


class FrozenEncoder(Teacher):
    """An image encoder as a teacher, such as SAM's; see also `teachers.py`."""

    def __init__(self, encoder: ImageEncoder, name: str) -> None:
        super().__init__(name, encoder.channels)
        self.encoder = encoder.freeze()

    @torch.no_grad()
    def forward(self, images: Tensor, sizes: Tensor) -> Tensor:
        return self.encoder(images, sizes)


class CachedFeatures(Teacher):
    """A teacher that is not there itself and takes no memory: the data bring all its features.

    weights: its fingerprint, as a cache's manifest.json has it; None takes the features of whatever has its name.
    """

    def __init__(self, name: str, channels: int, weights: str | None = None) -> None:
        super().__init__(name, channels)
        self.weights = weights

    def check(self, cache: Any) -> None:
        """ValueError with one line for features (a `datamodules.features.FeatureCache`) of something else."""
        found, wanted = (cache.producer.channels, cache.producer.weights), (self.channels, self.weights)
        if found[0] != wanted[0]:
            raise ValueError(f"{cache.folder}: {found[0]} channels of {self.name}, not the expected {wanted[0]}")
        if wanted[1] is not None and found[1] != wanted[1]:
            raise ValueError(
                f"{cache.folder}: features of a {self.name} with other weights ({found[1]}, here {wanted[1]})"
            )

    def forward(self, images: Tensor, sizes: Tensor) -> Tensor:
        raise ValueError(f"the data bring no features of {self.name}: give its cache to the data module as `features`")


class FeatureDistillation(nn.Module):
    """The distance of a student's features, mapped linearly to the teacher's channels, from the teacher's.

    The linear map is written into checkpoints, so that a training goes on exactly; the teacher is not.
    student_channels: C' of the student's features.
    """

    def __init__(self, teacher: Teacher, student_channels: int) -> None:
        super().__init__()
        self.teacher = teacher.requires_grad_(False)
        self.adapter = nn.Linear(student_channels, teacher.channels)
        self.register_state_dict_post_hook(_without_teacher)
        self.register_load_state_dict_post_hook(_none_missing)

    def forward(self, student: Tensor, images: Tensor, sizes: Tensor, features: Mapping[str, Tensor]) -> Tensor:
        """Mean squared error over the cells with a real pixel, averaged over the images of all processes: a scalar.

        student: float[B, C', h', w'] of the whole canvas; the teacher's map is resized to its grid.
        images, sizes: see `Teacher`; an image of size 0 x 0 counts for nothing.
        features: computed beforehand, by teacher.
        Raises ValueError where the teacher's map has other channels or covers a canvas of another shape.
        """
        teacher = self.teacher
        made = features[teacher.name] if teacher.name in features else teacher(images, sizes)
        wanted = fit(made.detach(), teacher, student)
        got = self.adapter(student.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)
        real = real_cells(sizes, (images.shape[-2], images.shape[-1]), (student.shape[-2], student.shape[-1]))
        errors = ((got.float() - wanted) ** 2).mean(1)
        cells = real.sum((1, 2))
        return masked_mean(torch.where(real, errors, 0.0).sum((1, 2)) / cells.clamp(min=1), cells > 0)


def _without_teacher(module: nn.Module, state: dict[str, Any], prefix: str, metadata: Any) -> None:
    for name in [name for name in state if name.startswith(f"{prefix}teacher.")]:
        del state[name]


def _none_missing(module: nn.Module, incompatible: Any) -> None:
    """A checkpoint lacks what was not written into it."""
    incompatible.missing_keys[:] = [name for name in incompatible.missing_keys if ".teacher." not in f".{name}"]


@dataclass
class DistillationLoss:
    """total is differentiable; the others are its terms before weighting, None without the teacher."""

    total: Tensor
    states: Tensor | None
    masks: Tensor | None


class Distillation(nn.Module):
    """The lessons of up to two teachers, which are made here: a model that is only used has no need of them.

    width, embedding: channels of the states of the patches and of the mask head's features.
    states_teacher, masks_teacher: make the teacher of either (paper: SAM, and a segmentation expert).
    weight: of either lesson.
    """

    def __init__(
        self,
        width: int,
        embedding: int,
        states_teacher: Callable[[], Teacher] | None = None,
        masks_teacher: Callable[[], Teacher] | None = None,
        weight: float = 0.5,
    ) -> None:
        super().__init__()
        self.states = None if states_teacher is None else FeatureDistillation(_made(states_teacher), width)
        self.masks = None if masks_teacher is None else FeatureDistillation(_made(masks_teacher), embedding)
        self.weight = weight
        if self.states and self.masks and self.states.teacher.name == self.masks.teacher.name:
            raise ValueError(f"both teachers are called {self.states.teacher.name}, by which their features are known")

    @property
    def teachers(self) -> dict[str, Teacher]:
        """By name."""
        lessons = [lesson for lesson in (self.states, self.masks) if lesson is not None]
        return {lesson.teacher.name: lesson.teacher for lesson in lessons}

    def forward(
        self,
        states: Tensor,
        grid: tuple[int, int],
        mask_features: Tensor | None,
        images: Tensor,
        sizes: Tensor,
        features: Mapping[str, Tensor],
    ) -> DistillationLoss:
        """states: float[B, N, D] of the patches on the grid (rows, columns) of the canvas.

        mask_features: float[B, E, h, w]; None of a model without masks.  images, sizes, features: as in
        `FeatureDistillation`, which see for the errors too.
        """
        cells = states.transpose(1, 2).unflatten(2, grid)
        given = images, sizes, features
        from_states = None if self.states is None else self.states(cells, *given)
        from_masks = None if self.masks is None or mask_features is None else self.masks(mask_features, *given)
        learnt = [loss for loss in (from_states, from_masks) if loss is not None]
        total = self.weight * torch.stack(learnt).sum() if learnt else states.new_zeros(())
        return DistillationLoss(total, *(None if x is None else x.detach() for x in (from_states, from_masks)))


def _made(teacher: Callable[[], Teacher]) -> Teacher:
    """The adapters' random start then does not depend on whether a teacher is there or its features alone."""
    with fork_rng(devices=[]):
        return teacher()


def fit(made: Tensor, teacher: Teacher, student: Tensor) -> Tensor:
    """A teacher's map on the student's grid: float[B, C, h', w'].

    made: float[B, C, h, w], of whatever type.  student: float[B, C', h', w'].
    Raises ValueError with one line for other channels or images, and for a grid of clearly another shape: it cannot
    cover the same canvas. Grids that were rounded, each in its way, differ a little.
    """
    (images, channels, height, width), (rows, columns) = made.shape, student.shape[-2:]
    if (images, channels) != (len(student), teacher.channels):
        raise ValueError(
            f"{teacher.name}: made {channels} channels for {images} images, not the expected "
            f"{teacher.channels} for {len(student)}"
        )
    if not 0.8 < width * rows / (height * columns) < 1.25:
        raise ValueError(
            f"{teacher.name}: its grid of {height} x {width} does not match the model's of {rows} x {columns}: "
            "they have to cover the same canvas"
        )
    return F.interpolate(made.float(), (rows, columns), mode="bilinear", align_corners=False)


def real_cells(sizes: Tensor, canvas: tuple[int, int], grid: tuple[int, int]) -> Tensor:
    """The cells of a grid over a canvas of (height, width) that hold a real pixel: bool[B, rows, columns].

    sizes: int[B, 2], height and width of the real parts, at the top left.
    """
    rows, columns = (
        torch.arange(cells, device=sizes.device) * pixels / cells < sizes[:, axis, None]
        for axis, (pixels, cells) in enumerate(zip(canvas, grid, strict=True))
    )
    return rows[:, :, None] & columns[:, None]
