"""A small corpus of every kind of input that is cut and joined in its own way, and runs on it in parts."""

import gzip
import json
import random
from dataclasses import replace
from itertools import count

from shear_lit.data.preparing.plan import PartNumber
from shear_lit.data.preparing.prepare import prepare_stage

UNIT = 1500
ORDER = random.Random(0)


def texts(number, seed=0):
    """Documents of random words, of which some come again."""
    numbers = random.Random(seed)
    words = ["".join(numbers.choices("abcdefgh", k=numbers.randint(1, 7))) for _ in range(300)]
    found = []
    for _ in range(number):
        again = found and numbers.random() < 0.1
        found.append(
            numbers.choice(found) if again else " ".join(numbers.choices(words, k=numbers.randint(3, 60)))
        )
    return found


def lines_of(documents):
    return "".join(json.dumps({"text": text}) + "\n" for text in documents)


def write_corpus(folder, documents=120):
    """The domains: lines that are cut into ranges, a compressed file, an array, and texts that go together."""
    folder.mkdir(exist_ok=True)
    (folder / "large.jsonl").write_text(lines_of(texts(documents, 0)) + "{broken\n\n")
    (folder / "packed.jsonl.gz").write_bytes(
        gzip.compress(lines_of(texts(documents // 2, 1)).encode(), mtime=0)
    )
    (folder / "array.json").write_text("[" + ",".join(lines_of(texts(documents // 3, 2)).splitlines()) + "]")
    for number, text in enumerate(texts(documents // 3, 3)):
        (folder / f"text-{number:03}.txt").write_text(text)
    (folder / "text-empty.txt").write_text("")
    return {
        "web": [str(folder / "large.jsonl"), str(folder / "packed.jsonl.gz")],
        "books": [str(folder / "text-*.txt"), str(folder / "array.json")],
    }


def in_parts(options, parts, *, order=ORDER, packs=None):
    """All stages, one after the other, their parts in any order."""
    for stage, number in (("tokenise", parts), ("select", 0), ("pack", packs or parts), ("commit", 0)):
        numbers = [PartNumber(part, number) for part in range(1, number + 1)] or [None]
        order.shuffle(numbers)
        for part in numbers:
            manifest = prepare_stage(options, stage, part)
    return manifest


def outputs(options, folder):
    """The same settings, for one new output after another."""
    for number in count():
        yield replace(options, output=str(folder / f"out-{number}"))
