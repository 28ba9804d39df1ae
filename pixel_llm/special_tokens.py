"""The symbols that a single transformer reads and writes beside words: for images, regions, phrases and masks."""

from dataclasses import dataclass

SEG, PHRASE, PHRASE_END = "[SEG]", "<p>", "</p>"


@dataclass(frozen=True)
class SpecialTokens:
    """Their ids, which stand behind those of a tokenizer, the same in data and model.

    first: the tokenizer's vocabulary size.  visual_prompts: how many regions of an image can be named (published: 15).
    """

    first: int
    visual_prompts: int = 15

    @property
    def seg(self) -> int:
        """The mask token."""
        return self.first

    @property
    def phrase(self) -> int:
        """Opens the words that the next mask token is about."""
        return self.first + 1

    @property
    def phrase_end(self) -> int:
        return self.first + 2

    @property
    def image(self) -> int:
        """Opens the patches of an image."""
        return self.first + 3

    @property
    def image_end(self) -> int:
        return self.first + 4

    @property
    def patch(self) -> int:
        """Stands for every patch."""
        return self.first + 5

    def prompt(self, number: int) -> int:
        """<PromptN>, the name of a region."""
        return self.first + 6 + number

    @property
    def vocabulary_size(self) -> int:
        """Of words and symbols together."""
        return self.first + 6 + self.visual_prompts
