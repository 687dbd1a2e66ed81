"""Raw text to prepared data: tokenised, divided among splits that share no document, packed.

Every input is cut into pieces of work that depend on nothing but the input. Each is tokenised into a file of its own
in ``<output>.partial``, by whoever is free. Then duplicates are dropped and the documents divided, which needs their
hashes and lengths alone, and every chunk is packed, again by whoever is free. A run that is stopped, by whatever
means, goes on where it was, and ends with the same bytes. The stages may be done apart from each other, and those two
in parts, by machines that share the storage of the output.
"""

import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from shear_lit.data.errors import DataError
from shear_lit.data.prepared.chunks import write_part
from shear_lit.data.prepared.manifest import Manifest
from shear_lit.data.preparing.chat import chat_job, check_same_conversations
from shear_lit.data.preparing.chat_settings import ChatSettings
from shear_lit.data.preparing.checks import check_disk, check_same_settings, check_special_tokens
from shear_lit.data.preparing.commit import clear_work, disk_error, locked
from shear_lit.data.preparing.decontaminating import (
    check_same_tasks,
    check_stage,
    with_tasks,
    without_common,
)
from shear_lit.data.preparing.executors import Executor, executor_of
from shear_lit.data.preparing.job import Job, TextJob
from shear_lit.data.preparing.ledger import ledger_of
from shear_lit.data.preparing.plan import PartNumber, Plan, check_plan, plan_of, write_plan
from shear_lit.data.preparing.sections import Section, dealt, sections
from shear_lit.data.preparing.selection import Selected, check_selected, selected_before
from shear_lit.data.preparing.settings import CommonSettings, PrepareSettings, Stage
from shear_lit.data.preparing.stages import collect, pack_part, select_documents
from shear_lit.data.preparing.tokenising import Before, gathered, tokenise
from shear_lit.data.preparing.upload import address_of, clear_output, earlier, place_of, publish
from shear_lit.data.text.contamination.grams import Grams
from shear_lit.data.text.contamination.tasks import Task
from shear_lit.data.text.kind import PIPELINE
from shear_lit.data.text.kinds.s3 import release_copy
from shear_lit.data.text.pieces import check_text_field
from shear_lit.data.text.sources import Source, find_sources
from shear_lit.data.tokens.tokenizer import TextTokenizer, load_tokenizer

_IN_PARTS = ("tokenise", "pack")


def prepare(
    settings: CommonSettings, executor: Executor | None = None, *, tasks: Sequence[Task] = ()
) -> Manifest:
    """Tokenise, split and pack ``settings.domains`` into ``settings.output``, or add to it what is new.

    A first run's output is whole, or not there. What is added is there with the last file that is written, the
    manifest; until then the data set is what it was. A run that fails or is stopped keeps what it did in
    ``<output>.partial``, and the next one goes on from there, with whatever of it suits its settings and files.

    Args:
        settings: What to prepare, and how.
        executor: Who does the tasks; by default ``settings`` says it.
        tasks: Evaluation tasks of ``settings.decontaminate.suites``, which this package cannot look up.

    Raises:
        DataError: a setting cannot be met: files, output, tokenizer, disk, too much unusable text, too small a split.
    """
    with _told_of_disk(settings), begun(settings, executor, tasks=tasks) as run:
        run.start(anew=True)
        run.tokenise(PartNumber(), trusting=False)
        run.pack(PartNumber(), selected := run.select())
        return run.commit(selected)


def prepare_stage(
    settings: CommonSettings,
    stage: Stage,
    part: PartNumber | None = None,
    executor: Executor | None = None,
    *,
    tasks: Sequence[Task] = (),
) -> Manifest | None:
    """Do one stage of ``prepare``, or one part of it: ``tokenise`` in parts, ``select``, ``pack`` in parts, ``commit``.

    Parts may be done at the same time and in any order, and again, also another number of them. All are given the same
    settings; the output is that of ``prepare``. The last stage gives the manifest.

    Args:
        settings: What to prepare, and how.
        stage: Which stage.
        part: Which part of it; by default all of it.
        executor: Who does the tasks; by default ``settings`` says it.
        tasks: As in ``prepare``.

    Raises:
        DataError: as ``prepare``, or an earlier stage is not done, or was done with other settings or inputs.
    """
    if part is not None and stage not in _IN_PARTS:
        raise DataError(
            f"'{part.number}/{part.of}': only the stages {' and '.join(_IN_PARTS)} are done in parts. Leave it out, or "
            "name one of them with --stage.",
            key="part",
        )
    if stage == "all":
        return prepare(settings, executor, tasks=tasks)
    check_stage(settings.decontaminate, stage)
    part = part or PartNumber()
    with _told_of_disk(settings), begun(settings, executor, shared=stage in _IN_PARTS, tasks=tasks) as run:
        selected = selected_before(run.job)
        if stage == "commit" and selected and run.before and run.before.manifest.runs == selected.run:
            return run.cleared(run.before.manifest)  # an earlier call moved all files, and was stopped then
        if stage != "tokenise" and not run.job.plan.exists():
            left = "that is not committed" if run.before else "yet"
            raise DataError(
                f"{stage!r}: nothing is tokenised {left}. Run `--stage tokenise` first.", key="stage"
            )
        run.start()
        if stage == "tokenise":
            run.tokenise(part, trusting=True)
        elif stage == "select":
            run.select()
        else:
            selected = check_selected(run.job, stage, run.plan.hash())
            if stage == "commit":
                return run.commit(selected)
            run.pack(part, selected)
    return None


@dataclass
class Run:
    """What a stage begins with, the same for all, and what each of them does."""

    job: Job
    """Settings, and what was found out of them; whole when ``start`` has counted what is not cut out."""
    sources: list[Source]
    """The inputs."""
    tokenizer: TextTokenizer
    """What makes the tokens."""
    before: Before | None
    """The data that is added to."""
    plan: Plan
    """What all stages agree on."""
    executor: Executor
    """Who does the tasks."""
    output: Path
    """The directory that is written."""
    questions: Grams | None
    """What is cut out of documents, if anything is."""

    def start(self, *, anew: bool = False) -> None:
        """Write what all stages need, or see that it is there and of the same run; ``anew``, no other run counts."""
        job, first = self.job, anew or not self.job.plan.exists()
        known = {(i.domain, i.name) for i in self.before.ledger.inputs()} if self.before else set()
        unknown = [source for source in self.sources if (source.domain, source.name) not in known]
        if first:
            check_disk(self.output, job, unknown)
            write_plan(job, self.plan)
        check_plan(job, self.plan)  # before a file that other parts use is written
        for folder in (job.spools, job.sections):
            folder.mkdir(exist_ok=True)
        content = self.tokenizer.backend.to_str().encode()
        if not (job.tokenizer_file.is_file() and job.tokenizer_file.read_bytes() == content):
            write_part(job.tokenizer_file, (content,))
        ledger = self.before.ledger.folder if self.before else None
        self.job = job = without_common(job, self.questions, unknown, ledger, self.executor)
        assert job.tokens_key  # computed once, here, and taken along by every task

    def tokenise(self, part: PartNumber, *, trusting: bool) -> None:
        """Tokenise the part's sections; ``trusting`` as in ``tokenising.tokenise``."""
        own = dealt(self._sections(), part.number, part.of, self.job.unit_bytes)
        own = [section for section in own if section.sources[0].kind != PIPELINE]
        tokenise(self.job, own, self.before, self.executor, trusting=trusting)

    def select(self) -> Selected:
        """Divide the documents, all of which are tokenised."""
        domains = gathered(self.job, self._sections(), self.before)
        return select_documents(self.job, domains, self.before, self.plan.hash())

    def pack(self, part: PartNumber, selected: Selected) -> None:
        """Write the part's chunks."""
        if selected.domains:
            pack_part(self.job, part, self.executor)

    def commit(self, selected: Selected) -> Manifest:
        """Make what was packed a part of the output, and remove all that was worked with."""
        if not selected.domains:
            assert self.before is not None
            return self.cleared(self.before.manifest)
        manifest = collect(self.job, gathered(self.job, self._sections(), self.before), selected, self.before)
        publish(self.job.settings, self.job.packed, self.output, manifest)
        return self.cleared(manifest)

    def cleared(self, manifest: Manifest) -> Manifest:
        """Remove all that was worked with."""
        clear_output(self.job.settings, self.output, manifest)
        clear_work(self.job.work)
        return manifest

    def _sections(self) -> list[Section]:
        return list(sections(self.sources, self.job, whole=self.before is not None))


@contextmanager
def begun(
    settings: CommonSettings,
    executor: Executor | None = None,
    *,
    shared: bool = False,
    tasks: Sequence[Task] = (),
) -> Iterator[Run]:
    """Find out what there is to do, while no other run can change the output.

    Raises:
        DataError: a setting cannot be met, or another run is at work.
        OSError: the directory of the run cannot be written.
    """
    output = place_of(settings)
    earlier(settings, output)  # what cannot be written to is refused before anything is made beside it
    with locked(work := _work_of(output), shared=shared):
        if not shared:  # what processes that were killed had fetched
            shutil.rmtree(work / "scratch", ignore_errors=True)
        try:
            yield _run(settings, output, work, executor, tasks)
        finally:
            release_copy()


@contextmanager
def _told_of_disk(settings: CommonSettings) -> Iterator[None]:
    """What the system says against writing, as what a person is told."""
    try:
        yield
    except OSError as error:
        raise disk_error(_work_of(place_of(settings)), error) from error


def _work_of(output: Path) -> Path:
    return output.with_name(f"{output.name}.partial")


def _run(
    settings: CommonSettings, output: Path, work: Path, executor: Executor | None, tasks: Sequence[Task]
) -> Run:
    there = earlier(settings, output)
    sources = find_sources(settings.domains, exclude=output, without=address_of(settings))
    tokenizer = load_tokenizer(settings.tokenizer)
    check_special_tokens(settings, tokenizer)
    job, questions = with_tasks(_job(settings, tokenizer, work), sources, tasks)
    before = None
    if there is not None:
        check_same_conversations(there, job.chat, settings.output)
        check_same_settings(there, settings, tokenizer)
        check_same_tasks(there, job.decontamination, settings.output)
    check_text_field(sources, job)
    if there is not None:
        before = Before(there, ledger_of(output, there))
    executor = executor or executor_of(settings, sum(source.bytes for source in sources))
    plan = plan_of(job, sources, there)
    return Run(job, sources, tokenizer, before, plan, executor, output, questions)


def _job(settings: CommonSettings, tokenizer: TextTokenizer, work: Path) -> Job:
    if isinstance(settings, ChatSettings):
        return chat_job(settings, tokenizer, work)
    assert isinstance(settings, PrepareSettings)
    return TextJob(settings=settings, tokenizer=tokenizer.record(), work=work)
