"""Which near duplicates does MinHash through datatrove find? One JSON line.

Documents are windows of words of Python's own library. Of some of them a second one is planted, in which words are
replaced until the exact Jaccard similarity of their runs of words is at most 0.9, 0.8, 0.7, 0.6 or 0.5. For each of
these the share of pairs that is found stands beside 1 - (1 - s^hashes)^buckets, the mean over the pairs' own
similarities. Precision: of the documents that were dropped, those with an exact similarity of at least ``--least`` to
another document of all; recall: of the planted pairs of at least ``--threshold``, those that are found.

``python -m benchmarks.near_duplicates --documents 3000 --pairs 300 --work /tmp/near``
"""

import argparse
import json
import random
import shutil
import struct
import tempfile
import time
from collections import defaultdict
from pathlib import Path

from benchmarks.prepare import library_texts
from datatrove.pipeline.readers import JsonlReader
from datatrove.pipeline.writers import JsonlWriter
from datatrove.utils.text import TextNormConfig, simplify_text
from datatrove.utils.word_tokenizers import load_word_tokenizer

from shear_lit.data.preparing.near_duplicates import NearDuplicates

SIMILARITIES = (0.9, 0.8, 0.7, 0.6, 0.5)
WORDS, TASKS = 200, 4


class Shingles:
    """The runs of words of a text, normalised as datatrove does."""

    def __init__(self, settings):
        self.length, self.config = settings.words, TextNormConfig()
        self.split = (
            str.split if settings.split == "white space" else load_word_tokenizer("eng").word_tokenize
        )

    def of(self, text):
        words = self.split(simplify_text(text, self.config))
        return frozenset(tuple(words[at : at + self.length]) for at in range(len(words) - self.length + 1))


def jaccard(one, two):
    return len(one & two) / max(1, len(one | two))


def edited(text, similarity, numbers, shingles):
    """A copy in which words are replaced until it is no more alike than ``similarity``."""
    words, own = text.split(), shingles.of(text)
    for place in numbers.sample(range(len(words)), len(words)):
        words[place] = "x" + "".join(numbers.choices("qzjkvw", k=8))
        copy = " ".join(words)
        if jaccard(own, shingles.of(copy)) <= similarity:
            return copy
    raise AssertionError("every word was replaced")


def windows(count, numbers):
    words = [word for text in library_texts() for word in text.split()]
    starts = numbers.sample(range(len(words) // WORDS), count)
    return [" ".join(words[start * WORDS : (start + 1) * WORDS]) for start in starts]


def write(folder, documents):
    """Documents into one file for each task, shuffled, and their places: (file, number in it)."""
    folder.mkdir(parents=True)
    files = [(folder / f"{task}.jsonl").open("w", encoding="utf-8") for task in range(TASKS)]
    counts, places = [0] * TASKS, []
    for number, (domain, text) in enumerate(documents):
        task = number % TASKS
        files[task].write(
            json.dumps({"text": text, "id": str(number), "metadata": {"domain": domain}}) + "\n"
        )
        places.append((task, counts[task]))
        counts[task] += 1
    for file in files:
        file.close()
    return places


def clusters(folder, places):
    """The cluster of each document, by what the second stage found."""
    parent = {place: place for place in places}

    def root(place):
        while parent[place] != place:
            parent[place] = place = parent[parent[place]]
        return place

    for path in Path(folder).glob("*.dups"):
        for a, b, c, d in struct.iter_unpack("<4I", path.read_bytes()):
            parent[root((a, b))] = root((c, d))
    return {place: root(place) for place in places}


def most_alike(number, sets, having):
    """The largest exact similarity of a document to any other."""
    others = {other for shingle in sets[number] for other in having[shingle]} - {number}
    return max((jaccard(sets[number], sets[other]) for other in others), default=0.0)


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--documents", type=int, default=3000)
    parser.add_argument("--pairs", type=int, default=300, help="of each similarity")
    parser.add_argument("--threshold", type=float, default=0.8)
    parser.add_argument("--least", type=float, default=0.5)
    parser.add_argument("--split", default="white space")
    parser.add_argument("--work", default="")
    options = parser.parse_args()
    work = Path(options.work or tempfile.mkdtemp())
    shutil.rmtree(work, ignore_errors=True)
    settings = NearDuplicates(work=str(work / "work"), tasks=TASKS, split=options.split)
    shingles, numbers = Shingles(settings), random.Random(0)
    texts = windows(options.documents, numbers)
    planted = []
    documents = [("library", text) for text in texts]
    sources = iter(numbers.sample(range(len(texts)), options.pairs * len(SIMILARITIES)))
    for similarity in SIMILARITIES:
        for _ in range(options.pairs):
            source = next(sources)
            planted.append((similarity, source, len(documents)))
            documents.append(("planted", edited(texts[source], similarity, numbers, shingles)))
    order = numbers.sample(range(len(documents)), len(documents))
    places = dict(zip(order, write(work / "text", [documents[number] for number in order]), strict=True))
    start = time.perf_counter()
    reader = JsonlReader(str(work / "text"))
    settings.stages(reader, [JsonlWriter(str(work / "left"), compression=None)])[-1].run()
    seconds = time.perf_counter() - start

    found = clusters(work / "work" / "pairs", places.values())
    sets = [shingles.of(text) for _, text in documents]
    rows, recalled, wanted = [], 0, 0
    for similarity in SIMILARITIES:
        own = [
            (jaccard(sets[a], sets[b]), found[places[a]] == found[places[b]])
            for s, a, b in planted
            if s == similarity
        ]
        row = {
            "asked": similarity,
            "similarity": round(sum(s for s, _ in own) / len(own), 3),
            "found": round(sum(hit for _, hit in own) / len(own), 3),
            "predicted": round(sum(settings.probability(s) for s, _ in own) / len(own), 3),
        }
        rows.append(row)
    above = [(a, b) for _, a, b in planted if jaccard(sets[a], sets[b]) >= options.threshold]
    wanted, recalled = len(above), sum(found[places[a]] == found[places[b]] for a, b in above)
    having = defaultdict(list)
    for number, own in enumerate(sets):
        for shingle in own:
            having[shingle].append(number)
    left = {
        json.loads(line)["id"] for path in (work / "left").glob("*") for line in path.open(encoding="utf-8")
    }
    # The id that was written is the place in the shuffled order.
    dropped = [order[number] for number in range(len(order)) if str(number) not in left]
    alike = [most_alike(number, sets, having) for number in dropped]
    result = {
        "documents": len(documents),
        "split": options.split,
        "rows": rows,
        "recall": round(recalled / max(1, wanted), 4),
        "threshold": options.threshold,
        "dropped": len(dropped),
        "precision": round(sum(one >= options.least for one in alike) / max(1, len(alike)), 4),
        "least": options.least,
        "least_similar_dropped": round(min(alike, default=1.0), 3),
        "by_domain": settings.dropped(),
        "seconds": round(seconds, 1),
    }
    assert sum(settings.dropped().values()) == len(dropped)
    print(json.dumps(result))


if __name__ == "__main__":
    main()
