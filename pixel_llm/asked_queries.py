"""What a person types that a model cannot read: told in its log."""

import logging
import textwrap
from collections.abc import Sequence

from datamodules.tokenizer import Tokenizer

log = logging.getLogger(__name__)


def shown(query: str) -> str:
    """Its beginning, as a log shows it."""
    return textwrap.shorten(query, 60, placeholder=" ...")


def tell_unknown(query: str, tokens: Sequence[int], tokenizer: Tokenizer) -> None:
    """Log where no word of a query is left in its tokens."""
    if not tokenizer.decode(tokens)[0].strip():
        log.warning("query %r has no word that the model's tokenizer knows: its answer means nothing", shown(query))
