"""The prompt encoder against segment-anything, the published padding, and precision under autocast."""

import pytest
import torch
from segment_anything.modeling import PromptEncoder as TheirPromptEncoder

from pixel_llm.core.prompt_encoder import PromptEncoder
from pixel_llm.structures import ImageFeatures, Prompts

CANVAS, GRID = (96, 120), (6, 7)


@pytest.fixture
def encoders():
    torch.manual_seed(0)
    theirs = TheirPromptEncoder(32, image_embedding_size=GRID, input_image_size=CANVAS, mask_in_chans=16)
    ours = PromptEncoder(width=32)
    state = {k: v for k, v in theirs.state_dict().items() if not k.startswith("mask_downscaling")}
    ours.load_state_dict(state)
    return ours, theirs


def test_boxes_and_grid(encoders):
    ours, theirs = encoders
    boxes = torch.rand(5, 4) * 90
    sparse, dense = theirs(points=None, boxes=boxes, masks=None)
    torch.testing.assert_close(ours.embed_boxes(boxes, CANVAS), sparse)
    torch.testing.assert_close(ours.no_mask[0], dense[0, :, 3, 4])
    torch.testing.assert_close(ours.dense_pe(GRID)[None], theirs.get_dense_pe(), atol=1e-5, rtol=0)


def test_points_of_every_label(encoders):
    ours, theirs = encoders
    points, labels = torch.rand(3, 4, 2) * 90, torch.tensor([[1, 0, -1, 1]] * 3)
    wanted, _ = theirs(points=(points, labels), boxes=None, masks=None)  # ends with a padding point
    points = torch.cat([points, torch.zeros(3, 1, 2)], dim=1)
    labels = torch.cat([labels, torch.full((3, 1), -1)], dim=1)
    torch.testing.assert_close(ours.embed_points(points, labels, CANVAS), wanted)


def test_published_padding_follows_the_corners(encoders):
    ours, _ = encoders
    boxes = torch.rand(2, 4) * 90
    corners = ours.embed_boxes(boxes, CANVAS)
    ours.padding_tokens = 3
    padded = ours.embed_boxes(boxes, CANVAS)
    assert torch.equal(padded[:, :2], corners)
    assert torch.equal(padded[:, 2:], ours.no_mask.expand(2, 3, -1))


def test_projection_is_saved_but_never_trained(encoders):
    ours, _ = encoders
    name = "pe_layer.positional_encoding_gaussian_matrix"
    assert name in ours.state_dict()
    assert name not in dict(ours.named_parameters())


def test_phases_keep_their_precision_under_autocast(encoders):
    ours, _ = encoders
    boxes = torch.rand(5, 4) * 90
    wanted = ours.embed_boxes(boxes, CANVAS)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        got = ours.embed_boxes(boxes, CANVAS)
    torch.testing.assert_close(got, wanted)


def test_prompts_by_clicks_end_with_a_point_that_is_none():
    encoder = PromptEncoder(width=16)
    features = ImageFeatures(torch.zeros(1, 1, 1, 1), torch.zeros(1, 1, 1, 1), torch.tensor([[32, 64]]), (64, 64))
    points = torch.tensor([[[0.5, 0.25], [0.1, 1.0]]])
    labels = torch.tensor([[1, 0]])
    prompts = Prompts(torch.tensor([0]), torch.zeros(1, 4), points=points, point_labels=labels)
    pixels = torch.tensor([[[32.0, 8.0], [6.4, 32.0], [0.0, 0.0]]])
    wanted = encoder.embed_points(pixels, torch.tensor([[1, 0, -1]]), (64, 64))
    torch.testing.assert_close(encoder.embed(prompts, features), wanted)
