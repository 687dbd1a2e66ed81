"""The tokenizer of a data set, as its own files say: ``tokenizer.json``, or a SentencePiece model.

It is read by the tokenizers library. transformers may read the same directory as something else: a ``tokenizer_class``
in its config can replace the rules by which ``tokenizer.json`` cuts words.
"""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from tokenizers import AddedToken, Tokenizer

from shear_lit.data.errors import DataError
from shear_lit.data.prepared.manifest import KEY as DATA
from shear_lit.data.prepared.manifest import Manifest, TokenizerRecord
from shear_lit.disk.names import expanded, is_elsewhere, split_revision
from shear_lit.disk.reading import read_json
from shear_lit.disk.records import one_line

FILE, MODEL = "tokenizer.json", "tokenizer.model"
"""What holds a tokenizer in a directory: of the tokenizers library, or of SentencePiece."""
_SETTINGS = ("tokenizer_config.json", "special_tokens_map.json")
_ROLES = ("bos_token", "eos_token")
_PROPERTIES = ("single_word", "lstrip", "rstrip", "normalized", "special")
_MOST_BYTES = 1 << 28  # the largest of any known model has an eighth of that
_FILES = (
    FILE,
    MODEL,
    *_SETTINGS,
    "added_tokens.json",
    "chat_template.jinja",
    "config.json",
    "merges.txt",
    "vocab.json",
    "vocab.txt",
)
PROBE = (
    "The quick brown fox, 3.14 times: 1 12 123 1234 1234567.89 and 2026-11-26.",
    "  two  spaces,    four\tand a tab\n\n\n    def f(x):\n        return {'x': [1, 2], \"y\": None}  # trailing   \n",
    "I'll say it's THEY'RE we've don't; e-mail@example.org https://example.org/a_b?c=d&e=%20f",
    "Zwölf Boxkämpfer jagen Viktor; el niño comió piñas; Виктор прыгает; Γρήγορα; العربية; עברית; हिन्दी; ไทย",
    "快速的棕色狐狸 こんにちは世界 안녕하세요 🦊👩‍👩‍👧 \u2581 \ufb01 e\u0301 \u00a0 \u200b \ufeff \x00\x07",
    "<s> </s> <unk> <pad> <|endoftext|> <|im_start|> <|im_end|> [INST] <|begin_of_text|> <bos> <eos>",
)
"""A text in which tokenizers differ: numbers, white space, code, scripts, bytes, names of special tokens."""


@dataclass(frozen=True, kw_only=True)
class TextTokenizer:
    """What turns text into the ids of tokens, and back."""

    name: str
    """What it was loaded as."""
    backend: Tokenizer
    """It, in the tokenizers library."""
    bos_id: int | None
    """Id of the token that begins a text, if there is one."""
    eos_id: int | None
    """Id of the token that ends a text, if there is one."""
    split_special_tokens: bool = False
    """Whether a special token's name inside a text is text."""

    @cached_property
    def vocabulary(self) -> int:
        """The largest id and one."""
        return max(self.backend.get_vocab(with_added_tokens=True).values(), default=-1) + 1

    @cached_property
    def fingerprint(self) -> str:
        """SHA-256 of what it does: its tokens, its special ids, and the ids of a fixed text.

        Two serialisations of one tokenizer have the same, and so has one that lies elsewhere.
        """
        probe = [self.backend.encode(text, add_special_tokens=False).ids for text in PROBE]
        special = {"bos": self.bos_id, "eos": self.eos_id}
        content = [self.backend.get_vocab(with_added_tokens=True), special, probe]
        return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()

    @cached_property
    def earlier_fingerprint(self) -> str | None:
        """What versions before 0.2 wrote for it: the SHA-256 of its form in transformers.

        None where transformers reads another tokenizer: then those versions did not make their tokens with this one.
        """
        from shear_lit.data.tokens.conversions import as_earlier_versions_read

        read, serialised = as_earlier_versions_read(self)
        return serialised if read is not None and read.fingerprint == self.fingerprint else None

    def is_of(self, fingerprint: str) -> bool:
        """Whether a fingerprint is its own, also one that an earlier version wrote."""
        return fingerprint == self.fingerprint or fingerprint == self.earlier_fingerprint

    def record(self) -> TokenizerRecord:
        """What a manifest says of it."""
        return TokenizerRecord(
            name=self.name,
            fingerprint=self.fingerprint,
            vocabulary=self.vocabulary,
            bos_id=self.bos_id,
            eos_id=self.eos_id,
        )


def load_tokenizer(name: str) -> TextTokenizer:
    """Load the tokenizer ``name``: a directory, a hub name (or name@revision), or a SentencePiece ``.model`` file.

    Raises:
        DataError: there is none, or none that is fast.
    """
    path = expanded(name)
    try:
        check_files(path)
        return _from_files(name, path)
    except DataError:
        raise
    except Exception as error:  # each library that reads one has errors of its own
        raise DataError(
            f"{name!r} cannot be loaded ({one_line(error)}): a Hugging Face directory or name, or a SentencePiece "
            "`.model` file is expected. Correct it.",
            key="tokenizer",
        ) from error


def check_made_by(manifest: Manifest, source: str) -> None:
    """Refuse a model whose tokenizer is not the one that made the tokens of prepared data.

    Raises:
        DataError: it is another one, or cannot be loaded.
    """
    tokenizer = tokenizer_of(source)
    if not tokenizer.is_of(manifest.tokenizer.fingerprint):
        raise DataError(
            f"{manifest.place!r}: the data was tokenised by {manifest.tokenizer.name!r} "
            f"(fingerprint {manifest.tokenizer.fingerprint[:12]}), the model's tokenizer {source!r} is another one "
            f"({tokenizer.fingerprint[:12]}): its token ids mean other texts. "
            f"Run `shear-lit prepare --tokenizer {source}`, or choose data made for this model.",
            key=DATA,
        )


def is_same(record: TokenizerRecord, fingerprint: str) -> bool:
    """Whether a fingerprint is of the tokenizer that a manifest names; an earlier version may have written one.

    The tokenizer is read where it lies on this machine only: the hub is not asked, which takes a minute offline.
    """
    if fingerprint == record.fingerprint:
        return True
    if not expanded(record.name).exists():
        return False
    try:
        tokenizer = load_tokenizer(record.name)
    except DataError:  # it is not there any more, and nothing tells
        return False
    return tokenizer.is_of(fingerprint) and tokenizer.is_of(record.fingerprint)


def tokenizer_of(source: str) -> TextTokenizer:
    """The tokenizer beside a model, in a local directory or on the hub.

    Raises:
        DataError: there is none that can be loaded.
    """
    try:
        return load_tokenizer(source)
    except DataError as error:
        raise no_tokenizer(source, error if error.__cause__ is None else error.__cause__) from error


def no_tokenizer(source: str, cause: BaseException) -> DataError:
    """The error that says why there is no tokenizer beside a model."""
    return DataError(
        f"{source!r} has no tokenizer that can be loaded ({one_line(cause)}), so that nothing tells whether the "
        f"data suits the model. Copy the model's tokenizer files into its directory.",
        key="model.source",
    )


def check_files(path: Path) -> None:
    """Refuse files that would be waited at for ever, fill the memory, or lie elsewhere, before a library opens them.

    Raises:
        OSError: one of them is such a file.
    """
    for file in [path, *(path / name for name in _FILES)]:
        if file != path and file.is_symlink() and is_elsewhere(file, path):
            raise OSError(f"{str(file)!r} is a link that leads out of the directory")
        if file.exists() and not file.is_dir() and (not file.is_file() or file.stat().st_size > _MOST_BYTES):
            raise OSError(f"{str(file)!r} is no file of at most {_MOST_BYTES:,} bytes")


def _from_files(name: str, path: Path) -> TextTokenizer:
    if path.suffix == ".model" and path.is_file():
        return _of_sentencepiece(name, path)
    directory = path if path.exists() else _from_hub(name)
    if directory is not None and (directory / FILE).is_file():
        return _of_file(name, directory)
    if directory is not None and (directory / MODEL).is_file():
        return _of_sentencepiece(name, directory / MODEL)
    from shear_lit.data.tokens.conversions import from_transformers

    return from_transformers(name)


def _of_sentencepiece(name: str, file: Path) -> TextTokenizer:
    from shear_lit.data.tokens.conversions import from_sentencepiece

    backend, special = from_sentencepiece(file)
    ids = {role: backend.token_to_id(token) for role, token in special.items()}
    return TextTokenizer(name=name, backend=backend, bos_id=ids.get("bos_token"), eos_id=ids.get("eos_token"))


def _of_file(name: str, directory: Path) -> TextTokenizer:
    """The tokenizer of ``tokenizer.json``, with the special tokens that the files beside it name, or their class."""
    backend = Tokenizer.from_file(str(directory / FILE))
    backend.no_truncation()
    backend.no_padding()
    settings: dict[str, Any] = {}
    for file in reversed(_SETTINGS):
        if (directory / file).is_file():
            content = read_json(directory / file)
            settings |= content if isinstance(content, dict) else {}
    _add_missing(backend, settings.get("added_tokens_decoder"))
    special = {role: _text_of(settings.get(role)) for role in _ROLES}
    if not all(role in settings for role in _ROLES):
        from shear_lit.data.tokens.conversions import special_tokens_of_class

        special = special_tokens_of_class(name)
    missing = [
        token for token in special.values() if token is not None and backend.token_to_id(token) is None
    ]
    backend.add_special_tokens([AddedToken(token, special=True, normalized=False) for token in missing])
    ids = {role: None if token is None else backend.token_to_id(token) for role, token in special.items()}
    return TextTokenizer(
        name=name,
        backend=backend,
        bos_id=ids["bos_token"],
        eos_id=ids["eos_token"],
        split_special_tokens=bool(settings.get("split_special_tokens", False)),
    )


def _add_missing(backend: Tokenizer, more: Any) -> None:
    """Add the tokens that ``tokenizer_config.json`` has and ``tokenizer.json`` has not, which get the ids that it says.

    Raises:
        ValueError: they would get others.
    """
    named = {int(key): value for key, value in more.items()} if isinstance(more, Mapping) else {}
    for number, entry in sorted(named.items()):
        token = _text_of(entry)
        if token is None or backend.token_to_id(token) is not None:
            continue
        properties = {key: bool(entry.get(key, False)) for key in _PROPERTIES}
        backend.add_tokens([AddedToken(token, **properties)])
        if backend.token_to_id(token) != number:
            raise ValueError(
                f"added_tokens_decoder gives {token!r} the id {number}, which {FILE} cannot give it"
            )


def _text_of(token: Any) -> str | None:
    """A special token, which files write as text or with its properties."""
    found = token.get("content") if isinstance(token, Mapping) else token
    return found if isinstance(found, str) else None


def _from_hub(name: str) -> Path | None:
    """The directory in the hub's cache with the files of a tokenizer; None where the hub has no ``tokenizer.json``."""
    from huggingface_hub import hf_hub_download
    from huggingface_hub.errors import EntryNotFoundError, HFValidationError

    repository, revision = split_revision(name)
    try:
        file = Path(hf_hub_download(repository, FILE, revision=revision))
    except (EntryNotFoundError, HFValidationError):  # the second: it is no name of a repository
        return None
    for other in _SETTINGS:
        try:
            hf_hub_download(repository, other, revision=revision)
        except EntryNotFoundError:
            continue
    check_files(file.parent)
    return file.parent
