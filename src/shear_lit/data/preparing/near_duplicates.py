"""Near duplicates: datatrove's MinHash in four stages, from a reader of its own to whatever step follows.

Each document gets ``buckets`` signatures of ``hashes`` minima over its runs of ``words`` words; two that share a
signature are near duplicates, which happens with probability 1 - (1 - s^hashes)^buckets at Jaccard similarity s
(locality-sensitive hashing, as in arXiv:2107.06499, appendix A). Needs ``pip install 'shear-lit[datatrove]'``, and
storage that all tasks share.
"""

import json
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal

from datatrove.data import Document
from datatrove.executor import LocalPipelineExecutor
from datatrove.executor.base import PipelineExecutor
from datatrove.pipeline.base import PipelineStep
from datatrove.pipeline.dedup import (
    MinhashDedupBuckets,
    MinhashDedupCluster,
    MinhashDedupFilter,
    MinhashDedupSignature,
)
from datatrove.pipeline.dedup.minhash import MinhashConfig
from datatrove.pipeline.writers.disk_base import DiskWriter
from datatrove.utils.hashing import HashConfig
from datatrove.utils.word_tokenizers import WordTokenizer, load_word_tokenizer

from shear_lit.data.errors import DataError

DROPPED = "dropped"
"""Folder of what says which documents were dropped, in the folder of work: a file of JSON lines for each task."""


@dataclass(frozen=True, kw_only=True)
class NearDuplicates:
    """How near duplicates are told, and where the work lies; the numbers are datatrove's defaults."""

    work: str
    """Folder for signatures and lists, which all tasks see. A stage that is done is not done again."""
    tasks: int
    """Tasks that read the documents; each reads the same ones in the first stage and in the last."""
    words: int = 5
    """Words of a run."""
    buckets: int = 14
    """Signatures of a document."""
    hashes: int = 8
    """Minima of each signature: with 14 buckets, similarities from about 0.72 on are found more often than not."""
    split: Literal["spacy", "white space"] = "white space"
    """What makes words: datatrove's English tokenizer, which needs spaCy, or the white space between them."""
    domain_key: str = "domain"
    """Entry of a document's metadata by which what is dropped is counted."""

    def __post_init__(self) -> None:
        for key in ("tasks", "words", "buckets", "hashes"):
            if getattr(self, key) < 1:
                raise DataError(f"{getattr(self, key)}: 1 or more is expected. Correct it.", key=key)

    def probability(self, similarity: float) -> float:
        """How likely two documents of a Jaccard similarity share a signature."""
        return 1 - (1 - similarity**self.hashes) ** self.buckets

    def stages(
        self,
        reader: PipelineStep,
        then: Sequence[PipelineStep],
        executor: Callable[..., PipelineExecutor] | None = None,
    ) -> list[PipelineExecutor]:
        """The four stages, each of which begins where the one before is done.

        Args:
            reader: A reader of datatrove's, which gives each task the same documents in the same order every time.
            then: What the documents go to that are left.
            executor: Makes an executor of ``pipeline``, ``tasks`` and ``logging_dir``; by default of one process. With
                ``functools.partial(SlurmPipelineExecutor, ...)`` each stage depends on the one before: run the last.
        """
        make, folder = executor or partial(LocalPipelineExecutor, workers=1), Path(self.work)
        config = MinhashConfig(
            n_grams=self.words,
            num_buckets=self.buckets,
            hashes_per_bucket=self.hashes,
            hash_config=HashConfig(
                precision=64, hash_fc="sha1"
            ),  # xxhash 4 takes no text, which datatrove gives it
        )
        signatures, pairs, removed = (str(folder / name) for name in ("signatures", "pairs", "removed"))
        steps: list[tuple[int, list[PipelineStep]]] = [
            (self.tasks, [reader, MinhashDedupSignature(signatures, config, language=self._splitter())]),
            (self.buckets, [MinhashDedupBuckets(signatures, pairs, config=config)]),
            (1, [MinhashDedupCluster(pairs, removed, config=config)]),
            (
                self.tasks,
                [
                    reader,
                    MinhashDedupFilter(removed, DroppedWriter(str(folder / DROPPED), self.domain_key)),
                    *then,
                ],
            ),
        ]
        made: list[PipelineExecutor] = []
        for number, (tasks, pipeline) in enumerate(steps, start=1):
            log = str(folder / "logs" / str(number))
            before = {"depends": made[-1]} if made else {}
            made.append(make(pipeline=pipeline, tasks=tasks, logging_dir=log, **before))
        return made

    def dropped(self) -> dict[str, int]:
        """How many documents were dropped, by domain."""
        found: Counter[str] = Counter()
        for path in sorted((Path(self.work) / DROPPED).glob("*.jsonl")):
            for line in path.read_text(encoding="utf-8").splitlines():
                found[json.loads(line)["domain"]] += 1
        return dict(sorted(found.items()))

    def _splitter(self) -> Any:
        return WhiteSpace() if self.split == "white space" else load_word_tokenizer("eng")


class WhiteSpace(WordTokenizer):
    """Words are what stands between white space; no model and no other package is needed."""

    def word_tokenize(self, text: str) -> list[str]:
        """The words."""
        return text.split()

    def sent_tokenize(self, text: str) -> list[str]:
        """One sentence: nothing here asks for them."""
        return [text]

    def span_tokenize(self, text: str) -> list[tuple[int, int]]:
        """The place of it."""
        return [(0, len(text))]


class DroppedWriter(DiskWriter):
    """Writes the name and the domain of each document that is dropped, one line of JSON each."""

    name = "shear-lit dropped documents"
    default_output_filename = "${rank}.jsonl"

    def __init__(self, folder: str, domain_key: str) -> None:
        """Write into ``folder``; the metadata's ``domain_key`` is the domain."""
        super().__init__(folder, self.default_output_filename, compression=None, mode="wb")
        self._domain_key = domain_key

    def _default_adapter(self, document: Document) -> dict[str, Any]:
        return {"id": document.id, "domain": str(document.metadata.get(self._domain_key, ""))}

    def _write(self, document: dict[str, Any], file_handler: Any, _filename: str) -> None:
        file_handler.write(json.dumps(document).encode() + b"\n")


def run_all(stages: Sequence[PipelineExecutor]) -> None:
    """Run the stages of a local executor, one after the other."""
    for stage in stages:
        stage.run()
