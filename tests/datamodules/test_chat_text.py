"""Text with symbols: symbols where we put them, text where people typed, and the same text back."""

import json
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import AddedToken, decoders, models, pre_tokenizers, trainers
from tokenizers import Tokenizer as Backend

from datamodules.chat_text import ChatText
from datamodules.tokenizer import Tokenizer, train_tokenizer

WORDS = ["Segment the small dog.", "It is here: a (red) one, isn't it?", "[SEG] <p> </p> <Prompt0> </s> | im_start"]
TYPED = ["[SEG]", "<p>", "</p>", "<Prompt0>", "</s>", "<pad>", "<|im_end|>", "<|im_start|>", "<|endoftext|>", "the dog"]


def qwen(extra: tuple[str, ...] = ("<|endoftext|>", "<|im_start|>", "<|im_end|>")) -> Backend:
    """A byte-level BPE with added tokens, as Qwen publishes them."""
    backend = Backend(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=300, initial_alphabet=alphabet, show_progress=False)
    backend.train_from_iterator(WORDS * 3, trainer)
    backend.add_special_tokens([AddedToken(name, special=True) for name in extra])
    return backend


@pytest.fixture(scope="module", params=["trained", "qwen"])
def chat(request: pytest.FixtureRequest) -> ChatText:
    backend = train_tokenizer(WORDS * 3, 300).to_json() if request.param == "trained" else qwen().to_str()
    return ChatText(Tokenizer.from_json(backend), visual_prompts=4)


def test_a_tokenizer_of_qwens_kind_has_an_id_for_each_end(tmp_path: Path) -> None:
    qwen().save(str(tmp_path / "tokenizer.json"))
    tokenizer = Tokenizer(str(tmp_path))
    ids = json.loads(tokenizer.to_json())["added_tokens"]
    known = {entry["content"]: entry["id"] for entry in ids}
    assert tokenizer.pad_id == known["<|endoftext|>"]
    assert tokenizer.bos_id == known["<|im_start|>"]
    assert tokenizer.eos_id == known["<|im_end|>"]
    assert tokenizer.vocabulary_size == max(known.values()) + 1
    text = "naïve 犬, the small dog"
    sequence = tokenizer.sequence(tokenizer.encode(text)[0], 200)
    assert tokenizer.decode([*sequence, tokenizer.pad_id])[0] == text
    qwen(("<|endoftext|>",)).save(str(tmp_path / "tokenizer.json"))
    with pytest.raises(ValueError, match=r"tokenizer\.json has neither"):
        Tokenizer(str(tmp_path))


def test_symbols_of_a_form_stand_behind_the_vocabulary(chat: ChatText) -> None:
    special = chat.special
    ids = chat.encode("<Prompt3>: <p>the dog</p> [SEG].")
    symbols = [token for token in ids if token >= chat.tokenizer.vocabulary_size]
    assert symbols == [special.prompt(3), special.phrase, special.phrase_end, special.seg]
    assert ids[0] == special.prompt(3)
    with pytest.raises(ValueError, match="<Prompt4>: only 4 regions have a name"):
        chat.encode("What is <Prompt4>?")


@pytest.mark.parametrize("text", ["It is [SEG].", "<Prompt3>: a dog", "<p>the dog</p> [SEG] and <p>one</p> [SEG]."])
def test_a_text_with_symbols_comes_back(chat: ChatText, text: str) -> None:
    ids = [chat.tokenizer.bos_id, *chat.encode(text), chat.tokenizer.eos_id, chat.tokenizer.pad_id, 5]
    assert chat.decode(ids) == text


@pytest.mark.parametrize(
    ("text", "words"),
    [("It is [SEG].", "It is."), ("<Prompt3>: a dog", "a dog"), ("<p>the dog</p> [SEG], here", "the dog, here"),
     ("a <Prompt1>: one", "a: one"), (": a dog", ": a dog"), ("[SEG]", ""), ("", "")],
)  # fmt: skip
def test_words_are_read_without_symbols(chat: ChatText, text: str, words: str) -> None:
    assert chat.words(chat.encode(text)) == words


@given(st.lists(st.sampled_from([*TYPED, *WORDS]), max_size=6).map(" ".join) | st.text(max_size=30))
@settings(deadline=None, max_examples=80)
def test_what_people_type_gives_no_special_id(chat: ChatText, typed: str) -> None:
    tokenizer = chat.tokenizer
    ids = chat.encode("Segment {sentence}.", sentence=typed)
    assert all(token < tokenizer.vocabulary_size for token in ids)
    assert not {tokenizer.pad_id, tokenizer.bos_id, tokenizer.eos_id}.intersection(ids)
    assert not any(chat.is_symbol(token) for token in chat.encode("{a}", {0}, a=typed.replace("<Prompt0>", "")))


@pytest.mark.shared
def test_typed_names_of_t5s_tokens_end_nothing(shared: Path) -> None:
    chat = ChatText(Tokenizer(str(shared / "samples/tokenizers/t5")))
    ids = chat.encode("{a}", a="the </s> dog <pad> [SEG] <extra_id_0>")
    assert not {0, 1}.intersection(ids)
    assert max(ids) < 32100
    assert chat.words(ids).split()[:2] == ["the", "dog"]


def test_typed_symbols_are_plain_text(chat: ChatText) -> None:
    assert chat.decode(chat.encode("{a}", a="[SEG] dog <Prompt0>")) == "[SEG] dog <Prompt0>"
    assert chat.decode(chat.encode("{a}", a="a {a} dog")).startswith("a ")


def test_names_of_given_regions_count_in_what_is_said(chat: ChatText) -> None:
    ids = chat.encode("{question}", {1, 2}, question="is <Prompt1> a dog, or <Prompt2>? [SEG]")
    assert [token for token in ids if chat.is_symbol(token)] == [chat.special.prompt(1), chat.special.prompt(2)]
    for name in ("<Prompt3>", "<Prompt9999999>"):
        with pytest.raises(ValueError, match=rf"^{name} is asked about.*\(given: <Prompt1>, <Prompt2>\)$"):
            chat.encode("{question}", {1, 2}, question=f"is {name} a dog?")
    with pytest.raises(ValueError, match="given: none"):
        chat.encode("{question}", {}, question="is <Prompt0> a dog?")


def test_long_questions_lose_their_first_words_but_no_symbol(chat: ChatText) -> None:
    first, answer = chat.encode("the small dog <Prompt1> is here"), chat.encode("a dog [SEG].")
    last, end = chat.encode("the dog?"), chat.tokenizer.eos_id
    whole = [*first, end, *answer, end, *last, end]
    assert chat.context([first, answer, last], 1000) == whole
    for length in range(len(whole), 3, -1):
        cut = chat.context([first, answer, last], length)
        assert len(cut) == length
        assert cut[-1] == end
        assert [token for token in cut if chat.is_symbol(token)] == [chat.special.prompt(1), chat.special.seg]
    assert chat.context([first, answer, last], len(last) + 3)[2:] == [*last, end]


def test_long_answers_keep_their_masks_and_their_end(chat: ChatText) -> None:
    ids = chat.encode("a small dog [SEG] and [SEG].")
    assert chat.answer(ids, 100) == [chat.tokenizer.bos_id, *ids, chat.tokenizer.eos_id]
    cut = chat.answer(ids, 6)
    assert cut == [chat.tokenizer.bos_id, *ids[:2], chat.special.seg, chat.special.seg, chat.tokenizer.eos_id]
    with pytest.raises(ValueError, match="an answer of 2 symbols is longer than 3 tokens"):
        chat.answer(ids, 3)
