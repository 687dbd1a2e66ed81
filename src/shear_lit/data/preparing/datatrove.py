"""datatrove as the engine of ``prepare``: steps for its pipelines, which its executors run on one machine or on many.

``PrepareStep`` does the part of a stage that a task of an executor is. ``HandOver`` ends a pipeline of datatrove's own
readers, filters and deduplication: it tokenises the documents that are left, so that ``prepare`` selects and packs
them. Both need ``pip install 'shear-lit[datatrove]'``, and storage that all tasks share.
"""

import hashlib
import json
import os
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from datatrove.data import Document, DocumentsPipeline
from datatrove.pipeline.base import PipelineStep

from shear_lit.data.errors import DataError
from shear_lit.data.preparing.executors import ONE_THREAD
from shear_lit.data.preparing.pipelines import Given, write_list
from shear_lit.data.preparing.plan import PartNumber
from shear_lit.data.preparing.prepare import begun, prepare_stage
from shear_lit.data.preparing.sections import SECTION_PIECES, SectionRecord, done_piece, write_record
from shear_lit.data.preparing.settings import PrepareSettings, Stage
from shear_lit.data.text.contamination.tasks import Task
from shear_lit.data.text.documents import Found, found_in_text
from shear_lit.data.text.kind import PIPELINE, Piece
from shear_lit.data.tokens.encoding import Encoded, Encoding, encoded, joined


class PrepareStep(PipelineStep):
    """Does one part of a stage of ``prepare`` in each task: part ``rank + 1`` of as many as there are tasks.

    It takes no documents. ``tokenise`` and ``pack`` may have any number of tasks, ``select`` and ``commit`` one.
    A task works in its own process: give an executor as many tasks at once as there are cores.
    """

    name = "shear-lit prepare"
    type = "TOKENIZER"

    def __init__(self, settings: PrepareSettings, stage: Stage, questions: Sequence[Task] = ()) -> None:
        """Do ``stage`` of a run with ``settings``, the same for all stages and tasks; ``questions`` are of suites."""
        super().__init__()
        self.settings, self.stage, self.questions = replace(settings, workers=1), stage, questions

    def run(self, data: DocumentsPipeline = None, rank: int = 0, world_size: int = 1) -> DocumentsPipeline:
        """Do the part of task ``rank`` of ``world_size``.

        Raises:
            DataError: as ``prepare_stage``.
        """
        part = (
            PartNumber(rank + 1, world_size) if self.stage in ("tokenise", "pack") or world_size > 1 else None
        )
        prepare_stage(self.settings, self.stage, part, tasks=self.questions)
        yield from data or ()


class HandOver(PipelineStep):
    """Tokenises the documents of a pipeline for ``prepare``, whose domain is given as ``datatrove://`` then.

    What is prepared does not depend on how many tasks there are: inputs come in the order of their names, and an
    input's documents in the order in which the task gave them that reads it. A document's input is what its metadata
    calls ``file_path``, as datatrove's readers do; several tasks that give documents of one input are refused.
    A document is held to what ``prepare`` asks of a record's text: one that is empty, no Unicode, or larger than
    ``max_document_bytes`` is rejected, counted, and named by its input and its number among those that were given.
    Nothing else of a text is changed. Documents go on to the next step as they came.
    """

    name = "shear-lit hand-over"
    type = "TOKENIZER"

    def __init__(
        self,
        settings: PrepareSettings,
        domain: str,
        input_key: str = "file_path",
        questions: Sequence[Task] = (),
    ) -> None:
        """Give documents to ``domain`` of ``settings``; the metadata's ``input_key`` names the input of each.

        ``questions`` are those of suites, where ``settings.decontaminate`` names some.

        Raises:
            DataError: the settings give the domain no ``datatrove://``, or are those of conversations.
        """
        super().__init__()
        if not isinstance(settings, PrepareSettings):
            raise DataError("'chat': a pipeline gives text. Prepare conversations from files.", key="format")
        given = settings.domains.get(domain, ())
        if f"{PIPELINE}://" not in ([given] if isinstance(given, str) else given):
            raise DataError(
                f"{given!r}: documents of a pipeline go to a domain that says so. Use domains.{domain}={PIPELINE}://",
                key=f"domains.{domain}",
            )
        self.settings, self.domain, self.input_key, self.questions = settings, domain, input_key, questions

    def run(self, data: DocumentsPipeline = None, rank: int = 0, world_size: int = 1) -> DocumentsPipeline:
        """Tokenise the documents of task ``rank`` of ``world_size``, and write what it gave in the end.

        Raises:
            DataError: other tasks have other settings, or a document names no input.
        """
        os.environ |= ONE_THREAD
        with begun(self.settings, shared=True, tasks=self.questions) as run:
            run.start()
            inputs: dict[str, _Input] = {}
            open_input = None
            for document in data or ():
                name = document.metadata.get(self.input_key)
                if not isinstance(name, str) or not name:
                    raise DataError(
                        f"{self.input_key!r}: document {document.id!r} has no such entry in its metadata, which names "
                        "the input that it is of. Have a reader add it (add_file_path), or name another entry.",
                        key="input_key",
                    )
                if open_input is not None and open_input.name != name:
                    open_input.end_piece()
                open_input = inputs.setdefault(name, _Input(run.job, self.domain, name))
                open_input.add(document)
                self.stat_update("documents")
                yield document
            write_list(run.job, self.domain, rank + 1, world_size, [one.given() for one in inputs.values()])


@dataclass
class _Input:
    """What a task has given of one input."""

    job: Any
    domain: str
    name: str
    bytes: int = 0
    contents: int = 0
    found: list[Found] = field(default_factory=list)
    size: int = 0
    done: list[Encoded] = field(default_factory=list)
    sections: list[str] = field(default_factory=list)

    def add(self, document: Document) -> None:
        """Take a document, and tokenise those that make up a piece of work."""
        found, size = found_in_text(len(self.found) + 1, document.text, limit=self.job.max_document_bytes)
        self.found.append(found)
        self.size += size
        self.bytes += size
        if self.size >= self.job.unit_bytes:
            self.end_piece()

    def end_piece(self) -> None:
        """Tokenise what was taken."""
        if not self.found:
            return
        job: Encoding = self.job
        piece = Piece(domain=self.domain, name=self.name, kind=PIPELINE, bytes=self.size)
        one = encoded(job, piece, self.found)
        self.contents += one.contents[0]
        self.done.append(one)
        self.found, self.size = [], 0
        if len(self.done) == SECTION_PIECES:
            self._end_section()

    def given(self) -> Given:
        """What all of it is, when its task has ended."""
        self.end_piece()
        if self.done:
            self._end_section()
        content = joined(
            [(Piece(domain=self.domain, name=self.name, kind=PIPELINE, bytes=0), (self.contents,))]
        )
        return Given(
            name=self.name, bytes=self.bytes, content=content[self.name], sections=tuple(self.sections)
        )

    def _end_section(self) -> None:
        record = SectionRecord(
            stamps=("",), known=(), pieces=tuple(done_piece([0], one) for one in self.done)
        )
        # Named by what it holds: a task that is done again, or of another run of the pipeline, changes no file.
        content = json.dumps(
            [self.domain, self.name, len(self.sections), [one.spool for one in record.pieces]]
        )
        file = f"{hashlib.sha256(content.encode()).hexdigest()[:32]}.json"
        write_record(self.job.sections / file, record, self.job.spools)
        self.sections.append(file)
        self.done = []
