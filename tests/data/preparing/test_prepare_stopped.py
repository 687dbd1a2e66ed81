"""A run that is stopped, at whatever moment, goes on and ends with the same bytes."""

import errno
import fcntl
import itertools
import os
import shutil
import signal
import time
from dataclasses import replace
from pathlib import Path

import pytest

from shear_lit.data.errors import DataError
from shear_lit.data.prepared.reading import read_manifest
from shear_lit.data.preparing import collecting, packing, stages
from shear_lit.data.preparing.prepare import prepare
from shear_lit.data.preparing.settings import SplitShares
from tests.trees import tree

TEXTS = [f"document number {number} says {number * number}" for number in range(160)]


class Killed(BaseException):
    """What no code of the package may catch."""


@pytest.fixture
def options(settings, write_jsonl):
    files = {
        "web": write_jsonl("web.jsonl", TEXTS),
        "code": write_jsonl("code.jsonl", [t[::-1] for t in TEXTS]),
    }
    return settings(files, unit_bytes=4000, workers=1, chunk_bytes=16 * 2 * 50)


def stop_at(monkeypatch, function, call):
    """Die instead of making the given call of ``os.<function>``, counted from 1."""
    real, made = getattr(os, function), [0]

    def counted(*arguments, **more):
        made[0] += 1
        if made[0] == call:
            raise Killed
        return real(*arguments, **more)

    monkeypatch.setattr(os, function, counted)


def moments(monkeypatch, function, options, prepare_old, *, step):
    """Stop a run at one call of ``function`` after another, until it ends before it is stopped."""
    for call in itertools.count(1, step):
        prepare_old()
        with monkeypatch.context() as patch:
            stop_at(patch, function, call)
            try:
                prepare(options)
            except Killed:
                pass
            else:
                assert call > 8
                return
        yield call


@pytest.mark.parametrize(("function", "step"), [("replace", 2), ("fsync", 5)])
def test_stopped_at_any_write_a_first_run_goes_on_to_the_same_bytes(
    options, monkeypatch, function, step, tmp_path
):
    whole = replace(options, output=str(tmp_path / "whole"))
    prepare(whole)
    wanted = tree(whole.output)

    def fresh():
        for path in (options.output, options.output + ".partial"):
            shutil.rmtree(path, ignore_errors=True)

    for _ in moments(monkeypatch, function, options, fresh, step=step):
        if Path(options.output).exists():
            assert tree(options.output) == wanted
        prepare(options)
        assert tree(options.output) == wanted and not Path(options.output + ".partial").exists()


def test_stopped_at_any_write_an_addition_leaves_the_old_data_and_goes_on(
    options, write_jsonl, monkeypatch, tmp_path
):
    prepare(options)
    old, kept = read_manifest(options.output), tmp_path / "old"
    shutil.copytree(options.output, kept)
    texts = [f"new: {text}" for text in TEXTS[:80]] + TEXTS[:20]
    more = replace(options, domains={"web": write_jsonl("more.jsonl", texts)})
    new = prepare(more)
    wanted = tree(options.output)

    def back():
        for path in (options.output, options.output + ".partial"):
            shutil.rmtree(path, ignore_errors=True)
        shutil.copytree(kept, options.output)

    for _ in moments(monkeypatch, "replace", more, back, step=2):
        assert read_manifest(options.output) in (old, new)
        prepare(more)
        assert tree(options.output) == wanted


def test_after_an_addition_that_was_stopped_other_files_can_be_added(
    options, write_jsonl, monkeypatch, tmp_path
):
    """What the first one left behind, chunks that no manifest names, is gone in the end."""
    prepare(options)
    shutil.copytree(options.output, tmp_path / "other")
    stopped, other = (
        replace(options, domains={"web": write_jsonl(f"{name}.jsonl", [f"{name}: {t}" for t in TEXTS])})
        for name in ("stopped", "added")
    )
    real = Path.replace

    def dies_at_the_manifest(path, target):
        if target == Path(options.output) / "manifest.json":
            raise Killed
        return real(path, target)

    with monkeypatch.context() as patch, pytest.raises(Killed):
        patch.setattr(Path, "replace", dies_at_the_manifest)
        prepare(stopped)
    assert len(tree(options.output)) > len(tree(tmp_path / "other"))
    prepare(other)
    prepare(replace(other, output=str(tmp_path / "other")))
    assert tree(options.output) == tree(tmp_path / "other")


def forked(options):
    """Prepare in a process of its own."""
    child = os.fork()
    if not child:
        try:
            prepare(options)
        finally:
            os._exit(0)
    return child


@pytest.mark.parametrize("spools", [0, 3, 9])
def test_killed_a_run_with_workers_goes_on_to_the_same_bytes(options, tmp_path, spools):
    """Killed by the system, at once, with its workers in the middle of something."""
    options = replace(options, workers=2, unit_bytes=1000)
    child, partial = forked(options), Path(options.output + ".partial")
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        done = [p for p in (partial / "spool").glob("*") if not p.name.endswith(".part")]
        if partial.exists() and len(done) >= spools:
            break
        time.sleep(0.002)
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    prepare(options)
    prepare(replace(options, output=str(tmp_path / "whole"), workers=1))
    assert tree(options.output) == tree(tmp_path / "whole") and not partial.exists()


def full(*_):
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


@pytest.mark.parametrize("where", ["spool", "pack", "ledger"])
def test_a_full_disk_stops_the_run_which_goes_on_after_space_is_made(options, monkeypatch, tmp_path, where):
    prepare(replace(options, output=str(tmp_path / "whole")))
    written = []
    with monkeypatch.context() as patch:
        if where == "spool":
            patch.setattr(os, "fsync", lambda f: full() if len(written) == 8 else written.append(f))
        elif where == "pack":
            patch.setattr(packing, "write_chunk", full)
        else:
            patch.setattr("shear_lit.data.preparing.ledger.Ledger.write", full)
        with pytest.raises(DataError, match=r"disk is full\. Make space.*it continues"):
            prepare(options)
    spool = list(Path(options.output + ".partial", "spool").glob("*"))
    assert len(spool) >= 3 and not [p for p in spool if p.name.endswith(".part")]
    again = []
    real = Path.replace
    monkeypatch.setattr(Path, "replace", lambda s, t: (again.append(Path(t).name), real(s, t))[1])
    prepare(options)
    assert tree(options.output) == tree(tmp_path / "whole")
    assert not {path.name for path in spool} & set(again)  # what was finished is not done again


def test_two_runs_into_one_output_keep_out_of_each_others_way(options):
    partial = Path(options.output + ".partial")
    partial.mkdir()
    with (partial / "lock").open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        with pytest.raises(DataError, match="another run is at work"):
            prepare(options)
    prepare(options)


def test_a_directory_that_is_no_run_s_is_neither_worked_in_nor_cleared(options):
    theirs = Path(options.output + ".partial", "web", "prune")
    theirs.mkdir(parents=True)
    (theirs / "chunk-0-0.bin").write_bytes(b"mine")
    with pytest.raises(DataError, match=r"output='.*\.partial/web' is not of this command.*Move it away"):
        prepare(options)
    assert (theirs / "chunk-0-0.bin").read_bytes() == b"mine"


def test_a_spool_file_that_was_damaged_is_made_anew(options, monkeypatch, tmp_path):
    prepare(replace(options, output=str(tmp_path / "whole")))
    with monkeypatch.context() as patch, pytest.raises(Killed):
        patch.setattr(stages, "mark_duplicates", lambda *_: (_ for _ in ()).throw(Killed()))
        prepare(options)
    for path in list(Path(options.output + ".partial", "spool").glob("*"))[:2]:
        path.write_bytes(path.read_bytes()[:-1])
    prepare(options)
    assert tree(options.output) == tree(tmp_path / "whole")


def test_what_was_done_with_other_settings_or_files_is_not_used(options, monkeypatch, tmp_path, write_jsonl):
    def stopped(changed):
        with monkeypatch.context() as patch, pytest.raises(Killed):
            patch.setattr(stages, "mark_duplicates", lambda *_: (_ for _ in ()).throw(Killed()))
            prepare(changed)

    stopped(replace(options, append_eos=False))
    stopped(replace(options, unit_bytes=2000))
    stopped(options)
    write_jsonl("web.jsonl", [*TEXTS[:80], "something new", *TEXTS[81:]])
    prepare(options)
    prepare(replace(options, output=str(tmp_path / "whole")))
    assert tree(options.output) == tree(tmp_path / "whole")


def test_chunks_of_a_run_with_other_settings_are_not_taken_along(options, monkeypatch, tmp_path, write_jsonl):
    """It was stopped with all of them written, of domains, splits and a size that the next one does not have."""
    more = write_jsonl("more.jsonl", [f"more: {text}" for text in TEXTS])
    other = replace(
        options,
        domains={**options.domains, "more": more},
        chunk_bytes=16 * 2 * 3,
        shares=SplitShares(prune=0.4, pretrain=0.3, validation=0.3),
    )
    with monkeypatch.context() as patch, pytest.raises(Killed):
        patch.setattr(collecting, "write_manifest", lambda *_: (_ for _ in ()).throw(Killed()))
        prepare(other)
    options = replace(options, shares=SplitShares(prune=0.5, pretrain=0.5, validation=0.0))
    prepare(options)
    prepare(replace(options, output=str(tmp_path / "whole")))
    assert tree(options.output) == tree(tmp_path / "whole")
    folders = [
        {str(p.relative_to(place)) for p in Path(place).rglob("*") if p.is_dir()}
        for place in (options.output, tmp_path / "whole")
    ]
    assert folders[0] == folders[1]
