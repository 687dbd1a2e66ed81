"""Does decontamination find what was planted, and what does it cost? One JSON line.

Documents are the source files of Python's own library; questions are runs of words of other files of it. So many
documents get a question at a known place: whole, in capital letters, without its punctuation, half of it, or with one
word in the middle changed. Each way is counted by itself, as whole documents are found or not; a document without a
planted question that is found is held against all runs of words of the questions, by Python's sets: if it has one, it
is no mistake. Time: ``prepare`` with questions ÷ without, alternating in one process, one worker; with the count of
documents (text is read twice) and without.

``python -m benchmarks.decontamination --megabytes 8 --questions 20000``
"""

import argparse
import json
import random
import shutil
import statistics
import tempfile
import time
from pathlib import Path

from benchmarks.prepare import library_texts, train_tokenizer

from shear_lit.data.preparing.decontamination_settings import DecontaminationSettings
from shear_lit.data.preparing.prepare import prepare
from shear_lit.data.preparing.settings import PrepareSettings
from shear_lit.data.text.contamination.cutting import cleaned
from shear_lit.data.text.contamination.grams import Grams
from shear_lit.data.text.contamination.tasks import Task
from shear_lit.data.text.contamination.words import words_of


def changed(question):
    words = question.split()
    words[len(words) // 2] = "xqzjkvwq"
    return " ".join(words)


WAYS = {
    "whole": lambda question: question,
    "capitals": str.upper,
    "without punctuation": lambda question: " ".join(words_of(question)),
    "first half": lambda question: " ".join(question.split()[: len(question.split()) // 2]),
    "a word changed": changed,
}


def questions_of(texts, count, numbers):
    words = [word for text in texts for word in text.split()]
    starts = [numbers.randrange(len(words) - 100) for _ in range(count)]
    return [" ".join(words[start : start + numbers.randint(10, 60)]) for start in starts]


def grams_by_words(questions, length):
    lists = map(words_of, questions)
    return {tuple(words[at : at + length]) for words in lists for at in range(len(words) - length + 1)}


def has_any(text, known, length):
    words = words_of(text)
    return any(tuple(words[at : at + length]) in known for at in range(len(words) - length + 1))


def accuracy(documents, questions, each, numbers):
    task = Task("questions", tuple(questions))
    length = task.gram_words(8, 13)
    began = time.perf_counter()
    grams = Grams.of_tasks([task], [length])
    built = time.perf_counter() - began
    known = grams_by_words(questions, length)
    places = iter(numbers.sample(range(len(documents)), each * len(WAYS)))
    texts, ways = list(documents), {}
    for way, make in WAYS.items():
        for _ in range(each):
            number = next(places)
            cut = numbers.randrange(len(texts[number]))
            planted = make(numbers.choice(questions))
            texts[number] = f"{documents[number][:cut]}\n{planted}\n{documents[number][cut:]}"
            ways[number] = way, has_any(planted, known, length)
    found = {number for number, text in enumerate(texts) if cleaned(text, grams).collisions}
    true = {number for number, text in enumerate(texts) if has_any(text, known, length)}
    rows = {}
    for way in WAYS:
        own = [(number, able) for number, (one, able) in ways.items() if one == way]
        able = [number for number, able in own if able]
        rows[way] = {
            "planted": len(own),
            "with a gram": len(able),
            "found": sum(number in found for number in able),
        }
    return {
        "words of a gram": length,
        "grams": grams.count,
        "seconds to build": round(built, 2),
        "ways": rows,
        "recall": len(found & true) / len(true),
        "precision": len(found & true) / max(1, len(found)),
        "found": len(found),
        "not planted": len(found - set(ways)),
        "left with a gram": sum(
            has_any(piece, known, length)
            for number in found
            for piece in cleaned(texts[number], grams).pieces
        ),
    }


def cost(documents, questions, megabytes, repeats, work):
    text, asked = work / "text.jsonl", work / "questions.jsonl"
    size = number = 0
    with text.open("w") as file:
        while size < megabytes << 20:
            size += file.write(json.dumps({"text": f"{number}\n{documents[number % len(documents)]}"}) + "\n")
            number += 1
    asked.write_text("".join(json.dumps({"question": one}) + "\n" for one in questions))
    tokenizer = train_tokenizer(work / "tokenizer", documents[:300], 8000)
    without = DecontaminationSettings()
    ways = {
        "without": without,
        "once": DecontaminationSettings(files=[str(asked)], most_documents=0),
        "counted": DecontaminationSettings(files=[str(asked)]),
    }
    seconds = {way: list[float]() for way in ways}
    for _ in range(repeats):
        for way, settings in ways.items():
            output = work / "out"
            shutil.rmtree(output, ignore_errors=True)
            began = time.perf_counter()
            prepare(
                PrepareSettings(
                    domains={"a": str(text)},
                    tokenizer=str(tokenizer),
                    output=str(output),
                    sequence_length=512,
                    workers=1,
                    decontaminate=settings,
                )
            )
            seconds[way].append(time.perf_counter() - began)
    medians = {way: statistics.median(found) for way, found in seconds.items()}
    return {
        "megabytes": megabytes,
        "seconds": {way: [round(one, 2) for one in found] for way, found in seconds.items()},
        "once ÷ without": round(medians["once"] / medians["without"], 3),
        "counted ÷ without": round(medians["counted"] / medians["without"], 3),
    }


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--megabytes", type=int, default=8)
    parser.add_argument("--questions", type=int, default=20_000)
    parser.add_argument("--each", type=int, default=100, help="documents that get a question, in each way")
    parser.add_argument("--repeats", type=int, default=3)
    options = parser.parse_args()
    numbers = random.Random(0)
    texts = list(library_texts())
    numbers.shuffle(texts)
    half = len(texts) // 2
    documents = [text for text in texts[:half] if len(text) > 1000]
    questions = questions_of(texts[half:], options.questions, numbers)
    result = {"documents": len(documents), "questions": len(questions)}
    result |= accuracy(documents, questions, options.each, numbers)
    with tempfile.TemporaryDirectory() as work:
        result |= cost(documents, questions, options.megabytes, options.repeats, Path(work))
    print(json.dumps(result))


if __name__ == "__main__":
    main()
