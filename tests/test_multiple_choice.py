"""Options inside a question, and which of them an answer names, in the forms that people and models write."""

import pytest

from pixel_llm.multiple_choice import chosen, options_of, without_subject

OPTIONS = ("red", "dark blue", "A", "green.")


@pytest.mark.parametrize(
    ("question", "options"),
    [
        ("What colour? A. red B. dark blue C. green.", ("red", "dark blue", "green")),
        ("What colour?\nA) red,\nB) dark blue;\nC) green", ("red", "dark blue", "green")),
        ("(A) one (B) two", ("one", "two")),
        ("What is it? A: a cat B: a dog", ("a cat", "a dog")),
        ("A.red B.blue", ("red", "blue")),
        ("Grade A. Which? A. one B. two", ("one", "two")),
        ("Is vitamin A. in it?", ()),
        ("Which one is it, red or blue?", ()),
        ("B. two A. one", ()),
    ],
)
def test_options_are_read_from_the_text(question: str, options: tuple[str, ...]) -> None:
    assert options_of(question) == options


@pytest.mark.parametrize(
    ("said", "index"),
    [
        ("red", 0),
        ("Red.", 0),
        (" b ", 1),
        ("(B)", 1),
        ("B) Dark  blue", 1),
        ("b: dark blue.", 1),
        ("The answer is B. dark blue.", 1),
        ("The correct choice is: B", 1),
        ("Answer: red", 0),
        ("<Prompt0>: D. green", 3),
        ("a", 2),  # the words of the third option come before the letter of the first
        ("C", 2),
        ("", None),
        ("B. red", None),
        ("A. red B. dark blue C. A D. green", None),
        ("red or dark blue", None),
        ("B, because it is dark blue", None),
        ("E", None),
        ("blue", None),
        ("Because", None),
    ],
)
def test_an_answer_names_one_option_and_nothing_else(said: str, index: int | None) -> None:
    assert chosen(said, OPTIONS) == index


def test_the_region_before_a_text_goes() -> None:
    assert without_subject("<Prompt12>: a dog: brown") == "a dog: brown"
    assert without_subject("beside <Prompt1>: a dog") == "beside <Prompt1>: a dog"
