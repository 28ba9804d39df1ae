"""Tokenizers against the libraries they come from, and the characters that each token says it covers."""

import json
import unicodedata
from itertools import pairwise
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer as Backend

from datamodules.tokenizer import Tokenizer, train_tokenizer

CORPUS = [
    "A brown dog's ball, isn't it? Two dogs - one (small) and one large!",
    "כלב חום על הדשא. שני כלבים",
    "كلب بني على العشب، شجرة خضراء",
    "a 😀 face and a 👩‍👩‍👧 family, the 🏳️‍🌈 flag",
    "naïve café, 5 m² of fish",
]
WORDS = sorted({word for text in CORPUS for word in unicodedata.normalize("NFKC", text).split()})


@pytest.fixture(scope="module")
def trained() -> Tokenizer:
    return train_tokenizer(CORPUS * 3, 400)


def pieces(tokenizer: Tokenizer) -> dict[int, str]:
    vocabulary = json.loads(tokenizer.to_json())["model"]["vocab"]
    entries = vocabulary.items() if isinstance(vocabulary, dict) else ((e[0], i) for i, e in enumerate(vocabulary))
    return {number: piece for piece, number in entries}


@given(st.lists(st.sampled_from(WORDS), max_size=30))
@settings(deadline=None, max_examples=60)
def test_text_of_known_words_comes_back(trained: Tokenizer, words: list[str]) -> None:
    text = " ".join(words)
    ids, spans = trained.encode(text)
    sequence = trained.sequence(ids, 1000)
    decoded, produced = trained.decode(sequence)
    assert decoded == text
    assert "".join(text[a:b] for a, b in produced) == text
    assert len(produced) == len(ids) == len(spans)


@given(st.lists(st.sampled_from([*WORDS, "ﬁsh", "ＤＯＧ", "m²"]), max_size=30), st.sampled_from([" ", "  "]))
@settings(deadline=None, max_examples=60)
def test_spans_point_at_the_text_of_their_pieces(trained: Tokenizer, words: list[str], blank: str) -> None:
    text = blank.join(words)
    ids, spans = trained.encode(text)
    names = pieces(trained)
    for token, (begin, end) in zip(ids, spans, strict=True):
        covered = unicodedata.normalize("NFKC", text[begin:end]).strip()
        piece = names[token].replace("▁", " ").strip()
        assert piece == "<unk>" or piece in covered
    assert all(a[0] <= b[0] for a, b in pairwise(spans))


@pytest.mark.parametrize("text", CORPUS)
def test_every_word_is_covered_by_tokens(trained: Tokenizer, text: str) -> None:
    covered = {i for begin, end in trained.encode(text)[1] for i in range(begin, end)}
    assert covered >= {i for i, character in enumerate(text) if not character.isspace()}


def test_unknown_characters_keep_their_place(trained: Tokenizer) -> None:
    text = "brown 犬 dog"
    ids, spans = trained.encode(text)
    unknown = [text[a:b].strip() for token, (a, b) in zip(ids, spans, strict=True) if pieces(trained)[token] == "<unk>"]
    assert unknown == ["犬"]
    assert trained.decode(ids)[0].split() == ["brown", "dog"]


@given(st.text(max_size=60))
@settings(deadline=None, max_examples=100)
def test_any_text_can_be_encoded(trained: Tokenizer, text: str) -> None:
    ids, spans = trained.encode(text)
    assert all(0 <= begin <= end <= len(text) for begin, end in spans)
    decoded, produced = trained.decode(ids)
    assert [begin for begin, _ in produced] == [0, *(end for _, end in produced)][: len(produced)]
    assert not produced or produced[-1][1] == len(decoded)


def test_sequences_begin_and_end_as_published_and_are_cut(trained: Tokenizer) -> None:
    assert (trained.pad_id, trained.bos_id, trained.eos_id) == (0, 0, 1)
    assert trained.sequence([7, 8, 9], 10) == [0, 7, 8, 9, 1]
    assert trained.sequence([7, 8, 9], 4) == [0, 7, 8, 9]
    assert trained.context("", 8) == [1]
    assert trained.context("brown dog", 3) == [*trained.encode("brown dog")[0], 1][:3]


def test_decoding_stops_at_the_end_and_at_padding(trained: Tokenizer) -> None:
    ids = trained.encode("brown dog")[0]
    more = trained.encode("ball")[0]
    for tail in ([1, *more], [0, *more], [1, 0, 0]):
        assert trained.decode([0, *ids, *tail])[0] == "brown dog"
    assert trained.decode([0]) == ("", [])


def test_a_checkpoint_carries_it_whole(trained: Tokenizer, tmp_path: Path) -> None:
    again = Tokenizer.from_json(trained.to_json())
    assert again.encode(CORPUS[0]) == trained.encode(CORPUS[0])
    (tmp_path / "tokenizer.json").write_text(trained.to_json())
    for path in (tmp_path, tmp_path / "tokenizer.json"):
        assert Tokenizer(str(path)).to_json() == again.to_json()


def test_truncation_and_padding_of_the_file_have_no_effect(trained: Tokenizer, tmp_path: Path) -> None:
    backend = Backend.from_str(trained.to_json())
    backend.enable_truncation(3)
    backend.enable_padding(length=50)
    backend.save(str(tmp_path / "tokenizer.json"))
    assert Tokenizer(str(tmp_path)).encode(CORPUS[0]) == trained.encode(CORPUS[0])


def test_a_vocabulary_is_no_larger_than_asked(trained: Tokenizer) -> None:
    assert trained.vocabulary_size <= 400
    assert len(pieces(trained)) == trained.vocabulary_size


def test_files_that_are_no_tokenizer_are_named(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"has no tokenizer\.json and no vocab\.txt"):
        Tokenizer(str(tmp_path))
    with pytest.raises(FileNotFoundError, match=r"no tokenizer at .*nowhere"):
        Tokenizer(str(tmp_path / "nowhere"))
    (tmp_path / "tokenizer.json").write_text("{}")
    with pytest.raises(ValueError, match=r"tokenizer\.json is not a tokenizer"):
        Tokenizer(str(tmp_path))
    (tmp_path / "vocab.txt").write_text("a\nb\n")
    with pytest.raises(ValueError, match=r"vocab\.txt"):
        Tokenizer(str(tmp_path / "vocab.txt"))


REAL = [
    "A man in a blue shirt isn't riding the dog's bike; it's raining!",
    "  two  blanks, a\ttab and a\nnew line ",
    "naïve café ½ ＦＵＬＬ ﬁsh",
    "a 😀 dog and a 👩‍👩‍👧",
    "כלב חום على العشب",
    "...!?",
    "x" * 300,
]


@pytest.fixture(scope="module")
def texts(shared: Path) -> list[str]:
    captions = json.loads((shared / "samples/coco/captions.json").read_text())["annotations"]
    return [*REAL, *[entry["caption"] for entry in captions[:200]]]


@pytest.mark.shared
def test_t5_cuts_text_as_sentencepiece_does(shared: Path, texts: list[str]) -> None:
    sentencepiece = pytest.importorskip("sentencepiece")
    theirs = sentencepiece.SentencePieceProcessor(model_file=str(shared / "samples/tokenizers/t5/spiece.model"))
    ours = Tokenizer(str(shared / "samples/tokenizers/t5"))
    assert (ours.pad_id, ours.bos_id, ours.eos_id) == (theirs.pad_id(), theirs.pad_id(), theirs.eos_id())
    for text in texts:
        ids, _ = ours.encode(text)
        assert ids == theirs.encode(text), text
        if theirs.unk_id() not in ids:
            assert ours.decode(ids)[0] == theirs.decode(ids)


@pytest.mark.shared
def test_bert_cuts_text_as_transformers_does(shared: Path, texts: list[str]) -> None:
    transformers = pytest.importorskip("transformers")
    folder = str(shared / "samples/tokenizers/bert-base-uncased")
    theirs, ours = transformers.BertTokenizer.from_pretrained(folder), Tokenizer(folder)
    assert (ours.pad_id, ours.bos_id, ours.eos_id) == (theirs.pad_token_id, theirs.cls_token_id, theirs.sep_token_id)
    for text in texts:
        encoded = theirs(text, return_offsets_mapping=True, verbose=False)
        ids, spans = ours.encode(text)
        assert ours.sequence(ids, 1000) == encoded["input_ids"]
        assert spans == [tuple(span) for span in encoded["offset_mapping"][1:-1]]


@pytest.mark.shared
@pytest.mark.parametrize("name", ["t5", "bert-base-uncased"])
def test_spans_of_released_tokenizers_point_at_their_pieces(shared: Path, texts: list[str], name: str) -> None:
    """On ASCII text, which no normalisation but lower case changes."""
    tokenizer = Tokenizer(str(shared / "samples/tokenizers" / name))
    names = pieces(tokenizer)
    for text in filter(str.isascii, texts):
        for token, (begin, end) in zip(*tokenizer.encode(text), strict=True):
            piece = names[token].replace("▁", " ").removeprefix("##").strip()
            assert piece.casefold() == text[begin:end].strip().casefold() or piece in ("", "<unk>", "[UNK]")
