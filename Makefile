# `make help` lists what there is. Every stage leaves a file behind and is not repeated: an interrupted `make` goes on.

PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
GOLDEN ?=
SPLITS := train val test test_unseen_pairs
export PATH := $(abspath $(BIN)):$(PATH)

.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
.PHONY: help setup demo pixel-sail perbench test test-fast lint parity parity-metrics results ablations pixel-sail-results torture cluster-rehearsal benchmarks clean

help:  ## this list
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/:[^#]*## /\t/' | awk -F '\t' '{printf "  make %-15s %s\n", $$1, $$2}'

INSTALLED := $(VENV)/.installed
setup: $(INSTALLED)  ## make the virtual environment .venv and install everything (several GB, minutes)
$(INSTALLED): pyproject.toml requirements.txt
	@echo "== installing into $(VENV): torch and friends, several GB"
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[dev]'
	@touch $@

# --- the toy world: raw files -> shards -> tokenizer ---------------------------------------------------------------
toy/raw/.done: $(INSTALLED)
	pixel-llm prepare toy --out toy/raw
	@touch $@

toy/shards/.done: toy/raw/.done
	for split in $(SPLITS); do \
	  pixel-llm prepare localized-narratives --annotations toy/raw/annotations/toy_$${split}_localized_narratives.jsonl \
	    --images toy/raw/images --out toy/shards/narratives_$$split && \
	  pixel-llm prepare coco-instances --annotations toy/raw/annotations/instances_$$split.json \
	    --images toy/raw/images --out toy/shards/instances_$$split || exit 1; \
	done
	pixel-llm prepare refcoco --annotations toy/raw/annotations/toy --images toy/raw/images --out toy/shards
	pixel-llm prepare visual-genome --regions 'toy/raw/annotations/toy_*_region_descriptions.json' \
	  --image-data 'toy/raw/annotations/toy_*_image_data.json' --images toy/raw/images --out toy/shards/regions
	@touch $@

toy/tokenizer/tokenizer.json: toy/shards/.done
	pixel-llm prepare tokenizer toy/shards/narratives_train --vocabulary-size 256 --out toy/tokenizer

# --- training: what released weights are to the large model, then trace captioning, referring, dense captioning ------
runs/toy/pretrain_sam/.done runs/toy/pretrain_language_model/.done: runs/toy/pretrain_%/.done: toy/tokenizer/tokenizer.json
	lightning fit --config configs/pretrain/toy_$*.yaml --ckpt_path last
	@touch $@

runs/toy/pretrain_attributes/.done: runs/toy/pretrain_sam/.done
	lightning fit --config configs/pretrain/toy_attributes.yaml --ckpt_path last
	@touch $@

runs/toy/trace/.done: runs/toy/pretrain_attributes/.done runs/toy/pretrain_language_model/.done
	lightning fit --config configs/trace/toy.yaml --ckpt_path last
	@touch $@

runs/toy/referring/.done: runs/toy/trace/.done
	lightning fit --config configs/referring/toy.yaml --ckpt_path last
	@touch $@

runs/toy/referring_segmentation/.done: runs/toy/referring/.done
	lightning fit --config configs/referring/toy_segmentation.yaml --ckpt_path last
	@touch $@

runs/toy/dense_captioning/.done: runs/toy/pretrain_attributes/.done runs/toy/pretrain_language_model/.done
	lightning fit --config configs/dense_captioning/toy.yaml --ckpt_path last
	@touch $@

toy/dialogue_tokenizer/tokenizer.json: toy/shards/.done
	pixel-llm prepare tokenizer toy/shards/narratives_train toy/shards/toy_unc_train --dialogues --vocabulary-size 384 \
	  --out toy/dialogue_tokenizer

runs/toy/pixel_sail/.done: toy/dialogue_tokenizer/tokenizer.json runs/toy/pretrain_attributes/.done
	lightning fit --config configs/pixel_sail/toy.yaml --ckpt_path last
	@touch $@

pixel-sail: runs/toy/pixel_sail/.done  ## the single transformer on the toy world: training and evaluation (25 minutes on two cores)
	lightning test --config configs/pixel_sail/toy.yaml --ckpt_path last

toy/perbench/.done: toy/raw/.done
	for split in $(SPLITS); do \
	  pixel-llm prepare perbench --annotations toy/raw/annotations/toy_perbench_$$split --images toy/raw/images \
	    --out toy/perbench/$$split || exit 1; \
	done
	@touch $@

perbench: toy/perbench/.done runs/toy/pixel_sail/.done  ## the single transformer on questions about regions in PerBench's three tasks, of which it has learned none
	lightning test --config configs/pixel_sail/perbench.yaml --ckpt_path runs/toy/pixel_sail/checkpoints/last.ckpt

demo: runs/toy/referring_segmentation/.done runs/toy/dense_captioning/.done  ## toy world -> shards -> training -> evaluation -> pictures (about 20 minutes after installation)
	lightning test --config configs/trace/toy.yaml --ckpt_path last
	lightning test --config configs/referring/toy_segmentation.yaml --ckpt_path last
	lightning test --config configs/dense_captioning/toy.yaml --ckpt_path last
	pixel-llm dense toy/raw/images/test/000000000001.jpg --checkpoint runs/toy/dense_captioning --out runs/toy/dense.png
	@echo "== pictures of test images, prediction beside truth, in the folders pictures/ of runs/toy/trace,"
	@echo "== runs/toy/referring_segmentation and runs/toy/dense_captioning; a densely captioned scene: runs/toy/dense.png"

# --- checks ----------------------------------------------------------------------------------------------------------
test: $(INSTALLED) lint  ## the whole test suite, with formatting and types
	python -m pytest

test-fast: $(INSTALLED)  ## the tests that take seconds
	python -m pytest -m "not slow"

lint: $(INSTALLED)
	ruff check .
	mypy

pixel-sail-results: toy/dialogue_tokenizer/tokenizer.json toy/perbench/.done runs/toy/pretrain_attributes/.done runs/toy/pretrain_language_model/.done  ## the single transformer's additions one by one, and beside PixelLLM -> docs/pixel_sail.md (75 minutes on two cores)
	python -m benchmarks.pixel_sail

parity: $(INSTALLED)  ## compare with the published implementation's numbers (GOLDEN=DIR)
	python -m tests.parity $(or $(GOLDEN),../shared/golden/published)

parity-metrics: $(INSTALLED)  ## compare the metrics with the reference code's numbers (GOLDEN=DIR)
	python -m tests.parity.metrics $(or $(GOLDEN),../shared/golden/metrics)

results: runs/toy/pretrain_attributes/.done runs/toy/pretrain_language_model/.done  ## measure what it learns -> docs/results.md (3 to 4 hours)
	python -m benchmarks.results

ablations: runs/toy/pretrain_attributes/.done runs/toy/pretrain_language_model/.done  ## the paper's Tables 4 and 5 on the toy world -> docs/ablations.md (80 minutes on two cores)
	python -m benchmarks.ablations

torture: toy/tokenizer/tokenizer.json  ## kill a training sixty times and compare it with one left alone -> docs/torture.md (20 minutes)
	python -m benchmarks.torture

cluster-rehearsal: runs/toy/pretrain_attributes/.done runs/toy/pretrain_language_model/.done  ## the SLURM batch script on this machine: DDP and FSDP, preempted and gone on
	python slurm/rehearsal.py configs/trace/toy.yaml --trainer.max_steps 12 --trainer.limit_val_batches 0

benchmarks: $(INSTALLED)  ## measure speed and memory -> docs/benchmarks.md
	python -m benchmarks

clean:  ## delete the toy world and all runs on it
	rm -rf toy runs/toy runs/results runs/ablations runs/torture runs/rehearsal
