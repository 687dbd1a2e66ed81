"""The tokenizer of an export: transformers gives the ids that ``tokenizer.json`` gives, as the data was made with."""

import logging
from pathlib import Path

from shear_lit.data.tokens.conversions import in_transformers
from shear_lit.data.tokens.tokenizer import FILE, PROBE, load_tokenizer
from shear_lit.mistakes import Mistake
from shear_lit.models.companions import name_general_class

_log = logging.getLogger(__name__)


class TokenizerError(Mistake):
    """A tokenizer that programs read as another one."""


def keep_tokenizer(directory: Path) -> None:
    """Have transformers read ``tokenizer.json`` as it is, where the class that the config names would not.

    Raises:
        TokenizerError: it reads another tokenizer all the same.
    """
    if not (directory / FILE).is_file() or _reads_the_file(directory):
        return
    named = name_general_class(directory)
    if not _reads_the_file(directory):
        raise TokenizerError(
            f"transformers does not give the ids of {FILE}, with which the data was made, whatever class its config "
            f"names ({named}): the export would be given other tokens than it was trained on. Convert the source's "
            f"tokenizer to the form of its class, and prepare the data with that.",
            key="model.source",
        )
    _log.info(
        "the export's tokenizer names PreTrainedTokenizerFast: %s cuts text otherwise than %s", named, FILE
    )


def _reads_the_file(directory: Path) -> bool:
    """Whether transformers gives the same ids of a text in which tokenizers differ."""
    of_file = load_tokenizer(str(directory))
    try:
        of_class = in_transformers(str(directory))
    except (
        Exception
    ):  # code of its own, a class that is not there: transformers and the libraries below have many
        return False
    of_file.backend.encode_special_tokens = of_file.split_special_tokens
    return all(
        of_file.backend.encode(text, add_special_tokens=False).ids
        == of_class.encode(text, add_special_tokens=False)
        for text in PROBE
    )
