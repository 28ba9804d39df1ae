"""Learning from teachers: the distance cell by cell, what counts, what is refused, what stays out of checkpoints."""

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from pixel_llm.pixel_sail.distillation import (
    CachedFeatures,
    Distillation,
    FeatureDistillation,
    FrozenEncoder,
    Teacher,
)
from pixel_llm.weights.frozen_encoder import encoder_fingerprint
from pixel_llm.weights.tensors import check_fit
from tests.tiny import tiny_sam_encoder

CANVAS, GRID, WIDTH, EMBEDDING = 64, (4, 4), 6, 5
SIZES = torch.tensor([[64, 64], [33, 64], [10, 20]])
IMAGES = torch.randint(0, 256, (3, 3, CANVAS, CANVAS), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))


class Fixed(Teacher):
    """Says the same of every batch."""

    def __init__(self, made: Tensor, name: str = "fixed", channels: int | None = None) -> None:
        super().__init__(name, channels or made.shape[1])
        self.made = made

    def forward(self, images: Tensor, sizes: Tensor) -> Tensor:
        return self.made


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch.manual_seed(0)


def distance(made: Tensor, student: Tensor, sizes: Tensor = SIZES) -> tuple[Tensor, FeatureDistillation]:
    lesson = FeatureDistillation(Fixed(made), student.shape[1])
    return lesson(student, IMAGES[: len(sizes)], sizes, {}), lesson


def test_cell_by_cell_it_is_the_mean_over_the_real_part() -> None:
    made, student = torch.randn(3, 7, 8, 8), torch.randn(3, WIDTH, *GRID)
    got, lesson = distance(made, student)
    wanted = 0.0
    for image, (height, width) in enumerate(SIZES.tolist()):
        errors = []
        for row in range(GRID[0]):
            for column in range(GRID[1]):
                if row * 16 >= height or column * 16 >= width:
                    continue  # this patch has no real pixel
                # a map of twice the side, resized bilinearly: the mean of four cells
                target = made[image, :, 2 * row : 2 * row + 2, 2 * column : 2 * column + 2].mean((1, 2))
                found = lesson.adapter.weight @ student[image, :, row, column] + lesson.adapter.bias
                errors.append(((found - target) ** 2).mean().item())
        assert len(errors) == [16, 12, 2][image]
        wanted += sum(errors) / len(errors) / 3
    assert got.item() == pytest.approx(wanted, rel=1e-5)


def test_what_lies_in_the_padding_has_no_say_and_no_gradient() -> None:
    made, student = torch.randn(3, 7, *GRID), torch.randn(3, WIDTH, *GRID, requires_grad=True)
    loss, lesson = distance(made, student)
    loss.backward()
    assert (student.grad[2, :, 1:] == 0).all()
    assert (student.grad[2, :, 0, :2] != 0).all()
    changed = made.clone()
    changed[2, :, 1:] += 100
    lesson.teacher.made = changed
    assert torch.equal(lesson(student, IMAGES, SIZES, {}), loss)


def test_an_image_that_is_not_there_does_not_count_and_a_batch_of_such_gives_zero() -> None:
    made, student = torch.randn(3, 7, *GRID), torch.randn(3, WIDTH, *GRID, requires_grad=True)
    sizes = SIZES.clone()
    sizes[1] = 0
    loss, lesson = distance(made, student, sizes)
    lesson.teacher.made = made[::2]
    torch.testing.assert_close(loss, lesson(student[::2], IMAGES[::2], sizes[::2], {}))
    lesson.teacher.made = made
    nothing = lesson(student, IMAGES, torch.zeros(3, 2, dtype=torch.long), {})
    nothing.backward()
    assert nothing == 0
    assert not student.grad.any()


def test_features_from_a_cache_are_as_good_as_the_teacher_itself() -> None:
    teacher = FrozenEncoder(tiny_sam_encoder(), "sam_encoder")
    made = teacher(IMAGES, SIZES)
    student = torch.randn(3, WIDTH, 8, 8)
    online = FeatureDistillation(teacher, WIDTH)
    cached = FeatureDistillation(CachedFeatures("sam_encoder", teacher.channels), WIDTH)
    cached.adapter.load_state_dict(online.adapter.state_dict())
    wanted = online(student, IMAGES, SIZES, {})
    torch.testing.assert_close(cached(student, IMAGES, SIZES, {"sam_encoder": made}), wanted)
    half = {"sam_encoder": made.bfloat16()}
    torch.testing.assert_close(cached(student, IMAGES, SIZES, half), wanted, atol=0.05, rtol=0.05)
    # where both are there, nothing is computed again
    shifted = online(student, IMAGES, SIZES, {"sam_encoder": made + 1})
    assert (shifted - wanted).abs() > 0.01


def test_a_teacher_that_is_not_there_wants_its_cache() -> None:
    lesson = FeatureDistillation(CachedFeatures("sam_encoder", 16), WIDTH)
    with pytest.raises(ValueError, match="no features of sam_encoder"):
        lesson(torch.randn(3, WIDTH, *GRID), IMAGES, SIZES, {"other": torch.zeros(3, 16, 4, 4)})


@pytest.mark.parametrize(
    ("made", "channels", "said"),
    [
        (torch.zeros(3, 9, 4, 4), 7, "^fixed: made 9 channels for 3 images, not the expected 7 for 3$"),
        (torch.zeros(2, 7, 4, 4), 7, "^fixed: made 7 channels for 2 images, not the expected 7 for 3$"),
        (torch.zeros(3, 7, 4, 6), 7, "^fixed: its grid of 4 x 6 does not match the model's of 4 x 4: [^\n]*$"),
        (torch.zeros(3, 7, 64, 40), 7, "^fixed: its grid of 64 x 40 does not match"),
    ],
)
def test_a_teacher_that_does_not_match_is_refused_in_one_line(made: Tensor, channels: int, said: str) -> None:
    lesson = FeatureDistillation(Fixed(made, channels=channels), WIDTH)
    with pytest.raises(ValueError, match=said):
        lesson(torch.randn(3, WIDTH, *GRID), IMAGES, SIZES, {})


def test_a_map_of_half_the_side_is_resized_as_torch_does() -> None:
    made, student = torch.randn(3, 7, 3, 3), torch.randn(3, WIDTH, 8, 8)
    whole = torch.full((3, 2), CANVAS)
    loss, lesson = distance(made, student, whole)
    wanted = F.interpolate(made, (8, 8), mode="bilinear")
    torch.testing.assert_close(
        loss,
        F.mse_loss(
            F.conv2d(student, lesson.adapter.weight[..., None, None]) + lesson.adapter.bias[:, None, None], wanted
        ),
    )


def test_the_teacher_stays_as_it_is_and_the_adapter_learns() -> None:
    encoder = tiny_sam_encoder()
    lessons = Distillation(WIDTH, EMBEDDING, lambda: FrozenEncoder(encoder, "sam_encoder")).train()
    before = encoder_fingerprint(encoder)
    states = torch.randn(3, 16, WIDTH, requires_grad=True)
    trained = [p for p in lessons.parameters() if p.requires_grad]
    optimizer, values = torch.optim.AdamW(trained, lr=0.05), []
    for _ in range(20):
        loss = lessons(states, GRID, None, IMAGES, SIZES, {}).total
        values.append(loss.item())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert values[-1] < 0.9 * values[0]
    assert states.grad.any()
    assert not encoder.training
    assert encoder_fingerprint(encoder) == before
    assert all(p.grad is None for p in encoder.parameters())


def test_two_lessons_weigh_the_same_and_either_can_be_left_out() -> None:
    first, second = Fixed(torch.randn(3, 7, *GRID), "first"), Fixed(torch.randn(3, 9, 16, 16), "second")
    both = Distillation(WIDTH, EMBEDDING, lambda: first, lambda: second, weight=0.25)
    states, features = torch.randn(3, 16, WIDTH), torch.randn(3, EMBEDDING, 16, 16)
    loss = both(states, GRID, features, IMAGES, SIZES, {})
    torch.testing.assert_close(loss.total, 0.25 * (loss.states + loss.masks))
    cells = states.transpose(1, 2).reshape(3, WIDTH, *GRID)
    torch.testing.assert_close(loss.states, both.states(cells, IMAGES, SIZES, {}))
    torch.testing.assert_close(loss.masks, both.masks(features, IMAGES, SIZES, {}))
    alone = Distillation(WIDTH, EMBEDDING, None, lambda: second)(states, GRID, features, IMAGES, SIZES, {})
    assert alone.states is None
    assert alone.masks is not None
    none = Distillation(WIDTH, EMBEDDING)(states, GRID, features, IMAGES, SIZES, {})
    assert (none.total, none.states, none.masks) == (0, None, None)


class Task(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.core = nn.Linear(2, 3)
        encoder = tiny_sam_encoder()
        self.distillation = Distillation(WIDTH, EMBEDDING, lambda: FrozenEncoder(encoder, "sam_encoder"))
        self.after = nn.Linear(2, 3)


def test_checkpoints_hold_adapters_but_no_teachers() -> None:
    task = Task()
    saved = task.state_dict()
    adapter = {f"distillation.states.adapter.{name}" for name in ("weight", "bias")}
    assert set(saved) == {"core.weight", "core.bias", "after.weight", "after.bias", *adapter}
    other = Task()
    teacher = encoder_fingerprint(other.distillation.states.teacher.encoder)
    check_fit(other, saved, "the checkpoint")
    other.load_state_dict(saved)  # strict
    assert all(torch.equal(value, saved[name]) for name, value in other.state_dict().items())
    assert encoder_fingerprint(other.distillation.states.teacher.encoder) == teacher
    with pytest.raises(RuntimeError, match="Missing"):
        other.load_state_dict({name: value for name, value in saved.items() if name != "after.bias"})
    with pytest.raises(RuntimeError, match="Unexpected"):
        other.load_state_dict(saved | {"elsewhere": torch.zeros(1)})
