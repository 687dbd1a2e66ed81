"""Small files are read within a limit, and nothing is waited for."""

import os

import pytest

from shear_lit.disk.names import is_elsewhere, is_plain_name, is_sha256, leads_outside
from shear_lit.disk.reading import parse_json, parse_yaml, read_json, read_small, read_yaml

BOMB = "\n".join(["a: &a0 [x, x]", *(f"b{i}: &a{i} [*a{i - 1}, *a{i - 1}]" for i in range(1, 60))])
"""60 lines that stand for 2^60 values."""


def test_a_large_file_is_refused_without_its_memory(tmp_path):
    path = tmp_path / "manifest.json"
    with path.open("wb") as file:
        file.truncate(10**12)  # a hole, as an archive may bring
    with pytest.raises(OSError) as refused:
        read_small(path)
    assert refused.value.strerror == "it has 1,000,000,000,000 bytes, and such a file has at most 67,108,864"


def test_a_file_of_exactly_the_limit_is_read(tmp_path):
    path = tmp_path / "a"
    path.write_bytes(b"12345")
    assert read_small(path, limit=5) == b"12345"
    with pytest.raises(OSError):
        read_small(path, limit=4)


def test_a_pipe_is_refused_and_not_waited_at(tmp_path):
    os.mkfifo(tmp_path / "config.json")
    with pytest.raises(OSError) as refused:
        read_json(tmp_path / "config.json")
    assert "pipe" in str(refused.value.strerror)


def test_a_directory_and_an_absent_file_are_said_as_such(tmp_path):
    with pytest.raises(IsADirectoryError):
        read_small(tmp_path)
    with pytest.raises(FileNotFoundError):
        read_small(tmp_path / "absent")


@pytest.mark.parametrize(
    "text", [b'{"a": 1, "a": 2}', b"[" * 100_000, b"\xff", b"{", b'{"deep": {"b": 1, "b": 1}}'], ids=str
)
def test_json_that_is_doubtful_is_refused(text):
    with pytest.raises(ValueError):
        parse_json(text)


def test_json_is_read(tmp_path):
    (tmp_path / "a.json").write_text('{"a": [1, 2.5, null, "ü"]}', encoding="utf-8")
    assert read_json(tmp_path / "a.json") == {"a": [1, 2.5, None, "ü"]}


@pytest.mark.parametrize(
    "text",
    ["a: &x [*x]", BOMB, "a: 1\na: 2", "a: !!python/object/apply:os.system [ls]", "a: [", "\t", "[" * 5000],
)
def test_yaml_that_expands_or_makes_objects_is_refused(tmp_path, text):
    (tmp_path / "a.yaml").write_text(text)
    with pytest.raises(ValueError):
        read_yaml(tmp_path / "a.yaml")


@pytest.mark.parametrize("opening", ["[", "{a: ", "[{a: "])
def test_brackets_may_be_open_a_hundred_times_and_more_are_refused_at_once(opening):
    at_most = opening * (100 // (opening.count("[") + opening.count("{")))
    closing = at_most[::-1].replace(" :a", "").translate(str.maketrans("[{", "]}"))
    assert parse_yaml(at_most + closing)
    with pytest.raises(ValueError, match="nested too deeply"):
        parse_yaml("[" + at_most + closing + "]")


def test_yaml_is_read(tmp_path):
    (tmp_path / "a.yaml").write_text("losses: {a: 1.5}\nsource: m\n")
    assert read_yaml(tmp_path / "a.yaml") == {"losses": {"a": 1.5}, "source": "m"}


@pytest.mark.parametrize("name", ["", ".", "..", "a/b", "../a", "/a", "a\\b", "a\0", 3, None, "x" * 256])
def test_what_is_no_plain_name(name):
    assert not is_plain_name(name)
    assert is_plain_name("model-00001-of-00002.safetensors")


def test_hashes_are_sixty_four_hexadecimal_digits():
    assert is_sha256("0" * 64)
    assert not any(is_sha256(value) for value in ("0" * 63, "A" * 64, "../" + "0" * 61, "0" * 64 + "\n", 7))


def test_a_link_that_leads_outside_is_found(tmp_path):
    (tmp_path / "in").mkdir()
    (tmp_path / "secret").write_text("s")
    (tmp_path / "in" / "link").symlink_to(tmp_path / "secret")
    (tmp_path / "in" / "own").symlink_to(tmp_path / "in" / "file")
    assert leads_outside(tmp_path / "in" / "link", tmp_path / "in")
    assert not leads_outside(tmp_path / "in" / "own", tmp_path / "in")
    assert not leads_outside(tmp_path / "in" / "link", tmp_path / "in", also=[tmp_path])


def test_an_alias_is_what_it_stands_for(tmp_path):
    (tmp_path / "a.yaml").write_text("a: &x [1]\nb: *x")
    assert read_yaml(tmp_path / "a.yaml") == {"a": [1], "b": [1]}


def test_the_store_of_a_hub_is_not_elsewhere(tmp_path):
    for repository in ("models--a--b", "datasets--a--b", "other"):
        directory = tmp_path / repository / "snapshots" / "0"
        directory.mkdir(parents=True)
        (tmp_path / repository / "blobs").mkdir()
        (directory / "file").symlink_to(tmp_path / repository / "blobs" / "hash")
        assert is_elsewhere(directory / "file", directory) == (repository == "other")


def test_links_in_a_circle_are_elsewhere(tmp_path):
    (tmp_path / "a").symlink_to(tmp_path / "b")
    (tmp_path / "b").symlink_to(tmp_path / "a")
    assert is_elsewhere(tmp_path / "a", tmp_path)


def test_half_a_character_is_no_json():
    assert parse_json(r'{"a": "\ud83e\udd8a"}') == {"a": "🦊"}
    for text in (r'{"a": "\ud800"}', r'{"\udfff": 1}', r'[["\ud800x"]]'):
        with pytest.raises(ValueError, match="half of a surrogate pair"):
            parse_json(text)
