"""Stages done apart, and in parts, give the bytes of one run; what cannot be so is told in one line."""

import fcntl
import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest

from shear_lit.data.errors import DataError
from shear_lit.data.prepared.chunks import write_part
from shear_lit.data.preparing import sections as sections_module
from shear_lit.data.preparing.commit import clear_work
from shear_lit.data.preparing.plan import PartNumber
from shear_lit.data.preparing.prepare import prepare, prepare_stage
from shear_lit.data.preparing.sections import Section, dealt, sections
from shear_lit.data.preparing.settings import SplitTokens
from shear_lit.data.text.kind import Source
from tests.data.preparing.corpora import UNIT, in_parts, lines_of, texts, write_corpus
from tests.data.preparing.jobs import job_in
from tests.trees import tree


@pytest.fixture
def options(settings, tmp_path, monkeypatch):
    monkeypatch.setattr(sections_module, "SECTION_PIECES", 3)
    domains = write_corpus(tmp_path / "corpus", 60)
    small = {"unit_bytes": UNIT, "chunk_bytes": 16 * 2 * 40, "workers": 1, "max_rejected_fraction": 0.1}
    return settings(domains, tokens=SplitTokens(validation=300), **small)


@pytest.fixture
def whole(options, tmp_path):
    """Settings whose output has been prepared at once."""
    whole = replace(options, output=str(tmp_path / "whole"))
    prepare(whole)
    return whole


def refused(options, stage, part=None):
    with pytest.raises(DataError) as caught:
        prepare_stage(options, stage, part)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_three_parts_give_the_bytes_of_one_run_also_where_files_are_added(options, whole, tmp_path):
    manifest = in_parts(options, 3, packs=2)
    assert tree(options.output) == tree(whole.output) and manifest.domains["web"].documents > 50
    assert not Path(options.output + ".partial").exists()
    (tmp_path / "more.jsonl").write_text(lines_of(texts(50, seed=0) + texts(60, seed=9)))
    (tmp_path / "new.jsonl").write_text(lines_of(text[::-1] for text in texts(60)))
    more = [*options.domains["web"], str(tmp_path / "more.jsonl")]
    domains = {"web": more, "new": str(tmp_path / "new.jsonl")}
    both = [replace(one, domains=domains) for one in (options, whole)]
    in_parts(both[0], 3)
    prepare(both[1])
    assert tree(options.output) == tree(whole.output)
    before = tree(options.output)
    assert in_parts(both[0], 2).runs == 2  # nothing is new any more
    assert tree(options.output) == before


def test_best_fit_is_packed_in_parts(options, tmp_path):
    options = replace(options, packing="best_fit")
    in_parts(options, 2)
    prepare(replace(options, output=str(tmp_path / "whole")))
    assert tree(options.output) == tree(tmp_path / "whole")


def test_any_number_of_parts_takes_up_what_others_left(options, whole):
    prepare_stage(options, "tokenise", PartNumber(2, 3))
    prepare_stage(options, "tokenise", PartNumber(1, 5))
    assert "sections of the inputs are not tokenised" in refused(options, "select")
    spools = {p.name: p.stat().st_mtime_ns for p in Path(options.output + ".partial", "spool").iterdir()}
    prepare_stage(options, "tokenise")
    after = {p.name: p.stat().st_mtime_ns for p in Path(options.output + ".partial", "spool").iterdir()}
    assert spools.items() < after.items()  # none of them was written again
    prepare_stage(options, "select")
    prepare_stage(options, "pack", PartNumber(3, 7))
    assert "chunks are not packed: " in refused(options, "commit")
    prepare_stage(options, "pack")
    prepare_stage(options, "commit")
    assert tree(options.output) == tree(whole.output)


def test_plain_prepare_goes_on_from_parts_and_parts_from_it(options, whole):
    prepare_stage(options, "tokenise", PartNumber(1, 2))
    prepare_stage(options, "tokenise", PartNumber(2, 2))
    prepare_stage(options, "select")
    prepare(options)
    assert tree(options.output) == tree(whole.output)


def test_a_spool_that_is_lost_is_found_by_the_next_part_and_an_input_that_changed_is_read_again(
    options, tmp_path
):
    prepare_stage(options, "tokenise")
    spools = sorted(Path(options.output + ".partial", "spool").iterdir())
    spools[0].unlink()
    spools[1].write_bytes(spools[1].read_bytes()[:-1])
    large = Path(options.domains["web"][0])
    large.write_text(large.read_text().replace("{broken", "{brakes"))  # of the same size
    prepare_stage(options, "tokenise")
    assert all(path.is_file() for path in spools[:2])
    in_parts(options, 2)
    prepare(replace(options, output=str(tmp_path / "whole")))
    assert tree(options.output) == tree(tmp_path / "whole")


@pytest.mark.parametrize(
    ("key", "value"),
    [("sequence_length", 32), ("append_eos", False), ("unit_bytes", 400), ("packing", "best_fit")],
)
def test_a_part_with_other_settings_is_refused_by_name(options, key, value):
    prepare_stage(options, "tokenise", PartNumber(1, 2))
    said = refused(replace(options, **{key: value}), "tokenise", PartNumber(2, 2))
    assert said.startswith(
        f"{key}={value!r}: other parts of this run were begun with {getattr(options, key)!r}"
    )
    assert "remove" in said and "plan.json" in said


def test_a_part_with_other_inputs_is_refused_and_a_new_plan_uses_what_was_tokenised(options, tmp_path):
    prepare_stage(options, "tokenise", PartNumber(1, 2))
    large = Path(options.domains["web"][0])
    large.write_text(large.read_text().replace("{broken\n", ""))
    assert refused(options, "tokenise", PartNumber(2, 2)).startswith("domains.web=")
    less = replace(options, domains={"web": options.domains["web"]})
    assert refused(less, "tokenise", PartNumber(2, 2)).startswith("domains.books='absent'")
    Path(options.output + ".partial", "plan.json").unlink()
    in_parts(options, 2)
    prepare(replace(options, output=str(tmp_path / "whole")))
    assert tree(options.output) == tree(tmp_path / "whole")


@pytest.mark.parametrize(
    "part", ["0/8", "9/8", "1", "1/0", "-1/8", "a/b", "1/8/3", " 1/8", "1/1000000", "٣/٨"]
)
def test_a_part_that_is_none_is_refused_in_one_line(part):
    with pytest.raises(DataError, match=r"^part='.*' is no part: parts of 8 are 1/8 to 8/8.*Correct it\.$"):
        PartNumber.parsed(part)


@pytest.mark.parametrize("stage", ["all", "select", "commit"])
def test_only_two_stages_have_parts(options, stage):
    assert "only the stages tokenise and pack are done in parts" in refused(options, stage, PartNumber(1, 2))


def test_stages_come_in_their_order(options):
    for stage in ("select", "pack", "commit"):
        assert "nothing is tokenised yet. Run `--stage tokenise` first" in refused(options, stage)
    assert not Path(options.output + ".partial").exists()
    prepare_stage(options, "tokenise", PartNumber(1, 9))
    assert "sections of the inputs are not tokenised: " in refused(options, "select")
    for stage in ("pack", "commit"):
        assert "Run `--stage select` first" in refused(options, stage)


def test_parts_work_beside_each_other_and_not_beside_another_stage(options):
    prepare_stage(options, "tokenise", PartNumber(1, 2))
    lock = Path(options.output + ".partial", "lock")
    with lock.open() as file:
        fcntl.flock(file, fcntl.LOCK_SH)
        prepare_stage(options, "tokenise", PartNumber(2, 2))
        assert "another run is at work there" in refused(options, "select")
    with lock.open() as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        assert "another run is at work there" in refused(options, "tokenise", PartNumber(1, 2))


def test_a_commit_that_was_stopped_after_the_last_file_is_finished(options, whole, monkeypatch):
    in_order = [("tokenise", None), ("select", None), ("pack", None)]
    for stage, part in in_order:
        prepare_stage(options, stage, part)

    def dies(work):
        (work / "plan.json").unlink()
        raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr("shear_lit.data.preparing.prepare.clear_work", dies)
        prepare_stage(options, "commit")
    assert prepare_stage(options, "commit").runs == 1
    assert tree(options.output) == tree(whole.output) and not Path(options.output + ".partial").exists()


def test_sections_are_dealt_by_size_each_to_one_part():
    sizes = [5, 900, 30, 30, 1, 400, 200, 200, 0]
    own = [
        Section(sources=(Source(domain="web", name=str(n), kind="csv", bytes=size),))
        for n, size in enumerate(sizes)
    ]
    shares = [dealt(own, part, 3, 10) for part in (1, 2, 3)]
    assert sorted(s.sources[0].name for share in shares for s in share) == sorted(map(str, range(9)))
    assert sorted(sum(s.bytes(10) for s in share) for share in shares) == [431, 435, 900]
    assert dealt(own, 1, 1, 10) == own and dealt(own[:1], 2, 2, 10) == []


def test_a_large_file_is_cut_into_sections_which_have_its_pieces(tmp_path, monkeypatch):
    monkeypatch.setattr(sections_module, "SECTION_PIECES", 4)
    path, job = tmp_path / "a.jsonl", job_in(tmp_path, unit_bytes=50)
    path.write_text(lines_of(texts(30)))
    source = Source(domain="web", name=str(path), kind="lines", bytes=path.stat().st_size)
    cut, whole = list(sections([source], job, whole=False)), list(sections([source], job, whole=True))
    assert len(cut) > 5 and len(whole) == 1
    assert [piece for one in cut for piece in one.pieces(job, [source])] == list(
        whole[0].pieces(job, [source])
    )
    assert sum(one.bytes(50) for one in cut) == source.bytes
    array = tmp_path / "b.json"
    array.write_text(json.dumps([{"text": text} for text in texts(30)]))
    other = replace(source, name=str(array), bytes=array.stat().st_size)
    assert len(list(sections([other], job, whole=False))) == 1


def test_an_input_that_was_written_anew_with_the_same_size_is_read_again(options, tmp_path):
    prepare_stage(options, "tokenise")
    large = Path(options.domains["web"][0])
    lines = large.read_text().splitlines(keepends=True)
    large.write_text("".join([*lines[1:], lines[0]]))
    in_parts(options, 2)
    prepare(replace(options, output=str(tmp_path / "whole")))
    assert tree(options.output) == tree(tmp_path / "whole")


def test_what_was_tokenised_for_new_data_is_not_taken_for_data_that_holds_it(options, whole):
    prepare_stage(options, "tokenise")
    shutil.copytree(whole.output, options.output)
    assert "other data there" in refused(options, "tokenise")
    Path(options.output + ".partial", "plan.json").unlink()
    assert in_parts(options, 2).runs == 1
    assert tree(options.output) == tree(whole.output)


def test_a_selection_of_another_plan_is_not_packed(options):
    prepare_stage(options, "tokenise")
    prepare_stage(options, "select")
    Path(options.output + ".partial", "plan.json").unlink()
    other = replace(options, sequence_length=32)
    prepare_stage(other, "tokenise")
    for stage in ("pack", "commit"):
        assert "Run `--stage select` first" in refused(other, stage)


def test_what_says_that_a_commit_is_done_is_removed_last(tmp_path, monkeypatch):
    for name in ("selection.json", "plan.json", "marks", "tasks.jsonl", "lock"):
        (tmp_path / name).touch()
    removed, real = [], Path.unlink
    monkeypatch.setattr(Path, "unlink", lambda path, **more: (removed.append(path.name), real(path, **more)))
    clear_work(tmp_path)
    assert removed[-1] == "selection.json" and len(removed) == 4


def test_two_machines_may_write_one_file_at_once(tmp_path, monkeypatch):
    """Their processes may even have the same number."""

    def another(_):
        monkeypatch.undo()
        write_part(tmp_path / "spool", (b"content",))

    monkeypatch.setattr("shear_lit.data.prepared.chunks.os.fsync", another)
    write_part(tmp_path / "spool", (b"content",))
    assert [path.read_bytes() for path in tmp_path.iterdir()] == [b"content"]
