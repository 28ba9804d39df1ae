"""Text with symbols to token ids, and back: what is asked of a single transformer, and what it answers.

The symbols ([SEG], <p>, </p>, <PromptK>) stand in forms, which are wordings of ours with places for what people say:
"Segment {sentence}." What people and annotations say is text, whatever they write: a typed "[SEG]" is no mask token.
A <PromptK> alone may count in it, where the caller says which regions are given.

The blanks around a symbol are not kept; reading puts them back, but not before punctuation.
"""

import re
from collections.abc import Collection, Iterable, Iterator, Sequence

from datamodules.tokenizer import Tokenizer
from pixel_llm.special_tokens import PHRASE, PHRASE_END, SEG, SpecialTokens

_PROMPT = r"<Prompt[0-9]+>"
_IN_FORMS = re.compile(rf"(\{{\w+\}}|{re.escape(SEG)}|{PHRASE}|{PHRASE_END}|{_PROMPT})")
_IN_SPEECH = re.compile(f"({_PROMPT})")


def prompt_name(number: int) -> str:
    """<PromptN>, the name of a region in a text."""
    return f"<Prompt{number}>"


def form_words(form: str) -> list[str]:
    """The stretches of a form between its symbols and places."""
    return [piece.strip() for piece in _IN_FORMS.split(form)[::2] if piece.strip()]


class ChatText:
    """A tokenizer with symbols behind its vocabulary.  visual_prompts: how many regions of an image can be named."""

    def __init__(self, tokenizer: Tokenizer, visual_prompts: int = 15) -> None:
        self.tokenizer = tokenizer
        self.special = SpecialTokens(tokenizer.vocabulary_size, visual_prompts)
        prompts = {prompt_name(number): self.special.prompt(number) for number in range(visual_prompts)}
        self._ids = {
            SEG: self.special.seg, PHRASE: self.special.phrase, PHRASE_END: self.special.phrase_end, **prompts
        }  # fmt: skip
        self._names = {token: name for name, token in self._ids.items()}

    def encode(self, form: str, given: Collection[int] | None = None, /, **said: str) -> list[int]:
        """The ids of a form whose {places} are filled by what was said.

        given: numbers of the regions that what was said can name by <PromptK>; None: it can name none, and such a name
            is text. Raises ValueError with one line for a name that was not given, and in a form for one that no
            symbol has.
        """
        ids: list[int] = []
        text = ""
        for name, words in self._pieces(form, given, said):
            text += words
            if name is not None:
                ids += [*self._plain(text), self._ids[name]]
                text = ""
        return ids + self._plain(text)

    def context(self, said: Sequence[Sequence[int]], max_tokens: int) -> list[int]:
        """The prompt's text: questions and answers so far, the question last, each with its </s>.

        What is too long loses its first words, but no symbol as long as there are words.
        """
        ids = [token for one in said for token in (*one, self.tokenizer.eos_id)]
        last = len(ids) - 1
        order = [i for i in range(last) if not self.is_symbol(ids[i])]
        order += [i for i in range(last) if self.is_symbol(ids[i])]
        return _without(ids, order[: max(len(ids) - max_tokens, 0)])

    def answer(self, ids: Sequence[int], max_tokens: int) -> list[int]:
        """<bos> answer </s>; one that is too long loses its last words, but no symbol.

        Raises ValueError with one line where its symbols alone are too long.
        """
        sequence = [self.tokenizer.bos_id, *ids, self.tokenizer.eos_id]
        words = [i for i in range(len(sequence) - 2, 0, -1) if not self.is_symbol(sequence[i])]
        excess = max(len(sequence) - max_tokens, 0)
        if excess > len(words):
            raise ValueError(f"an answer of {len(ids) - len(words)} symbols is longer than {max_tokens} tokens")
        return _without(sequence, words[:excess])

    def is_symbol(self, token: int) -> bool:
        return token >= self.special.first

    def decode(self, ids: Iterable[int]) -> str:
        """The text of ids with its symbols, up to </s> or padding; a leading <bos> is dropped."""
        text = ""
        for name, words in self._read(ids):
            piece = name or words
            joined = not text or text.endswith(PHRASE) or piece == PHRASE_END or _closes(words)
            text += piece if joined else f" {piece}"
        return text

    def words(self, ids: Iterable[int]) -> str:
        """The same without symbols, and without the colon behind the name that an answer begins with."""
        text, label = "", False
        for name, words in self._read(ids):
            if name is not None:
                label = label or not text
            elif text:
                text += words if _closes(words) else f" {words}"
            else:
                text = words.removeprefix(":").lstrip() if label else words
        return text

    def _pieces(
        self, form: str, given: Collection[int] | None, said: dict[str, str]
    ) -> Iterator[tuple[str | None, str]]:
        """(None, words) and (symbol, "") in turn."""
        for number, piece in enumerate(_IN_FORMS.split(form)):
            if number % 2 == 0:
                yield None, piece
            elif piece.startswith("{"):
                yield from self._speech(said[piece[1:-1]], given)
            elif piece in self._ids:
                yield piece, ""
            else:
                raise ValueError(f"{piece}: only {self.special.visual_prompts} regions have a name, from <Prompt0> on")

    def _speech(self, text: str, given: Collection[int] | None) -> Iterator[tuple[str | None, str]]:
        if given is None:
            yield None, text
            return
        names = {prompt_name(number) for number in given}
        for number, piece in enumerate(_IN_SPEECH.split(text)):
            if number % 2 == 0:
                yield None, piece
            elif piece in names:
                yield piece, ""
            else:
                known = ", ".join(prompt_name(number) for number in sorted(given)) or "none"
                raise ValueError(f"{piece} is asked about, but no such region was given (given: {known})")

    def _plain(self, text: str) -> list[int]:
        return self.tokenizer.encode_typed(text.strip()) if text.strip() else []

    def _read(self, ids: Iterable[int]) -> Iterator[tuple[str | None, str]]:
        """(None, words) and (symbol, "") as they follow on each other; ids without a text are left out."""
        tokenizer, pending = self.tokenizer, list[int]()
        for position, token in enumerate(ids):
            if position == 0 and token == tokenizer.bos_id:
                continue
            if token in (tokenizer.eos_id, tokenizer.pad_id):
                break
            if not self.is_symbol(token):
                pending.append(token)
            elif token in self._names:
                yield from self._said(pending)
                yield self._names[token], ""
                pending = []
        yield from self._said(pending)

    def _said(self, ids: Sequence[int]) -> Iterator[tuple[None, str]]:
        if words := self.tokenizer.text(ids).strip():
            yield None, words


def _closes(words: str) -> bool:
    """Words that begin with punctuation which no blank stands before."""
    return words[:1] in tuple(".,:;!?)")


def _without(ids: Sequence[int], places: Collection[int]) -> list[int]:
    left_out = set(places)
    return [token for i, token in enumerate(ids) if i not in left_out]
