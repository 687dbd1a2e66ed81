"""Tokenizers as transformers reads them: where no file tells all, and for what earlier versions wrote of one."""

import hashlib
import json
from typing import Any

from transformers import AutoTokenizer, PreTrainedTokenizerBase, PreTrainedTokenizerFast

from shear_lit.data.errors import DataError
from shear_lit.data.tokens.sentencepiece import from_sentencepiece
from shear_lit.data.tokens.tokenizer import TextTokenizer, check_files, no_tokenizer
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


def from_transformers(name: str) -> TextTokenizer:
    """A tokenizer of which no file tells all, as its class in transformers reads it.

    Raises:
        DataError: it has no fast version.
        Exception: whatever transformers raises at what it cannot read.
    """
    found = in_transformers(name)
    if not found.is_fast:
        raise DataError(
            f"{name!r} has no fast version, which is needed here. Convert it to tokenizer.json.",
            key="tokenizer",
        )
    return _as_text_tokenizer(name, found)


def special_tokens_of_class(name: str) -> dict[str, str | None]:
    """The tokens that begin and end a text (``bos_token``, ``eos_token``), as the class of a tokenizer knows them."""
    found = in_transformers(name)
    return {"bos_token": found.bos_token, "eos_token": found.eos_token}


def as_earlier_versions_read(tokenizer: TextTokenizer) -> tuple[TextTokenizer | None, str]:
    """A tokenizer as versions before 0.2 read it, and the SHA-256 by which they knew it."""
    path = expanded(tokenizer.name)
    try:
        if path.suffix == ".model" and path.is_file():
            backend, special = from_sentencepiece(path)
            found: Any = PreTrainedTokenizerFast(tokenizer_object=backend, **special)
        else:
            found = in_transformers(tokenizer.name)
        content = json.loads(found.backend_tokenizer.to_str())
    except Exception:  # what transformers cannot read, they did not read
        return None, ""
    for transient in ("truncation", "padding"):
        content.pop(transient, None)
    serialised = hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()
    return _as_text_tokenizer(tokenizer.name, found), serialised


def _as_text_tokenizer(name: str, found: Any) -> TextTokenizer:
    return TextTokenizer(
        name=name,
        backend=found.backend_tokenizer,
        bos_id=found.bos_token_id,
        eos_id=found.eos_token_id,
        split_special_tokens=bool(getattr(found, "split_special_tokens", False)),
    )
