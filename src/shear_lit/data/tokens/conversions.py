"""Tokenizers as other libraries read them: SentencePiece's models, and what transformers makes of a directory.

Both packages are imported when they are needed: reading a ``tokenizer.json`` needs neither.
"""

import hashlib
import json
import re
from pathlib import Path
from typing import Any

from tokenizers import AddedToken, Regex, Tokenizer, decoders, normalizers, pre_tokenizers
from tokenizers.models import BPE, Unigram

from shear_lit.data.errors import DataError
from shear_lit.data.tokens.encoder import names_as_text
from shear_lit.data.tokens.tokenizer import PROBE, TextTokenizer, check_files, no_tokenizer
from shear_lit.disk.names import expanded, split_revision

_SPACE = "\u2581"  # what SentencePiece writes for a space
_PROBES = (*PROBE, "\n".join(PROBE), "a</s>b <s>", "<0x41>", "a" * 40, " ", "", "  ends in spaces  ")


def from_sentencepiece(path: Path) -> tuple[Tokenizer, dict[str, str]]:
    """Convert a SentencePiece model, and hold the result against SentencePiece itself.

    transformers 5 converts one too, but orders the merges of a BPE model by length instead of by score: runs of spaces
    then become other tokens than those that the model was trained on. SentencePiece adds up a Unigram model's scores in
    32 bits from the beginning of a text: of two ways to cut a word whose sums are nearly equal (``....``), rounding
    chooses one there. Here the larger sum counts, in 64 bits, so that a few documents in a thousand differ.

    Returns:
        The tokenizer, and its special tokens by name (``bos_token``, ``eos_token``, ``unk_token``).

    Raises:
        DataError: the file is no such model, or one that cannot be converted exactly.
    """
    processor, model = _read(path)
    if reason := _inexact(model):
        raise _no_conversion(path, f"it {reason}, which no fast tokenizer does as SentencePiece does")
    tokenizer, special = _converted(model), _special_tokens(processor)
    named = [*special.values(), *(_control(model) if _is_unigram(model) else [])]
    tokenizer.add_special_tokens([AddedToken(token, special=True, normalized=False) for token in named])
    as_text = names_as_text(tokenizer)
    for probe in _PROBES:
        if as_text.encode(probe, add_special_tokens=False).ids != processor.encode(probe):
            raise _no_conversion(
                path,
                f"converted to a fast tokenizer, it gives other tokens than SentencePiece (of {probe!r})",
            )
    return tokenizer, special


def _read(path: Path) -> tuple[Any, Any]:
    """What SentencePiece makes of a file, and what the file says."""
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
    return processor, model


def _no_conversion(path: Path, reason: str) -> DataError:
    return DataError(
        f"{str(path)!r}: {reason}. Name the Hugging Face directory of its model, with a tokenizer.json, instead.",
        key="tokenizer",
    )


def _is_unigram(model: Any) -> bool:
    return bool(model.trainer_spec.model_type == model.trainer_spec.UNIGRAM)


def _of_kind(model: Any, *names: str) -> list[str]:
    kinds = {getattr(model.SentencePiece, name) for name in names}
    return [piece.piece for piece in model.pieces if piece.type in kinds]


def _control(model: Any) -> list[str]:
    return _of_kind(model, "CONTROL")


def _inexact(model: Any) -> str:
    """What a model does that the tokenizers library has no exact counterpart of; empty where there is nothing."""
    trainer, pieces = model.trainer_spec, _of_kind(model, "CONTROL", "UNKNOWN")
    found = {
        "is neither a BPE nor a Unigram model": trainer.model_type not in (trainer.BPE, trainer.UNIGRAM),
        "has user-defined symbols": bool(_of_kind(model, "USER_DEFINED")),
        "has unused pieces": bool(_of_kind(model, "UNUSED")),
        "has control symbols of one character": any(len(piece) == 1 for piece in pieces),
        "writes a space behind each word (treat_whitespace_as_suffix)": trainer.treat_whitespace_as_suffix,
        "keeps spaces as they are (escape_whitespaces=false)": not model.normalizer_spec.escape_whitespaces,
        # The library's counterpart drops a mark behind a letter that a rule changes, and sees few rules for two.
        "changes characters before it cuts (normalization_rule_name other than identity)": bool(
            model.normalizer_spec.precompiled_charsmap
        ),
        "is a Unigram model with byte_fallback": _is_unigram(model) and trainer.byte_fallback,
    }
    return next((reason for reason, is_so in found.items() if is_so), "")


def _converted(model: Any) -> Tokenizer:
    """The model of a SentencePiece file as a fast tokenizer."""
    pieces, trainer = [(piece.piece, piece.score) for piece in model.pieces], model.trainer_spec
    unknown, fallback = trainer.unk_id, trainer.byte_fallback
    if _is_unigram(model):
        tokenizer = Tokenizer(Unigram(pieces, unk_id=unknown, byte_fallback=fallback))
        if _SPACE in dict(pieces) and not any(
            re.search(f"[^{_SPACE}]{_SPACE}", piece) for piece, _ in pieces
        ):
            # No piece reaches from one word to the next: word by word, sums do not depend on what is before.
            tokenizer.pre_tokenizer = pre_tokenizers.Split(Regex(f"{_SPACE}+[^{_SPACE}]*"), "isolated")
    else:
        ids = {piece: index for index, (piece, _) in enumerate(pieces)}
        normal = set(_of_kind(model, "NORMAL"))  # SentencePiece joins no others
        merges = _merges(ids, [entry for entry in pieces if entry[0] in normal])
        unknown_piece = pieces[unknown][0]
        tokenizer = Tokenizer(
            BPE(ids, merges, unk_token=unknown_piece, fuse_unk=True, byte_fallback=fallback)
        )
    tokenizer.normalizer = normalizers.Sequence(_normalizers(model.normalizer_spec))
    strip = [decoders.Strip(" ", 1, 0)] if model.normalizer_spec.add_dummy_prefix else []
    tokenizer.decoder = decoders.Sequence(
        [decoders.Replace(_SPACE, " "), decoders.ByteFallback(), decoders.Fuse(), *strip]
    )
    return tokenizer


def _normalizers(spec: Any) -> list[Any]:
    """SentencePiece strips and joins spaces only, not tabs or ends of lines, and a sign for a space at the end."""
    found: list[Any] = []
    if spec.remove_extra_whitespaces:
        found += [normalizers.Replace(Regex(r"\A +"), ""), normalizers.Replace(Regex(" {2,}"), " ")]
        # The look behind keeps the search linear in a run of signs that does not end the text.
        found.append(normalizers.Replace(Regex(f"(?<![ {_SPACE}])[ {_SPACE}]+\\z"), ""))
    if spec.add_dummy_prefix:
        found.append(normalizers.Prepend(_SPACE))
    return [*found, normalizers.Replace(" ", _SPACE)]


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


def in_transformers(name: str) -> Any:
    """What transformers reads in a directory, or by a name of the hub.

    Code that comes with it is neither run nor asked about.
    """
    from transformers import AutoTokenizer

    repository, revision = split_revision(str(expanded(name)))
    at = {} if revision is None else {"revision": revision}
    return AutoTokenizer.from_pretrained(repository, trust_remote_code=False, **at)


def beside(source: str) -> Any:
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
    from transformers import PreTrainedTokenizerFast

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
