"""Small models and shards that several tests share."""

from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from datamodules.localized_narratives import LocalizedNarrativesDataModule
from datamodules.prepare import coco_instances, localized_narratives
from datamodules.prepare.corpus import Corpus, Description, ImageWork
from datamodules.prepare.referring import split_corpus
from datamodules.prepare.referring_corpora import read_referring
from datamodules.prepare.report import Report
from datamodules.prepare.shards import write_shards
from datamodules.prepare.toy_world.write import write_toy_world
from datamodules.records import read_captions, read_field
from datamodules.referring import ReferringDataModule
from datamodules.regions import RegionsDataModule
from datamodules.shard_index import open_shards
from datamodules.tokenizer import train_tokenizer
from pixel_llm.core.build import pixel_llm
from pixel_llm.core.conv_encoder import ConvEncoder
from pixel_llm.core.git_decoder import GitDecoder
from pixel_llm.core.language_model import LanguageModel
from pixel_llm.core.pixel_llm import LocationStep, PixelLLM
from pixel_llm.core.sam_image_encoder import SamImageEncoder
from pixel_llm.core.t5 import T5
from pixel_llm.structures import Prompts

VOCABULARY = 256


def tiny_sam_encoder() -> SamImageEncoder:
    return SamImageEncoder(
        width=16, depth=2, heads=2, global_blocks=[1], image_size=64, patch=16, window=2, output_channels=16
    )


def tiny_t5(trainable: str = "all") -> T5:
    return T5(
        width=16, layers=2, heads=2, head_width=8, feed_forward=24, vocabulary_size=VOCABULARY, visual_width=12,
        dropout=0.0, trainable=trainable, lora_rank=2, lora_alpha=4.0,  # type: ignore[arg-type]
    )  # fmt: skip


def tiny_git() -> GitDecoder:
    git = GitDecoder(
        visual_width=12, width=16, layers=2, heads=2, feed_forward=24, vocabulary_size=VOCABULARY, positions=128,
        dropout=0.0, bos_id=2, eos_id=1,
    )  # fmt: skip
    with torch.no_grad():
        git.output.bias[git.eos_id] = -1.0  # its near-uniform logits would end captions at once under beams
    return git


def tiny_core(
    language_model: LanguageModel | None = None, location_step: LocationStep = "predicting", **changes: Any
) -> PixelLLM:
    """A PixelLLM with random weights that no layer leaves at zero."""
    torch.manual_seed(0)
    return pixel_llm(
        tiny_sam_encoder(),
        ConvEncoder(width=16, stride=8, blocks=1, heads=2),
        language_model or tiny_t5(),
        extractor_width=16,
        extractor_heads=2,
        extractor_mlp=32,
        query_tokens=4,
        location_hidden=16,
        location_depth=2,
        location_step=location_step,
        mask_decoder_depth=1,
        mask_decoder_heads=2,
        **changes,
    )


def random_inputs(images: int = 2, prompts_per_image: int = 2) -> tuple[torch.Tensor, torch.Tensor, Prompts]:
    """uint8 canvases of 64 pixels with real parts of several shapes, and boxes with a short text each."""
    generator = torch.Generator().manual_seed(1)
    canvases = torch.randint(0, 256, (images, 3, 64, 64), generator=generator, dtype=torch.uint8)
    sizes = torch.tensor([[64, 48], [40, 64], [64, 64]])[torch.arange(images) % 3]
    index = torch.arange(images).repeat_interleave(prompts_per_image)
    corners = torch.rand(len(index), 2, 2, generator=generator).sort(dim=1).values
    context = torch.randint(3, VOCABULARY, (len(index), 3), generator=generator)
    context[0, 2] = 0
    return canvases, sizes, Prompts(index, corners.flatten(1), context)


def toy_shards(folder: Path, train: int = 24, test: int = 6) -> Path:
    """A toy world of a few images: raw/, shards narratives_*/, instances_*/ and toy_unc_*/, tokenizer/."""
    sizes = {"train": train, "val": test, "test": test, "test_unseen_pairs": test}
    write_toy_world(folder / "raw", sizes, seed=0, workers=1, progress=lambda items, *_: items)
    for split in ("train", "val", "test"):
        annotations = folder / "raw" / "annotations"
        for name, converter, file in (
            ("narratives", localized_narratives, f"toy_{split}_localized_narratives.jsonl"),
            ("instances", coco_instances, f"instances_{split}.json"),
        ):
            corpus = converter.open_corpus([annotations / file])
            write_shards(corpus, folder / "raw/images", folder / f"{name}_{split}", workers=1, shard_size=10)
    for referring in read_referring([folder / "raw/annotations/toy"]):
        corpus = split_corpus(referring, folder / "raw/images")
        write_shards(corpus, folder / "raw/images", folder / referring.name, workers=1, shard_size=10)
    captions = [c for data in read_field(open_shards(folder / "narratives_train"), "json") for c in read_captions(data)]
    (folder / "tokenizer").mkdir()
    (folder / "tokenizer/tokenizer.json").write_text(train_tokenizer(captions, VOCABULARY).to_json())
    return folder


def toy_narratives(shards: Path, **changes: object) -> LocalizedNarrativesDataModule:
    settings: dict = {
        "train_shards": [str(shards / "narratives_train")],
        "val_shards": [str(shards / "narratives_val")],
        "test_shards": [str(shards / "narratives_test")],
        "tokenizer": str(shards / "tokenizer"),
        "sentences": False,
        "image_size": 64,
        "batch_size": 4,
        "num_workers": 0,
    }
    return LocalizedNarrativesDataModule(**(settings | changes))


def toy_referring(shards: Path, **changes: object) -> ReferringDataModule:
    settings: dict = {
        "train_shards": [str(shards / "toy_unc_train")],
        "val_shards": [str(shards / "toy_unc_val")],
        "test_shards": [str(shards / "toy_unc_test")],
        "tokenizer": str(shards / "tokenizer"),
        "max_tokens": 24,
        "image_size": 64,
        "batch_size": 4,
        "num_workers": 0,
    }
    return ReferringDataModule(**(settings | changes))


def toy_regions(shards: Path, **changes: object) -> RegionsDataModule:
    """The toy world's referring expressions as sentences of regions."""
    settings: dict = {
        "train_shards": [str(shards / "toy_unc_train")],
        "val_shards": [str(shards / "toy_unc_val")],
        "test_shards": [str(shards / "toy_unc_test")],
        "tokenizer": str(shards / "tokenizer"),
        "regions_per_image": 4,
        "max_tokens": 24,
        "image_size": 64,
        "batch_size": 4,
        "num_workers": 0,
    }
    return RegionsDataModule(**(settings | changes))


def write_regions(
    out: Path, images: dict[str, list[dict[str, Any]]], dataset_id: str = "tiny_val", width: int = 60, height: int = 40
) -> Path:
    """A folder of shards of kind `regions`: a grey picture for each image id, with its regions {id, bbox, phrase}."""
    pictures = out.with_name(out.name + "_pictures")
    pictures.mkdir(parents=True)
    for image_id in images:
        Image.new("RGB", (width, height), (90, 90, 90)).save(pictures / f"{image_id}.jpg")
    work = [ImageWork(dataset_id, image_id, regions) for image_id, regions in images.items()]
    write_shards(Corpus("regions", [], work, _describe_regions, Report()), pictures, out)
    return out


def _describe_regions(work: ImageWork, report: Report) -> Description:
    return Description({"regions": work.records}, [f"{work.image_id}.jpg"], len(work.records))


def random_trace(rng: np.random.Generator, points: int) -> np.ndarray:
    """float[points, 3]: x, y in [0, 1] and increasing t."""
    return np.column_stack([rng.random((points, 2)), np.cumsum(rng.random(points) + 0.01)])
