"""SentencePiece models as tokenizers of the tokenizers library, which give the same tokens."""

from pathlib import Path
from typing import Any

from tokenizers import AddedToken, Regex, Tokenizer, decoders, normalizers
from tokenizers.models import BPE, Unigram

from shear_lit.data.errors import DataError

_SPACE = "\u2581"  # what SentencePiece writes for a space
_PROBES = (
    "The quick brown fox, 3.14 times.",
    "  two  spaces\tand a tab\n\n    indented = {x: [1, 2]}\n",
    "Zwölf Boxkämpfer jagen Виктора 快速的棕色狐狸 🦊",
)


def from_sentencepiece(path: Path) -> tuple[Tokenizer, dict[str, str]]:
    """Convert a SentencePiece model, and hold the result against SentencePiece itself.

    transformers 5 converts one too, but orders the merges of a BPE model by length instead of by score: runs of spaces
    then become other tokens than those that the model was trained on.

    Returns:
        The tokenizer, and its special tokens by name (``bos_token``, ``eos_token``, ``unk_token``).

    Raises:
        DataError: the file is no such model, or the result gives other tokens.
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
    tokenizer, special = _converted(model), _special_tokens(processor)
    tokenizer.add_special_tokens(
        [AddedToken(token, special=True, normalized=False) for token in special.values()]
    )
    for probe in _PROBES:
        if tokenizer.encode(probe, add_special_tokens=False).ids != processor.encode(probe):
            raise DataError(
                f"{str(path)!r}: converted to a fast tokenizer, it gives other tokens than SentencePiece "
                f"(of {probe!r}). Name the Hugging Face directory of its model instead.",
                key="tokenizer",
            )
    return tokenizer, special


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
