"""Referring expressions as the published loader hands them to the model, against ours from record to batch."""

import io
import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from pycocotools import mask as coco_mask
from torch import Tensor
from torch.nn import functional as F

from datamodules.base import ImageSamples
from datamodules.referring import ReferringQuestions
from datamodules.samples import Sample, collate
from datamodules.tokenizer import Span, Tokenizer
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
NOT_COMPARED = (
    "not compared: vg_*, phrases of regions",
    "not compared: ref_t5, cutting text into SentencePiece pieces, done by the tokenizers library",
    "differs on purpose: a query that is too long keeps its </s>, which its box is read from; published: cut off",
    "differs on purpose: a grey image has three equal channels; published: one and two empty ones",
    "differs on purpose: queries of boxes that a crop cuts away go with their contexts; published: contexts stay",
)


def check_pipelines(report: Report, path: Path) -> None:
    golden = read_golden(path)
    texts = json.loads(path.with_name("pipelines_text.json").read_text())["ref_expressions"]
    _check_referring(report, golden, "ref_bert", texts, bert_tokenizer(golden.config["bert_vocab"]))
    pieces = _PublishedPieces(golden, "ref_t5", [text for own in texts for text in own])
    _check_referring(report, golden, "ref_t5", texts, pieces)
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


def _check_referring(report: Report, golden: Golden, case: str, texts: list[list[str]], tokenizer: Tokenizer) -> None:
    questions = _questions(tokenizer, training=False)
    record = _record(golden, case, texts)
    batch = collate([ImageSamples(questions, CANVAS)(record, np.random.default_rng(0))], CANVAS, tokenizer.pad_id)
    want = golden.output(case, "inputs")
    report.check(golden.name, f"{case}/inputs", batch.images[0].permute(1, 2, 0), want, LEVEL / want.max())
    mask = real_part(batch.sizes, batch.images.shape[-2:])[0]
    report.check(golden.name, f"{case}/padding_mask", mask, golden.output(case, "padding_mask"), 0.0)
    expressions = int(golden.output(case, "label/labels").sum())  # the published rows behind them are empty
    for output, got in _labels(batch).items():
        want = golden.output(case, f"label/{output}")
        if len(want) == EXPRESSIONS:
            want = want[:expressions]
        if output == "text_tokens":
            want = np.where([*[False] * (TOKENS - 1), True] & (want != tokenizer.pad_id), tokenizer.eos_id, want)
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
        "size": batch.sizes[0],
        "orig_size": batch.original_sizes[0],
        "padded_size": batch.images.shape[-2:],
    }


def _check_training_views(report: Report, golden: Golden, transforms: Golden) -> None:
    """Which objects are asked about in a resized, cropped or flipped image, with their boxes and masks."""
    tokenizer = bert_tokenizer(golden.config["bert_vocab"])
    ask = _questions(tokenizer, training=True)
    first = next(iter(transforms.outputs))
    boxes, masks = (transforms.inputs(first, name).numpy() for name in ("boxes", "masks"))
    content = _content(boxes.tolist(), masks[..., 0], [["the man"]] * len(boxes), range(len(boxes)))
    for case, view in transformed_views(transforms):
        questions = ask({"__key__": case, "json": json.dumps(content)}, view, np.random.default_rng(0))
        batch = collate([Sample(case, view, sorted(questions, key=lambda q: q.reference.key))], 100, tokenizer.pad_id)
        labels = _labels(batch)
        height, width = view.pixels.shape[-2:]
        want = transforms.output(case, "boxes")
        report.check(golden.name, f"training, {case}/boxes", labels["boxes"], want, TOLERANCE)
        got = labels["masks"][:, :height, :width]
        report.check(golden.name, f"training, {case}/masks", got, transforms.output(case, "masks"), 0.0)


def _filled(tokens: Tensor, length: int) -> Tensor:
    return F.pad(tokens, (0, length - tokens.shape[1]))


def _record(golden: Golden, case: str, texts: list[list[str]]) -> dict[str, Any]:
    """The published record, two objects with their expressions, as a sample of a shard."""
    image, masks = golden.inputs(case, "image").numpy(), golden.inputs(case, "masks").numpy()[..., 0]
    height, width = image.shape[:2]
    pixels = golden.inputs(case, "bbox_yxyx").double().numpy()[:, [1, 0, 3, 2]] * [width, height, width, height]
    names = golden.output(case, "label/refexp_ids").tolist()
    file = io.BytesIO()
    Image.fromarray(image).save(file, "PNG")
    content = _content(pixels.tolist(), masks, texts, names)
    return {"__key__": case, "__url__": "a.tar", "jpg": file.getvalue(), "json": json.dumps(content)}


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

    def __init__(self, golden: Golden, case: str, texts: list[str]) -> None:
        self.pad_id = self.bos_id = 0
        self.eos_id = 1
        rows = zip(texts, *(golden.output(case, f"label/{name}_tokens") for name in ("text", "context")), strict=False)
        self.pieces = {}
        for text, query, context in rows:
            self.pieces[text], self.pieces[CONTEXT_PROMPT + text] = query[query > 1], context[context > 1]

    def encode(self, text: str) -> tuple[list[int], list[Span]]:
        return self.pieces[text].tolist(), []
