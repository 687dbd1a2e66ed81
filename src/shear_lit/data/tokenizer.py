"""The tokenizer of a data set: any fast one of Hugging Face, or a SentencePiece model, and what identifies it."""

import hashlib
import json
from pathlib import Path
from typing import Any

from transformers import AutoTokenizer, LlamaTokenizer, PreTrainedTokenizerBase, PreTrainedTokenizerFast

from shear_lit.data.errors import DataError
from shear_lit.data.manifest import TokenizerRecord

_PROBES = (
    "The quick brown fox, 3.14 times.",
    "  two  spaces\tand a tab\n\n    indented = {x: [1, 2]}\n",
    "Zwölf Boxkämpfer jagen Виктора 快速的棕色狐狸 🦊",
)


def load_tokenizer(name: str) -> PreTrainedTokenizerBase:
    """Load the tokenizer ``name``: a directory, a name on the hub, or a SentencePiece ``.model`` file.

    Raises:
        DataError: there is none, or none that is fast.
    """
    path = Path(name).expanduser()
    try:
        is_model = path.suffix == ".model" and path.is_file()
        tokenizer = _from_sentencepiece(path) if is_model else AutoTokenizer.from_pretrained(path)
    except (OSError, ValueError, KeyError) as error:
        if isinstance(error, DataError):
            raise
        raise DataError(
            f"tokenizer={name!r} cannot be loaded ({error}): a Hugging Face directory or name, or a SentencePiece "
            "`.model` file is expected. Correct it."
        ) from error
    if not tokenizer.is_fast:
        raise DataError(
            f"tokenizer={name!r} has no fast version, which is needed here. Convert it to tokenizer.json."
        )
    return tokenizer


def tokenizer_record(name: str, tokenizer: PreTrainedTokenizerBase) -> TokenizerRecord:
    """What a manifest says of the tokenizer that was loaded as ``name``."""
    return TokenizerRecord(
        name=name,
        fingerprint=tokenizer_fingerprint(tokenizer),
        vocabulary=max(tokenizer.get_vocab().values()) + 1,
        bos_id=tokenizer.bos_token_id,
        eos_id=tokenizer.eos_token_id,
    )


def tokenizer_fingerprint(tokenizer: PreTrainedTokenizerBase) -> str:
    """SHA-256 of a tokenizer's serialised form: the same for the same tokenizer wherever it lies.

    Truncation and padding are left out: they are settings of the last call.
    """
    backend = getattr(tokenizer, "backend_tokenizer", None)
    content = json.loads(backend.to_str()) if backend is not None else {"vocab": tokenizer.get_vocab()}
    for transient in ("truncation", "padding"):
        content.pop(transient, None)
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def tokenizer_fingerprint_of(source: str) -> str:
    """The fingerprint of the tokenizer beside a model, in a local directory or on the hub.

    Raises:
        DataError: there is none that can be loaded.
    """
    try:
        return tokenizer_fingerprint(AutoTokenizer.from_pretrained(Path(source).expanduser()))
    except (OSError, ValueError, KeyError) as error:
        raise DataError(
            f"model.source={source!r} has no tokenizer that can be loaded ({error}), so that nothing tells whether the "
            f"data suits the model. Copy the model's tokenizer files into its directory."
        ) from error


def _from_sentencepiece(path: Path) -> PreTrainedTokenizerBase:
    """Convert a SentencePiece model, and hold the result against SentencePiece itself."""
    try:
        from sentencepiece import SentencePieceProcessor  # wanted for this kind of tokenizer alone
    except ModuleNotFoundError as error:
        raise DataError(
            f"tokenizer={str(path)!r} is read with the package 'sentencepiece', which is not installed. "
            "Install it with `pip install 'shear-lit[corpus]'`."
        ) from error
    try:
        processor = SentencePieceProcessor(model_file=str(path))
    except RuntimeError as error:
        raise DataError(
            f"tokenizer={str(path)!r} is no SentencePiece model ({error}). Correct the path."
        ) from error
    wanted = [processor.encode(probe) for probe in _PROBES]
    for family in (LlamaTokenizer, PreTrainedTokenizerFast):
        tokenizer: Any = family(**family.convert_to_native_format(vocab_file=str(path)))
        if [tokenizer(probe, add_special_tokens=False)["input_ids"] for probe in _PROBES] == wanted:
            return tokenizer
    raise DataError(
        f"tokenizer={str(path)!r}: converted to a fast tokenizer, it gives other tokens than SentencePiece. "
        "Name the Hugging Face directory of its model instead."
    )
