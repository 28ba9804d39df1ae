"""Mixtures: weights hold, batches come from one source where asked, and a run goes on where it stopped."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from datamodules.image_captions import ImageCaptionDataModule
from datamodules.mixture import MixtureDataModule
from datamodules.prepare import localized_narratives
from datamodules.prepare.shards import write_shards
from tests.tiny import toy_narratives


@pytest.fixture(scope="module")
def captions(toy: Path, tmp_path_factory: pytest.TempPathFactory) -> ImageCaptionDataModule:
    """The six validation images as a small second source."""
    out = tmp_path_factory.mktemp("mixture") / "captions"
    annotations = toy / "raw/annotations/toy_val_localized_narratives.jsonl"
    write_shards(localized_narratives.open_corpus([annotations]), toy / "raw/images", out, shard_size=4)
    folders = {f"{split}_shards": [str(out)] for split in ("train", "val", "test")}
    return ImageCaptionDataModule(**folders, tokenizer=str(toy / "tokenizer"), image_size=64)


def mixture(toy: Path, captions: ImageCaptionDataModule, **changes: Any) -> MixtureDataModule:
    settings = {"weights": [3.0, 1.0], "batch_size": 4, "num_workers": 0, "samples_per_epoch": 400} | changes
    return MixtureDataModule([toy_narratives(toy), captions], **settings)


@pytest.mark.parametrize("single", [True, False])
def test_weights_hold(toy: Path, captions: ImageCaptionDataModule, single: bool) -> None:
    batches = list(mixture(toy, captions, single_source_batches=single).train_dataloader())
    sources = [batch.sources for batch in batches]
    assert sum(map(len, sources)) == 400
    share = sum(source == "localized_narratives" for batch in sources for source in batch) / 400
    assert share == pytest.approx(0.75, abs=0.12 if single else 0.06)
    assert all(len(set(batch)) == 1 for batch in sources) == single
    for batch in batches:
        assert batch.targets is not None
        located = batch.targets.located.any(1).tolist()
        names = [batch.sources[i] for i in batch.prompts.image_index.tolist()]
        assert located == [name == "localized_narratives" for name in names]


def test_without_another_length_an_epoch_is_all_images(toy: Path, captions: ImageCaptionDataModule) -> None:
    loader = mixture(toy, captions, samples_per_epoch=None).train_dataloader()
    assert len(loader) == (24 + 6) // 4


def test_a_global_batch_over_two_ranks_has_one_source(toy: Path, captions: ImageCaptionDataModule) -> None:
    modules = [mixture(toy, captions, samples_per_epoch=80) for _ in range(2)]
    for rank, module in enumerate(modules):
        module.trainer = SimpleNamespace(global_rank=rank, world_size=2)  # type: ignore[assignment]
    pairs = list(zip(*(module.train_dataloader() for module in modules), strict=True))
    assert len(pairs) == 10
    assert all(len({*a.sources, *b.sources}) == 1 for a, b in pairs)
    assert all(not {*a.positions} & {*b.positions} for a, b in pairs)


def test_goes_on_where_it_stopped(toy: Path, captions: ImageCaptionDataModule) -> None:
    def content(batches: Any) -> list[Any]:
        return [(b.sources, b.keys, b.targets.tokens.tolist(), b.images.sum().item()) for b in batches]

    options = {"samples_per_epoch": 48, "single_source_batches": False}
    straight = mixture(toy, captions, **options).train_dataloader()
    whole = content([*straight, *straight])
    stopped = mixture(toy, captions, **options).train_dataloader()
    iterator = iter(stopped)
    seen = content([next(iterator) for _ in range(5)])
    resumed = mixture(toy, captions, num_workers=1, **options).train_dataloader()
    resumed.load_state_dict(stopped.state_dict())
    assert seen + content([*resumed, *resumed]) == whole


def test_evaluation_runs_on_the_first_source(toy: Path, captions: ImageCaptionDataModule) -> None:
    module = mixture(toy, captions)
    for loader in (module.val_dataloader(), module.test_dataloader(), module.predict_dataloader()):
        batches = list(loader)
        assert {source for batch in batches for source in batch.sources} == {"localized_narratives"}
        assert sum(r is not None for batch in batches for r in batch.references) == 6


def test_sources_that_do_not_fit_each_other_are_refused(toy: Path, captions: ImageCaptionDataModule) -> None:
    with pytest.raises(ValueError, match="localized_narratives and image_captions differ in tokenizer or image_size"):
        MixtureDataModule([toy_narratives(toy, image_size=32), captions], [1, 1])
    with pytest.raises(ValueError, match="one positive number for each of 2 sources"):
        mixture(toy, captions, weights=[1.0]).train_dataloader()


def test_the_state_is_the_tokenizer_that_all_share(toy: Path, captions: ImageCaptionDataModule) -> None:
    module = mixture(toy, captions)
    state = module.state_dict()
    module.load_state_dict(state)
    with pytest.raises(ValueError, match="another tokenizer"):
        module.load_state_dict({"tokenizer": "{}"})
