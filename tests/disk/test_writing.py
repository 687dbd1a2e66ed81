"""Files appear whole or not at all, and places are tried before the work."""

import os

import pytest

from shear_lit.disk.writing import (
    OutputError,
    check_file,
    check_folder,
    check_new_file,
    free_path,
    whole_file,
    write_file,
)


def names_in(folder):
    return sorted(path.name for path in folder.iterdir())


def test_a_file_appears_whole_with_its_folders(tmp_path):
    write_file(tmp_path / "a" / "b.txt", "ü")
    assert (tmp_path / "a" / "b.txt").read_text(encoding="utf-8") == "ü"
    assert names_in(tmp_path / "a") == ["b.txt"]


def test_what_fails_while_it_is_written_leaves_the_old_file(tmp_path):
    path = tmp_path / "b.txt"
    write_file(path, "old")
    with pytest.raises(KeyboardInterrupt), whole_file(path) as partial:
        partial.write_text("ne")
        raise KeyboardInterrupt
    assert path.read_text() == "old"
    assert names_in(tmp_path) == ["b.txt"]


def test_a_link_stays_and_its_file_is_renewed(tmp_path):
    (tmp_path / "real").write_text("old")
    (tmp_path / "link").symlink_to("real")
    write_file(tmp_path / "link", "new")
    assert (tmp_path / "link").is_symlink()
    assert (tmp_path / "real").read_text() == "new"


def test_free_names_count_on(tmp_path):
    path = tmp_path / "config.yaml"
    for name in ("config.yaml", "config-2.yaml", "config-3.yaml"):
        assert free_path(path).name == name
        free_path(path).touch()


def test_places_where_no_file_can_be(tmp_path):
    (tmp_path / "file").touch()
    (tmp_path / "dangling").symlink_to("nowhere")
    os.mkfifo(tmp_path / "pipe")
    for path, said in (
        (tmp_path, "is a directory"),
        (tmp_path / "file" / "x", "is no directory"),
        (tmp_path / "file" / "x" / "y", "is no directory"),
        (tmp_path / "dangling", "is a link to"),
        (tmp_path / "dangling" / "x", "is no directory"),
        (tmp_path / "pipe", "is a pipe"),
    ):
        with pytest.raises(OutputError) as refused:
            check_file(path, key="output")
        assert str(refused.value).startswith(f"output={str(path)!r}") and said in str(refused.value)
    with pytest.raises(OutputError, match="are not overwritten"):
        check_new_file(tmp_path / "file", key="output", what="scores")
    check_file(tmp_path / "file", key="output")
    check_new_file(tmp_path / "new" / "deep" / "x", key="output", what="scores")
    check_folder(tmp_path / "new", key="output")
    assert names_in(tmp_path) == ["dangling", "file", "pipe"]


def test_a_folder_without_permission_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(os, "access", lambda path, mode: False)  # the suite may run as a user who may do all
    with pytest.raises(OutputError, match="may not write"):
        check_file(tmp_path / "x", key="output")
