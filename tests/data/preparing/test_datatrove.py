"""What a pipeline of datatrove gives is prepared as if it had been read here, whoever ran it, and in whatever order."""

import os
from dataclasses import replace
from pathlib import Path

import pytest

from shear_lit.data.errors import DataError
from shear_lit.data.preparing import sections as sections_module
from shear_lit.data.preparing.chat_settings import ChatSettings
from shear_lit.data.preparing.prepare import prepare, prepare_stage
from tests.data.preparing.corpora import UNIT, lines_of, texts
from tests.trees import tree

pytest.importorskip("datatrove", reason="the extra datatrove is not installed")
from datatrove.data import Document
from datatrove.executor import LocalPipelineExecutor
from datatrove.pipeline.base import PipelineStep

from shear_lit.data.preparing.datatrove import HandOver, PrepareStep

FILES = {f"{name}.jsonl": texts(12 + 6 * number, seed=number) for number, name in enumerate("badce")}


class Reads(PipelineStep):
    """Gives the documents of every ``world_size``-th file, as datatrove's readers do."""

    name, type = "reads", "READER"

    def __init__(self, folder, files=FILES):
        super().__init__()
        self.folder, self.files = folder, files

    def run(self, data=None, rank=0, world_size=1):
        for name in sorted(self.files)[rank::world_size]:
            for number, text in enumerate(self.files[name]):
                metadata = {"file_path": str(self.folder / name)}
                yield Document(text=text, id=f"{name}/{number}", metadata=metadata)


@pytest.fixture
def options(settings, tmp_path, monkeypatch):
    monkeypatch.setattr(sections_module, "SECTION_PIECES", 2)
    small = {"unit_bytes": UNIT, "chunk_bytes": 16 * 2 * 40, "workers": 1, "max_rejected_fraction": 0.1}
    return settings({"web": "datatrove://"}, **small)


def handed_over(options, tasks, *, folder=Path("corpus"), files=FILES, order=None):
    for rank in order or range(tasks):
        list(HandOver(options, "web").run(Reads(folder, files).run(None, rank, tasks), rank, tasks))


def finished(options):
    for stage in ("select", "pack", "commit"):
        manifest = prepare_stage(options, stage)
    return manifest


def test_what_a_pipeline_gave_is_prepared_as_if_it_had_been_read_here(options, tmp_path):
    for name, documents in FILES.items():
        (tmp_path / name).write_text(lines_of(documents))
    plain = replace(options, domains={"web": str(tmp_path / "*.jsonl")}, output=str(tmp_path / "plain"))
    prepare(plain)
    handed_over(options, 3, folder=tmp_path, order=[2, 0, 1])
    finished(options)
    ours, theirs = tree(options.output), tree(plain.output)
    differ = {name for name in ours.keys() | theirs.keys() if ours.get(name) != theirs.get(name)}
    # An input's bytes are those of its text.
    assert differ == {"README.md", "manifest.json", ".ledger/1/inputs.jsonl"}
    other = replace(options, output=str(tmp_path / "other"))
    handed_over(other, 1, folder=tmp_path)
    finished(other)
    assert tree(other.output) == ours


def test_a_task_that_is_done_again_changes_nothing_and_another_run_of_the_pipeline_is_told_apart(options):
    handed_over(options, 2)
    handed_over(options, 2, order=[1])
    handed_over(options, 3, order=[0])
    with pytest.raises(
        DataError, match=r"a pipeline of 2 and one of 3 tasks gave documents of domain 'web'\. Remove"
    ):
        prepare_stage(options, "select")
    for path in Path(options.output + ".partial", "sections").glob("web-*-of-3-*"):
        path.unlink()
    assert finished(options).domains["web"].inputs == len(FILES)


def test_tasks_that_have_not_ended_are_named(options):
    prepare_stage(options, "tokenise")
    with pytest.raises(DataError, match="come from a pipeline, of which no task has ended"):
        prepare_stage(options, "select")
    handed_over(options, 3, order=[0])
    with pytest.raises(DataError, match=r"stage='select'.*tasks 2, 3 of 3 have not ended"):
        prepare_stage(options, "select")


def test_an_input_that_two_tasks_give_is_refused(options):
    for rank in (0, 1):
        list(HandOver(options, "web").run(Reads(Path("corpus")).run(None, 0, 1), rank, 2))
    with pytest.raises(
        DataError, match=r"tasks 1 and 2 of the pipeline .* both gave documents of 'corpus/a\.jsonl'"
    ):
        prepare_stage(options, "select")


def test_a_document_that_cannot_be_used_is_counted_and_named(options, caplog):
    files = {"a.jsonl": [*texts(60), " \n", "half \ud800 a pair", "x" * 3000, texts(1, seed=5)[0]]}
    options = replace(options, max_document_bytes=2000)
    handed_over(options, 1, files=files)
    manifest = finished(options)
    reasons = {"empty document": 1, "invalid UTF-8": 1, "larger than max_document_bytes": 1}
    assert manifest.domains["web"].rejected == reasons
    assert "corpus/a.jsonl:61: empty document" in caplog.text


def test_what_a_reader_fails_with_is_its_own_error_and_its_task_has_not_ended(options):
    def fails():
        yield from Reads(Path("corpus")).run()
        raise ConnectionResetError("the bucket")

    with pytest.raises(ConnectionResetError, match="the bucket"):
        list(HandOver(options, "web").run(fails()))
    with pytest.raises(DataError, match="no task has ended"):
        prepare_stage(options, "select")


def test_what_the_data_holds_is_not_added_again(options):
    handed_over(options, 2)
    finished(options)
    before = tree(options.output)
    more = FILES | {"f.jsonl": texts(50, seed=11)}
    handed_over(options, 2, files=more)
    manifest = finished(options)
    assert manifest.runs == 2 and manifest.domains["web"].inputs == len(FILES) + 1
    assert {n for n in before if ".bin" in n and "ledger" not in n} <= tree(options.output).keys()


def test_a_domain_that_is_no_pipeline_s_and_a_document_without_an_input_are_refused(options, tmp_path):
    with pytest.raises(DataError, match=r"domains\.web='a\.jsonl'.*Use domains\.web=datatrove://"):
        HandOver(replace(options, domains={"web": "a.jsonl"}), "web")
    with pytest.raises(DataError, match=r"format='chat': a pipeline gives text"):
        chat = {"domains": {"web": "datatrove://"}, "tokenizer": "none", "output": "none"}
        HandOver(ChatSettings(**chat), "web")
    step = HandOver(options, "web", input_key="source")
    with pytest.raises(DataError, match=r"input_key='source': document 'a.jsonl/0' has no such entry"):
        list(step.run(Reads(tmp_path).run()))


@pytest.mark.skipif(
    not os.environ.get("SHEAR_LIT_CORPUS"), reason="SHEAR_LIT_CORPUS=all: it starts processes"
)
def test_eight_tasks_of_its_local_executor_give_the_bytes_of_one_run(options, tmp_path):
    for name, documents in FILES.items():
        (tmp_path / name).write_text(lines_of(documents))
    options = replace(options, domains={"web": str(tmp_path / "*.jsonl")})
    prepare(replace(options, output=str(tmp_path / "plain")))
    for stage, tasks in (("tokenise", 8), ("select", 1), ("pack", 8), ("commit", 1)):
        step, logs = PrepareStep(options, stage), str(tmp_path / f"logs-{stage}")
        LocalPipelineExecutor([step], tasks=tasks, workers=1, logging_dir=logs).run()
    assert tree(options.output) == tree(tmp_path / "plain")
