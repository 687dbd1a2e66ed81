"""From the tokens of prepared data back to text, by the tokenizer that made them."""

from collections.abc import Callable
from pathlib import Path
from typing import cast

from transformers import AutoTokenizer

from shear_lit.data.errors import DataError
from shear_lit.data.manifest import Manifest
from shear_lit.data.prepare import tokenizer_fingerprint


def decoder_of(manifest: Manifest, tokenizer: str | None = None) -> Callable[[list[int]], str]:
    """What turns token ids into text; ``tokenizer`` names another place of the tokenizer than the manifest does.

    Raises:
        DataError: it cannot be loaded, or is another one than made the tokens.
    """
    name = manifest.tokenizer.name if tokenizer is None else tokenizer
    try:
        loaded = AutoTokenizer.from_pretrained(Path(name).expanduser(), trust_remote_code=False)
    except (OSError, ValueError, KeyError) as error:
        raise DataError(
            f"the data's tokenizer {name!r} cannot be loaded ({' '.join(str(error).split())}): without it there is no "
            "text. Name a directory that holds it with --tokenizer, or leave --sequences out."
        ) from error
    if (found := tokenizer_fingerprint(loaded)) != manifest.tokenizer.fingerprint:
        raise DataError(
            f"tokenizer={name!r} is another one (fingerprint {found[:12]}) than made the tokens "
            f"({manifest.tokenizer.name!r}, {manifest.tokenizer.fingerprint[:12]}): they would give other text. "
            "Name a directory that holds that one with --tokenizer."
        )
    return lambda tokens: cast(str, loaded.decode(tokens))
