"""From the tokens of prepared data back to text, by the tokenizer that made them."""

from collections.abc import Callable
from typing import cast

from shear_lit.data.errors import DataError
from shear_lit.data.prepared.manifest import Manifest
from shear_lit.data.tokens.tokenizer import load_tokenizer


def decoder_of(manifest: Manifest, tokenizer: str | None = None) -> Callable[[list[int]], str]:
    """What turns token ids into text; ``tokenizer`` names another place of the tokenizer than the manifest does.

    Raises:
        DataError: it cannot be loaded, or is another one than made the tokens.
    """
    name = manifest.tokenizer.name if tokenizer is None else tokenizer
    try:
        loaded = load_tokenizer(name)
    except DataError as error:
        raise DataError(
            f"{error.args[0]} It made the data, and without it there is no text: name a directory that holds it with "
            "--tokenizer, or leave --sequences out.",
            key="tokenizer",
        ) from error
    if not loaded.is_of(manifest.tokenizer.fingerprint):
        raise DataError(
            f"{name!r} is another one (fingerprint {loaded.fingerprint[:12]}) than made the tokens "
            f"({manifest.tokenizer.name!r}, {manifest.tokenizer.fingerprint[:12]}): they would give other text. "
            "Name a directory that holds that one with --tokenizer.",
            key="tokenizer",
        )
    return lambda tokens: cast(str, loaded.backend.decode(tokens, skip_special_tokens=False))
