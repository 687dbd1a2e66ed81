"""A place for a model that cannot be written is refused before anything is computed, and nothing is left there."""

import os
from pathlib import Path

import pytest

from shear_lit.disk.writing import OutputError
from shear_lit.models.directories import DirectoryError, check_new_directory, new_directory, same_file


def refusal(directory: Path) -> str:
    with pytest.raises(OutputError) as error:
        check_new_directory(directory)
    assert error.value.key == "output"
    assert str(error.value).startswith(f"output={str(directory)!r}")
    return str(error.value)


def test_parent_that_is_a_file_is_refused(tmp_path):
    (tmp_path / "file").write_text("mine")
    assert "is no directory" in refusal(tmp_path / "file" / "deep" / "out")


def test_directory_in_a_place_without_the_right_to_write_is_refused(tmp_path, monkeypatch):
    """What the system answers is put in its mouth: root may write everywhere."""
    monkeypatch.setattr(os, "access", lambda path, mode: False)
    assert "may not write" in refusal(tmp_path / "out")


@pytest.mark.parametrize("kind", ["file", "link"])
def test_what_is_not_ours_in_the_place_of_the_half_written_one_is_refused(tmp_path, kind):
    partial = tmp_path / "out.partial"
    (tmp_path / "elsewhere").mkdir()
    if kind == "file":
        partial.write_text("mine")
    else:
        partial.symlink_to(tmp_path / "elsewhere")
    assert "out.partial" in refusal(tmp_path / "out")
    with pytest.raises(DirectoryError), new_directory(tmp_path / "out"):
        pass
    assert partial.exists() and (tmp_path / "elsewhere").is_dir()


def test_dangling_link_is_refused_and_one_to_an_empty_directory_is_taken(tmp_path):
    (tmp_path / "out").symlink_to(tmp_path / "nowhere")
    assert "not there" in refusal(tmp_path / "out")
    (tmp_path / "nowhere").mkdir()
    with new_directory(tmp_path / "out") as partial:
        (partial / "file").write_text("x")
    assert (tmp_path / "nowhere" / "file").read_text() == "x"


def test_what_a_killed_process_left_is_removed(tmp_path):
    (tmp_path / "out.partial").mkdir()
    (tmp_path / "out.partial" / "half").write_text("x")
    with new_directory(tmp_path / "out") as partial:
        assert list(partial.iterdir()) == []


def test_second_name_of_a_file_is_no_link_and_a_copy_where_there_can_be_none(tmp_path, monkeypatch):
    (tmp_path / "file").write_text("x")
    (tmp_path / "link").symlink_to("file")
    same_file(tmp_path / "link", tmp_path / "second")
    assert (tmp_path / "second").samefile(tmp_path / "file") and not (tmp_path / "second").is_symlink()

    def refuse(*_):
        raise OSError(18, "another disk")

    monkeypatch.setattr(os, "link", refuse)
    same_file(tmp_path / "link", tmp_path / "third")
    assert (tmp_path / "third").read_text() == "x" and not (tmp_path / "third").samefile(tmp_path / "file")
