"""Referring expressions and regions as the published loader hands them to the model, ours from record to batch."""

import io
import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from pycocotools import mask as coco_mask
from torch import Tensor
from torch.nn import functional as F

from datamodules.base import ImageSamples, MakeQuestions
from datamodules.referring import ReferringQuestions
from datamodules.regions import RegionQuestions
from datamodules.samples import Sample, collate
from datamodules.tokenizer import Span, Tokenizer
from datamodules.views import View
from pixel_llm.coordinates import boxes_01_to_canvas_px, points_01_to_canvas_px
from pixel_llm.structures import Batch
from pixel_llm.tasks.masks import real_part
from pixel_llm.tasks.referring_localization import true_corners
from tests.parity.data import bert_tokenizer, transformed_views
from tests.parity.golden import Golden, read_golden
from tests.parity.report import Report

TOLERANCE = 2e-5
LEVEL = 1.0  # our canvas holds bytes, resized by weights of fixed point; the published one holds float32
CANVAS, EXPRESSIONS, TOKENS, CONTEXT_TOKENS, CONTEXT_PROMPT = 64, 6, 12, 8, "where is "
REGIONS, REGION_TOKENS, REGION_CONTEXT_TOKENS, REGION_PROMPT = 5, 10, 6, "an object of "
NOT_COMPARED = (
    "not compared: *_t5, cutting text into SentencePiece pieces, done by the tokenizers library",
    "not compared: conversations, of which there are no golden numbers",
    "differs on purpose: a query that is too long keeps its </s>, which its box is read from; published: cut off",
    "differs on purpose: a region's sentence that is too long keeps its </s>; published: cut off",
    "differs on purpose: a grey image has three equal channels; published: one and two empty ones",
    "differs on purpose: queries of boxes that a crop cuts away go with their contexts; published: contexts stay",
)


def check_pipelines(report: Report, path: Path) -> None:
    golden = read_golden(path)
    texts = json.loads(path.with_name("pipelines_text.json").read_text())
    expressions, phrases = texts["ref_expressions"], texts["vg_phrases"]
    bert = bert_tokenizer(golden.config["bert_vocab"])
    _check_referring(report, golden, "ref_bert", expressions, bert)
    pieces = _PublishedPieces(golden, "ref_t5", {t: CONTEXT_PROMPT + t for own in expressions for t in own})
    _check_referring(report, golden, "ref_t5", expressions, pieces)
    _check_regions(report, golden, "vg_bert", phrases, bert)
    pieces = _PublishedPieces(golden, "vg_t5", dict.fromkeys(phrases, REGION_PROMPT))
    _check_regions(report, golden, "vg_t5", phrases, pieces)
    _check_training_views(report, golden, read_golden(path.with_name("transforms.npz")))
    for reason in NOT_COMPARED:
        report.skip(golden.name, reason)


def _questions(tokenizer: Tokenizer, training: bool) -> ReferringQuestions:
    return ReferringQuestions(
        tokenizer,
        max_tokens=TOKENS,
        context_prompt=CONTEXT_PROMPT,
        max_context_tokens=CONTEXT_TOKENS,
        expressions=EXPRESSIONS,
        masks=True,
        location_text=None,
        training=training,
    )


def _region_questions(tokenizer: Tokenizer, training: bool) -> RegionQuestions:
    return RegionQuestions(
        tokenizer,
        max_tokens=REGION_TOKENS,
        context_prompt=REGION_PROMPT,
        max_context_tokens=REGION_CONTEXT_TOKENS,
        regions=REGIONS,
        clicks=0,
        training=training,
    )


def _check_referring(report: Report, golden: Golden, case: str, texts: list[list[str]], tokenizer: Tokenizer) -> None:
    record = _record(golden, case, _referring_content(golden, case, texts))
    batch = _batch(_questions(tokenizer, training=False), record, tokenizer)
    _check_canvas(report, golden, case, batch)
    _check_labels(report, golden, case, _labels(batch), EXPRESSIONS, tokenizer)


def _check_regions(report: Report, golden: Golden, case: str, phrases: list[str], tokenizer: Tokenizer) -> None:
    record = _record(golden, case, _regions_content(_boxes(golden, case), phrases, _size(golden, case)))
    batch = _batch(_region_questions(tokenizer, training=False), record, tokenizer)
    _check_canvas(report, golden, case, batch)
    _check_labels(report, golden, case, _region_labels(batch), REGIONS, tokenizer)


def _batch(questions: MakeQuestions, record: dict[str, Any], tokenizer: Tokenizer) -> Batch:
    return collate([ImageSamples(questions, CANVAS)(record, np.random.default_rng(0))], CANVAS, tokenizer.pad_id)


def _check_canvas(report: Report, golden: Golden, case: str, batch: Batch) -> None:
    want = golden.output(case, "inputs")
    report.check(golden.name, f"{case}/inputs", batch.images[0].permute(1, 2, 0), want, LEVEL / want.max())
    mask = real_part(batch.sizes, batch.images.shape[-2:])[0]
    report.check(golden.name, f"{case}/padding_mask", mask, golden.output(case, "padding_mask"), 0.0)


def _check_labels(
    report: Report, golden: Golden, case: str, labels: dict[str, Any], rows: int, tokenizer: Tokenizer
) -> None:
    """rows: of the published labels; those behind the last thing that is asked are empty."""
    asked = int(golden.output(case, "label/labels").sum())
    for output, got in labels.items():
        want = golden.output(case, f"label/{output}")
        if len(want) == rows:
            want = want[:asked]
        if output == "text_tokens":
            last = np.arange(want.shape[1]) == want.shape[1] - 1
            want = np.where(last & (want != tokenizer.pad_id), tokenizer.eos_id, want)
        if output == "masks":
            want = want > 0  # 255 in this record
        report.check(golden.name, f"{case}/{output}", got, want, TOLERANCE if "boxes" in output else 0.0)


def _labels(batch: Batch) -> dict[str, Any]:
    """A batch of one image in the layout of the published labels, without the empty rows."""
    assert batch.targets is not None
    assert batch.prompts.context is not None
    assert batch.masks is not None
    sizes = batch.sizes[batch.prompts.image_index]
    corners, _ = true_corners(batch.targets)
    return {
        "refexp_ids": [int(reference.key.split("/")[1]) for reference in batch.references if reference],
        "text_tokens": _filled(batch.targets.tokens, TOKENS),
        "context_tokens": _filled(batch.prompts.context, CONTEXT_TOKENS),
        "boxes": points_01_to_canvas_px(corners, sizes).flatten(1),
        "prompt_boxes": boxes_01_to_canvas_px(batch.prompts.boxes, sizes),
        "masks": batch.masks[..., None],
    } | _sizes(batch)


def _region_labels(batch: Batch) -> dict[str, Any]:
    """The same of regions; their boxes, which the published labels hold once, are our prompts."""
    assert batch.targets is not None
    assert batch.prompts.context is not None
    return {
        "text_tokens": _filled(batch.targets.tokens, REGION_TOKENS),
        "context_tokens": _filled(batch.prompts.context, REGION_CONTEXT_TOKENS),
        "boxes": boxes_01_to_canvas_px(batch.prompts.boxes, batch.sizes[batch.prompts.image_index]),
    } | _sizes(batch)


def _sizes(batch: Batch) -> dict[str, Any]:
    return {
        "size": batch.sizes[0],
        "orig_size": batch.original_sizes[0],
        "padded_size": batch.images.shape[-2:],
    }


def _check_training_views(report: Report, golden: Golden, transforms: Golden) -> None:
    """Which objects are asked about in a resized, cropped or flipped image, with their boxes and masks."""
    tokenizer = bert_tokenizer(golden.config["bert_vocab"])
    first = next(iter(transforms.outputs))
    boxes, masks = (transforms.inputs(first, name).numpy() for name in ("boxes", "masks"))
    objects = _content(boxes.tolist(), masks[..., 0], [["the man"]] * len(boxes), range(len(boxes)))
    regions = _regions_content(boxes.tolist(), ["the man"] * len(boxes), masks.shape[1:3])
    for case, view in transformed_views(transforms):
        height, width = view.pixels.shape[-2:]
        want = transforms.output(case, "boxes")
        labels = _labels(_viewed(_questions(tokenizer, training=True), objects, view))
        report.check(golden.name, f"training, {case}/boxes", labels["boxes"], want, TOLERANCE)
        got = labels["masks"][:, :height, :width]
        report.check(golden.name, f"training, {case}/masks", got, transforms.output(case, "masks"), 0.0)
        labels = _region_labels(_viewed(_region_questions(tokenizer, training=True), regions, view))
        report.check(golden.name, f"training, {case}/regions", labels["boxes"], want, TOLERANCE)


def _viewed(questions: MakeQuestions, content: dict[str, Any], view: View) -> Batch:
    """What training asks about a view, in the order of the file."""
    asked = questions({"__key__": "k", "json": json.dumps(content)}, view, np.random.default_rng(0))
    return collate([Sample("k", view, sorted(asked, key=lambda question: question.reference.key))], 100, 0)


def _filled(tokens: Tensor, length: int) -> Tensor:
    return F.pad(tokens, (0, length - tokens.shape[1]))


def _record(golden: Golden, case: str, content: dict[str, Any]) -> dict[str, Any]:
    """The published record as a sample of a shard."""
    file = io.BytesIO()
    Image.fromarray(golden.inputs(case, "image").numpy()).save(file, "PNG")
    return {"__key__": case, "__url__": "a.tar", "jpg": file.getvalue(), "json": json.dumps(content)}


def _size(golden: Golden, case: str) -> tuple[int, int]:
    height, width = golden.inputs(case, "image").shape[:2]
    return height, width


def _boxes(golden: Golden, case: str) -> list[list[float]]:
    """The boxes of the published record, x0 y0 x1 y1 in pixels."""
    height, width = _size(golden, case)
    boxes = golden.inputs(case, "bbox_yxyx").double().numpy()[:, [1, 0, 3, 2]] * [width, height, width, height]
    return list(boxes.tolist())


def _referring_content(golden: Golden, case: str, texts: list[list[str]]) -> dict[str, Any]:
    """The published record, two objects with their expressions."""
    names = golden.output(case, "label/refexp_ids").tolist()
    return _content(_boxes(golden, case), golden.inputs(case, "masks").numpy()[..., 0], texts, names)


def _regions_content(boxes: list[list[float]], phrases: list[str], size: Sequence[int]) -> dict[str, Any]:
    """The JSON part of a sample of regions: x0 y0 x1 y1 in pixels of an image of (height, width), and a phrase each."""
    regions = [
        {"id": str(number), "bbox": box, "phrase": phrase}
        for number, (box, phrase) in enumerate(zip(boxes, phrases, strict=True))
    ]
    return {"dataset_id": "made_up", "image_id": "1", "height": size[0], "width": size[1], "regions": regions}


def _content(boxes: Any, masks: Any, texts: list[list[str]], names: Iterable[int]) -> dict[str, Any]:
    """The JSON part of a sample.

    boxes: x0 y0 x1 y1 in pixels of the image.  masks: number[N, H, W].  texts: of each object the expressions.
    names: of the expressions, in order.
    """
    objects = []
    for number, (box, mask) in enumerate(zip(boxes, masks, strict=True)):
        rle = coco_mask.encode(np.asfortranarray(mask > 0).view(np.uint8))
        objects.append({"id": str(number), "bbox": box, "rle": rle | {"counts": rle["counts"].decode()}})
    said = [(text, number) for number, own in enumerate(texts) for text in own]
    expressions = [
        {"id": str(name), "text": text, "targets": [number], "kind": ""}
        for name, (text, number) in zip(names, said, strict=False)
    ]
    height, width = masks.shape[1:]
    sizes = {"width": width, "height": height}
    return {"dataset_id": "made_up", **sizes, "objects": objects, "expressions": expressions}


class _PublishedPieces(Tokenizer):
    """T5's sequences around pieces that are read off the published rows, since the file has no piece scores."""

    def __init__(self, golden: Golden, case: str, texts: dict[str, str]) -> None:
        """texts: what is said in each row, and the text of its prompt."""
        self.pad_id = self.bos_id = 0
        self.eos_id = 1
        said, asked = (golden.output(case, f"label/{name}_tokens") for name in ("text", "context"))
        self.pieces = {}
        for (text, prompt), query, context in zip(texts.items(), said, asked, strict=False):
            self.pieces[text], self.pieces[prompt] = query[query > 1], context[context > 1]

    def encode(self, text: str) -> tuple[list[int], list[Span]]:
        return self.pieces[text].tolist(), []
