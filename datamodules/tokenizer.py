"""Text to token ids with the characters that each token covers, and back.

Any `tokenizer.json` of the tokenizers library (Flan-T5's, Qwen's, or one that `pixel-llm prepare tokenizer` made), or a
BERT `vocab.txt`. Sequences follow the published layout: <bos> w1 .. wn </s>, cut at the maximum length, so an over-long
caption loses its </s>.
"""

import json
from collections.abc import Iterable, Sequence
from itertools import pairwise
from pathlib import Path

from tokenizers import Tokenizer as Backend
from tokenizers import models, normalizers, pre_tokenizers, trainers
from tokenizers.decoders import Metaspace as MetaspaceDecoder
from tokenizers.implementations import BertWordPieceTokenizer

Span = tuple[int, int]

_QWEN = ("<|endoftext|>", "<|im_start|>", "<|im_end|>")


class Tokenizer:
    """A tokenizer with its special ids.

    path: a folder with `tokenizer.json` or `vocab.txt`, or one of these files.
    Padding is 0; T5 and the trained ones have </s> = 1 and begin with the padding id, as T5's decoder does; BERT
    has [CLS] and [SEP]. Qwen pads with <|endoftext|>, and <|im_start|> and <|im_end|> are what <bos> and </s> are
    elsewhere. Raises FileNotFoundError or ValueError with one line naming the file.
    """

    def __init__(self, path: str) -> None:
        file = _find(Path(path))
        self.path = path
        try:
            if file.name == "vocab.txt":
                self._backend = BertWordPieceTokenizer(str(file), lowercase=True)._tokenizer
            else:
                self._backend = Backend.from_file(str(file))
        except Exception as error:  # the library raises bare Exception
            raise ValueError(f"{file} is not a tokenizer: {error}") from None
        self._set_special_ids(str(file))

    @classmethod
    def from_json(cls, text: str) -> "Tokenizer":
        """Rebuild a tokenizer from `to_json`, as a checkpoint carries it."""
        made = cls.__new__(cls)
        made.path = ""
        made._backend = Backend.from_str(text)
        made._set_special_ids("the checkpoint's tokenizer")
        return made

    def to_json(self) -> str:
        return self._backend.to_str()

    def _set_special_ids(self, origin: str) -> None:
        self._backend.no_padding()
        self._backend.no_truncation()
        pad, end, bert_pad, cls, sep = map(self._backend.token_to_id, ("<pad>", "</s>", "[PAD]", "[CLS]", "[SEP]"))
        blank, start, stop = map(self._backend.token_to_id, _QWEN)
        if blank is not None and start is not None and stop is not None:
            self.pad_id, self.bos_id, self.eos_id = blank, start, stop
        elif cls is not None and sep is not None:
            self.pad_id, self.bos_id, self.eos_id = bert_pad or 0, cls, sep
        elif pad is not None and end is not None:
            self.pad_id, self.bos_id, self.eos_id = pad, pad, end
        else:
            raise ValueError(f"{origin} has neither <pad> and </s> nor [PAD], [CLS] and [SEP] nor {', '.join(_QWEN)}")
        self.vocabulary_size: int = self._backend.get_vocab_size()

    def encode(self, text: str) -> tuple[list[int], list[Span]]:
        """Token ids without special tokens, and the characters of `text` that each covers."""
        encoding = self._backend.encode(text, add_special_tokens=False)
        return encoding.ids, encoding.offsets

    def encode_typed(self, text: str) -> list[int]:
        """The same ids for text that people wrote, in which the name of a special token is text as any other."""
        self._backend.encode_special_tokens = True
        try:
            ids = self._backend.encode(text, add_special_tokens=False).ids
        finally:
            self._backend.encode_special_tokens = False
        # T5's pieces hold "</s>" itself.
        return [token for token in ids if token not in (self.pad_id, self.bos_id, self.eos_id)]

    def sequence(self, ids: list[int], max_tokens: int) -> list[int]:
        """<bos> ids </s>, cut to max_tokens."""
        return [self.bos_id, *ids, self.eos_id][:max_tokens]

    def context(self, text: str, max_tokens: int) -> list[int]:
        """The tokens of a prompt's text: ids </s>, cut to max_tokens."""
        return [*self.encode(text)[0], self.eos_id][:max_tokens]

    def text(self, ids: Sequence[int]) -> str:
        """What ids say, without special tokens."""
        return self._backend.decode(list(ids), skip_special_tokens=True)

    def decode(self, ids: Iterable[int]) -> tuple[str, list[Span]]:
        """The text of ids up to </s> or padding (a leading <bos> is dropped), and the characters that each id gave."""
        kept: list[int] = []
        for position, token in enumerate(ids):
            if position == 0 and token == self.bos_id:
                continue
            if token in (self.eos_id, self.pad_id):
                break
            kept.append(token)
        prefixes = [self.text(kept[:n]) for n in range(len(kept) + 1)]
        spans = [(len(before), len(after)) for before, after in pairwise(prefixes)]
        return prefixes[-1], spans


def train_tokenizer(captions: Iterable[str], vocabulary_size: int) -> Tokenizer:
    """A tokenizer of at most vocabulary_size pieces for a corpus that no released tokenizer fits (BPE on words).

    Digits that the corpus lacks are the last pieces, so that any number can be written.
    """
    backend = Backend(models.BPE(unk_token="<unk>"))
    backend.normalizer = normalizers.NFKC()
    punctuation, words = pre_tokenizers.Punctuation("isolated"), pre_tokenizers.Metaspace()
    backend.pre_tokenizer = pre_tokenizers.Sequence([words, punctuation])
    backend.decoder = MetaspaceDecoder()
    special, digits = ["<pad>", "</s>", "<unk>"], "0123456789"
    backend.train_from_iterator(
        captions,
        trainers.BpeTrainer(vocab_size=vocabulary_size - len(digits), special_tokens=special, show_progress=False),
    )
    made = json.loads(backend.to_str())
    pieces = made["model"]["vocab"]
    for digit in digits:
        pieces.setdefault(digit, len(pieces))
    return Tokenizer.from_json(json.dumps(made))


def _find(path: Path) -> Path:
    if path.is_dir():
        for name in ("tokenizer.json", "vocab.txt"):
            if (path / name).is_file():
                return path / name
        raise FileNotFoundError(f"{path} has no tokenizer.json and no vocab.txt")
    if not path.is_file():
        raise FileNotFoundError(f"no tokenizer at {path}")
    return path
