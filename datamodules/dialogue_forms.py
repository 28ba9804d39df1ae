"""The wordings of what is asked of a single transformer, and of how it answers.

Training draws among the forms, evaluation takes the first. Places in braces are filled by what people wrote, <PromptK>
stands for the name of a region, and "{masks}" for one [SEG] or several.
"""

SEGMENT = (
    "Segment {sentence}.",
    "Please segment {sentence} in this image.",
    "Where is {sentence}? Answer with a mask.",
    "Can you show me {sentence}?",
    "Mark {sentence} in the image.",
    "Give me the mask of {sentence}.",
    "Which pixels belong to {sentence}?",
    "Find {sentence} and cut it out.",
    "Outline {sentence}, please.",
    "I am looking for {sentence}. Can you segment it?",
)
SEGMENTED = (
    "It is {masks}.",
    "Here it is: {masks}.",
    "Sure, {masks}.",
    "The mask is {masks}.",
    "You find it at {masks}.",
)
NOTHING_TO_SEGMENT = (
    "There is no such thing: [SEG].",
    "Nothing in the image fits: [SEG].",
    "The image does not show that: [SEG].",
)

DESCRIBE_REGION = (
    "What is <PromptK>?",
    "Describe <PromptK>.",
    "Please say what <PromptK> shows.",
    "What can be seen in <PromptK>?",
    "Give a short description of the region <PromptK>.",
    "Tell me about <PromptK>.",
)
REGION_DESCRIBED = ("<PromptK>: {phrase}",)
NO_SUCH_REGION = ("<PromptK> is not in the image.", "No region is named <PromptK>.")

FORMS = (
    *(*SEGMENT, *SEGMENTED, *NOTHING_TO_SEGMENT),
    *(*DESCRIBE_REGION, *REGION_DESCRIBED, *NO_SUCH_REGION),
)
