"""Tokenizers as transformers reads them: where no file tells all, and for what earlier versions wrote of one."""

import hashlib
import json
from typing import Any

from tokenizers import Tokenizer
from transformers import AutoTokenizer, PreTrainedTokenizerBase, PreTrainedTokenizerFast

from shear_lit.data.errors import DataError
from shear_lit.data.sentencepiece import from_sentencepiece
from shear_lit.data.tokenizer import check_files, no_tokenizer
from shear_lit.disk.names import expanded, split_revision


def in_transformers(name: str) -> PreTrainedTokenizerBase:
    """What transformers reads in a directory, or by a name of the hub.

    Code that comes with it is neither run nor asked about.
    """
    repository, revision = split_revision(str(expanded(name)))
    at = {} if revision is None else {"revision": revision}
    found: PreTrainedTokenizerBase = AutoTokenizer.from_pretrained(repository, trust_remote_code=False, **at)
    return found


def beside(source: str) -> PreTrainedTokenizerBase:
    """What transformers reads beside a model, in a local directory or on the hub.

    Raises:
        DataError: there is nothing that can be loaded.
    """
    try:
        check_files(expanded(source))
        return in_transformers(source)
    except Exception as error:  # transformers and the libraries below it have errors of their own
        raise no_tokenizer(source, error) from error


def from_transformers(name: str) -> tuple[Tokenizer, dict[str, int | None], bool]:
    """A tokenizer by its class in transformers: it, the ids of its special tokens, and whether their names are text.

    Raises:
        DataError: it has no fast version.
        Exception: whatever transformers raises at what it cannot read.
    """
    found: Any = in_transformers(name)
    if not found.is_fast:
        raise DataError(f"{name!r} has no fast version, which is needed here. Convert it to tokenizer.json.")
    special = {"bos": found.bos_token_id, "eos": found.eos_token_id}
    return found.backend_tokenizer, special, bool(getattr(found, "split_special_tokens", False))


def serialised_in_transformers(name: str) -> str | None:
    """SHA-256 of the form that a tokenizer has in transformers, by which versions before 0.2 knew it."""
    path = expanded(name)
    try:
        if path.suffix == ".model" and path.is_file():
            backend, special = from_sentencepiece(path)
            found: Any = PreTrainedTokenizerFast(tokenizer_object=backend, **special)
        else:
            found = in_transformers(name)
        content = json.loads(found.backend_tokenizer.to_str())
    except Exception:  # what transformers cannot read had no fingerprint
        return None
    for transient in ("truncation", "padding"):
        content.pop(transient, None)
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()
