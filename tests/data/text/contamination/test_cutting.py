"""GPT-3's rule on single documents: what is a gram, what is cut out, and what is left."""

import random

import numpy as np
import pytest

from shear_lit.data.errors import DataError
from shear_lit.data.text.contamination.cutting import cleaned
from shear_lit.data.text.contamination.grams import Grams
from shear_lit.data.text.contamination.tasks import Task, tasks_of_files
from shear_lit.data.text.contamination.words import places_of, words_of

QUESTION = "Which of the seven old bridges over the river was built before the great flood of 1342?"
OTHER = "Name the author who wrote about a whale, a ship and a captain with one leg in a long book."


def filler(characters, seed=0):
    """So many characters of words that no question has."""
    numbers, words = random.Random(seed), list[str]()
    while sum(map(len, words)) + len(words) < characters:
        words.append("x" + "".join(numbers.choices("qzjkvw", k=7)))
    return " ".join(words)[:characters]


def grams_of(*examples, length=13):
    return Grams.of_tasks([Task("task", examples)], [length])


def test_words_are_in_lower_case_between_spaces_and_without_punctuation():
    text = "Don't  STOP—me\tnow:\n -- the well-known_x É, naïve ΣΑΣ 中文 (2 + 2) ."
    assert words_of(text) == [
        "dont",
        "stopme",
        "now",
        "the",
        "wellknownx",
        "é",
        "naïve",
        "σας",
        "中文",
        "2",
        "2",
    ]
    assert len(places_of(text)) == len(words_of(text))
    assert [text[p.start : p.end] for p in places_of(text)][:2] == ["Don't", "STOP—me"]


def test_a_gram_is_cut_out_with_200_characters_on_each_side():
    before, after = filler(1000), filler(1000, seed=1)
    words = " ".join(QUESTION.split()[2:15])
    found = cleaned(f"{before} {words.upper()} {after}", grams_of(QUESTION))
    assert found.pieces == [(before + " ")[:-200], (" " + after)[200:]]
    assert len(found.collisions) == 1 and found.shown == words.upper() and not found.too_dirty


def test_a_gram_that_lacks_a_word_is_none():
    words = QUESTION.split()[2:14]
    text = f"{filler(1000)} {' '.join(words)} {filler(1000, seed=1)}"
    assert cleaned(text, grams_of(QUESTION)).pieces == [text]
    assert cleaned(text, grams_of(QUESTION, length=12)).pieces != [text]


def test_pieces_of_less_than_200_characters_are_dropped():
    grams = grams_of(QUESTION)
    for size, pieces in ((398, 0), (399, 1)):
        assert len(cleaned(f"{filler(size)} {QUESTION}", grams).pieces) == pieces


def test_windows_that_overlap_are_one_cut():
    text = f"{filler(600)} {QUESTION} {filler(300)} {OTHER} {filler(600)}"
    found = cleaned(text, grams_of(QUESTION, OTHER))
    assert [len(piece) for piece in found.pieces] == [401, 401]


@pytest.mark.parametrize(("cuts", "dropped"), [(9, False), (10, True)])
def test_a_document_of_more_than_10_pieces_is_dropped(cuts, dropped):
    text = f" {QUESTION} ".join(filler(700, seed) for seed in range(cuts + 1))
    found = cleaned(text, grams_of(QUESTION))
    assert found.too_dirty == dropped and len(found.pieces) == (0 if dropped else cuts + 1)


def test_pieces_that_are_too_short_count_among_the_10():
    text = f" {QUESTION} ".join(filler(500, seed) for seed in range(11))  # 100 characters between two windows
    assert cleaned(text, grams_of(QUESTION)).too_dirty


def test_no_gram_goes_from_one_question_into_the_next():
    both = f"{filler(500)} {' '.join(QUESTION.split()[-7:] + OTHER.split()[:7])} {filler(500)}"
    assert not cleaned(both, grams_of(QUESTION, OTHER)).collisions


def test_each_task_has_grams_of_its_own_length():
    tasks = [Task("long", (QUESTION,)), Task("short", (OTHER,))]
    grams = Grams.of_tasks(tasks, [13, 8])
    assert [grams.count_of(0), grams.count_of(1)] == [len(QUESTION.split()) - 12, len(OTHER.split()) - 7]
    found = grams.find(" ".join(OTHER.split()[:8]) + " and " + " ".join(QUESTION.split()[:12]))
    assert [(one.task, one.words, one.first) for one in found] == [(1, 8, 0)]


def test_what_is_found_is_what_a_comparison_of_all_words_finds():
    """Random texts of few words against all grams, word by word."""
    numbers = random.Random(3)
    words = [f"w{n}" for n in range(4)]
    examples = tuple(" ".join(numbers.choices(words, k=numbers.randint(1, 30))) for _ in range(40))
    grams = grams_of(*examples, length=8)
    known = {tuple(e.split()[i : i + 8]) for e in examples for i in range(len(e.split()) - 7)}
    for _ in range(50):
        text = numbers.choices([*words, "other"], weights=[9, 9, 9, 9, 1], k=200)
        wanted = [i for i in range(193) if tuple(text[i : i + 8]) in known]
        assert [one.first for one in grams.find(" ".join(text))] == wanted


def test_the_length_of_a_gram_is_the_5th_percentile_of_the_questions_within_bounds():
    def of(lengths):
        return Task("task", tuple(" ".join(["w"] * n) for n in lengths)).gram_words(8, 13)

    assert of([5] * 100) == 8 and of([40] * 100) == 13
    assert of([9] * 6 + [40] * 94) == 9 and of([9] * 4 + [40] * 96) == 13


def test_grams_on_disk_are_the_same(tmp_path):
    grams = Grams.of_tasks([Task("a", (QUESTION,)), Task("b", (OTHER,))], [13, 8])
    grams.save(tmp_path / "grams.npz")
    found = Grams.load(tmp_path / "grams.npz")
    assert found.find(f"{OTHER} {QUESTION}") == grams.find(f"{OTHER} {QUESTION}") != []
    assert found.fingerprint() == grams.fingerprint()
    first = grams.find(OTHER)[0].hash
    fewer = grams.without(np.array([first], dtype=np.uint64))
    assert fewer.count == grams.count - 1 and fewer.fingerprint() != grams.fingerprint()


def test_the_fingerprint_depends_on_questions_alone():
    one = Grams.of_tasks([Task("a", (QUESTION, OTHER))], [13])
    two = Grams.of_tasks([Task("b", (OTHER.upper(), QUESTION))], [13])
    assert one.fingerprint() == two.fingerprint() != grams_of(QUESTION).fingerprint()


def test_questions_are_read_from_lines_arrays_and_paragraphs(tmp_path):
    (tmp_path / "a.jsonl").write_text('{"question": "q1", "choices": ["c", "d"]}\n\n{"question": "q2"}\n')
    (tmp_path / "b.json").write_text('[{"question": "q3", "n": 1}, {"text": "t"}]')
    (tmp_path / "c.txt").write_text("one\nparagraph\n\n\n another\n")
    fields = ["question", "choices", "text"]
    tasks = tasks_of_files([str(tmp_path / "*.js*"), str(tmp_path / "c.txt")], fields)
    assert [one.examples for one in tasks] == [
        ("q1\nc\nd", "q2"),
        ("q3", "t"),
        ("one\nparagraph", "\n another\n"),
    ]


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("a.jsonl", '{"goal": "q"}', "['goal']"),
        ("a.jsonl", "{no json", "cannot be used"),
        ("a.jsonl", b"\xff\xfe", "cannot be used"),
        ("a.csv", "question", "no kind"),
        ("a.jsonl.gz", "no archive", "a.jsonl.gz"),
    ],
)
def test_files_that_cannot_be_used_are_refused_in_one_line(tmp_path, name, content, words):
    (tmp_path / name).write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(DataError) as raised:
        tasks_of_files([str(tmp_path / name)], ["question"])
    assert words in str(raised.value) and "\n" not in str(raised.value)


def test_a_file_that_is_not_there_is_refused(tmp_path):
    with pytest.raises(DataError, match="no file matches"):
        tasks_of_files([str(tmp_path / "absent.jsonl")], ["question"])
