"""The tokenizer of a data set: any fast one of Hugging Face, or a SentencePiece model, and what identifies it."""

import hashlib
import json
from pathlib import Path
from typing import Any

from tokenizers import Regex, Tokenizer, decoders, normalizers
from tokenizers.models import BPE, Unigram
from transformers import AutoTokenizer, PreTrainedTokenizerBase, PreTrainedTokenizerFast

from shear_lit.data.errors import DataError
from shear_lit.data.manifest import TokenizerRecord
from shear_lit.data.records import one_line
from shear_lit.disk.names import expanded, is_elsewhere, split_revision

_SPACE = "\u2581"  # what SentencePiece writes for a space
_MOST_BYTES = 1 << 28  # the largest of any known model has an eighth of that
_FILES = (
    "tokenizer.json",
    "tokenizer.model",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "chat_template.jinja",
    "config.json",
    "merges.txt",
    "vocab.json",
    "vocab.txt",
)
_PROBES = (
    "The quick brown fox, 3.14 times.",
    "  two  spaces\tand a tab\n\n    indented = {x: [1, 2]}\n",
    "Zwölf Boxkämpfer jagen Виктора 快速的棕色狐狸 🦊",
)


def load_tokenizer(name: str) -> PreTrainedTokenizerBase:
    """Load the tokenizer ``name``: a directory, a hub name (or name@revision), or a SentencePiece ``.model`` file.

    Raises:
        DataError: there is none, or none that is fast.
    """
    path = expanded(name)
    try:
        _check_files(path)
        is_model = path.suffix == ".model" and path.is_file()
        tokenizer = _from_sentencepiece(path) if is_model else _from_directory(path)
    except DataError:
        raise
    except Exception as error:  # each library that reads one has errors of its own
        raise DataError(
            f"{name!r} cannot be loaded ({one_line(error)}): a Hugging Face directory or name, or a SentencePiece "
            "`.model` file is expected. Correct it.",
            key="tokenizer",
        ) from error
    if not tokenizer.is_fast:
        raise DataError(
            f"{name!r} has no fast version, which is needed here. Convert it to tokenizer.json.",
            key="tokenizer",
        )
    return tokenizer


def tokenizer_record(name: str, tokenizer: PreTrainedTokenizerBase) -> TokenizerRecord:
    """What a manifest says of the tokenizer that was loaded as ``name``."""
    return TokenizerRecord(
        name=name,
        fingerprint=tokenizer_fingerprint(tokenizer),
        vocabulary=max(tokenizer.get_vocab().values(), default=-1) + 1,
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
    return tokenizer_fingerprint(tokenizer_of(source))


def tokenizer_of(source: str) -> PreTrainedTokenizerBase:
    """The tokenizer beside a model, in a local directory or on the hub.

    Raises:
        DataError: there is none that can be loaded.
    """
    try:
        _check_files(expanded(source))
        return _from_directory(expanded(source))
    except Exception as error:  # as above
        raise DataError(
            f"{source!r} has no tokenizer that can be loaded ({one_line(error)}), so that nothing tells whether the "
            f"data suits the model. Copy the model's tokenizer files into its directory.",
            key="model.source",
        ) from error


def _check_files(path: Path) -> None:
    """Refuse files that would be waited at for ever, fill the memory, or lie elsewhere, before a library opens them."""
    for file in [path, *(path / name for name in _FILES)]:
        if file != path and file.is_symlink() and is_elsewhere(file, path):
            raise OSError(f"{str(file)!r} is a link that leads out of the directory")
        if file.exists() and not file.is_dir() and (not file.is_file() or file.stat().st_size > _MOST_BYTES):
            raise OSError(f"{str(file)!r} is no file of at most {_MOST_BYTES:,} bytes")


def _from_directory(path: Path) -> PreTrainedTokenizerBase:
    """The tokenizer in a directory, or of a name on the hub; code that comes with it is never run, nor asked about."""
    name, revision = split_revision(str(path))
    at = {} if revision is None else {"revision": revision}
    tokenizer: PreTrainedTokenizerBase = AutoTokenizer.from_pretrained(name, trust_remote_code=False, **at)
    return tokenizer


def _from_sentencepiece(path: Path) -> PreTrainedTokenizerBase:
    """Convert a SentencePiece model, and hold the result against SentencePiece itself.

    transformers 5 converts one too, but orders the merges of a BPE model by length instead of by score: runs of spaces
    then become other tokens than those that the model was trained on.
    """
    try:
        from sentencepiece import SentencePieceProcessor, sentencepiece_model_pb2
    except ModuleNotFoundError as error:
        raise DataError(
            f"{str(path)!r} is read with the package {error.name!r}, which is not installed. "
            "Install it with `pip install 'shear-lit[corpus]'`.",
            key="tokenizer",
        ) from error
    try:
        processor = SentencePieceProcessor(model_file=str(path))
    except RuntimeError as error:
        raise DataError(
            f"{str(path)!r} is no SentencePiece model ({error}). Correct the path.", key="tokenizer"
        ) from error
    # The module makes its classes when it is imported: no type checker sees them.
    model = vars(sentencepiece_model_pb2)["ModelProto"].FromString(processor.serialized_model_proto())
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=_converted(model), **_special_tokens(processor))
    for probe in _PROBES:
        if tokenizer(probe, add_special_tokens=False)["input_ids"] != processor.encode(probe):
            raise DataError(
                f"{str(path)!r}: converted to a fast tokenizer, it gives other tokens than SentencePiece "
                f"(of {probe!r}). Name the Hugging Face directory of its model instead.",
                key="tokenizer",
            )
    return tokenizer


def _converted(model: Any) -> Tokenizer:
    """The model of a SentencePiece file as a fast tokenizer."""
    pieces, unknown = [(piece.piece, piece.score) for piece in model.pieces], model.trainer_spec.unk_id
    fallback = model.trainer_spec.byte_fallback
    if model.trainer_spec.model_type == model.trainer_spec.UNIGRAM:
        tokenizer = Tokenizer(Unigram(pieces, unk_id=unknown, byte_fallback=fallback))
    else:
        ids = {piece: index for index, (piece, _) in enumerate(pieces)}
        tokenizer = Tokenizer(
            BPE(
                ids, _merges(ids, pieces), unk_token=pieces[unknown][0], fuse_unk=True, byte_fallback=fallback
            )
        )
    spec = model.normalizer_spec
    steps: list[Any] = (
        [normalizers.Precompiled(spec.precompiled_charsmap)] if spec.precompiled_charsmap else []
    )
    if spec.remove_extra_whitespaces:
        steps += [normalizers.Strip(), normalizers.Replace(Regex(" {2,}"), " ")]
    if spec.add_dummy_prefix:
        steps.append(normalizers.Prepend(_SPACE))
    tokenizer.normalizer = normalizers.Sequence([*steps, normalizers.Replace(" ", _SPACE)])
    strip = [decoders.Strip(" ", 1, 0)] if spec.add_dummy_prefix else []
    tokenizer.decoder = decoders.Sequence(
        [decoders.Replace(_SPACE, " "), decoders.ByteFallback(), decoders.Fuse(), *strip]
    )
    return tokenizer


def _merges(ids: dict[str, int], pieces: list[tuple[str, float]]) -> list[tuple[str, str]]:
    """All ways to join two pieces into a third, the third of the highest score first, as SentencePiece joins them."""
    found = []
    for piece, score in pieces:
        halves = [(piece[:cut], piece[cut:]) for cut in range(1, len(piece))]
        own = [(left, right) for left, right in halves if left in ids and right in ids]
        found += [(-score, ids[left], ids[right], left, right) for left, right in own]
    return [(left, right) for *_, left, right in sorted(found)]


def _special_tokens(processor: Any) -> dict[str, str]:
    ids = {"bos_token": processor.bos_id(), "eos_token": processor.eos_id(), "unk_token": processor.unk_id()}
    return {name: processor.id_to_piece(index) for name, index in ids.items() if index >= 0}
