"""Tokenized captions with the scores that the reference implementations gave them."""

import json
from dataclasses import dataclass
from typing import Any

import pytest


@dataclass
class Scored:
    captions: list[str]
    references: list[list[str]]
    want: dict[str, Any]


@pytest.fixture(params=["all", "first_item_only", "region_only"])
def scored(request, shared) -> Scored:
    want = json.loads((shared / "golden/metrics/captions_expected.json").read_text())[request.param]
    return Scored([caption for (caption,) in want["tokenized_cand"]], want["tokenized_refs"], want)
