"""How long does the one stage of ``prepare`` take that is not done in parts, and how much memory? One JSON line.

``select`` is simulated: the files that it reads are made of random hashes and lengths, without a text or a token. Each
size runs in a process of its own: ``gather`` reads what is known of the sections, ``duplicates`` finds what came
before, ``divide`` gives every document its split, ``tasks`` writes the list of chunks. The bar, at 10^9 documents, is
64 GB and an hour; what is measured is carried on to there by its growth from the second largest size to the largest.
"""

import argparse
import json
import os
import platform
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from contextlib import contextmanager
from itertools import pairwise
from pathlib import Path

import numpy as np

from shear_lit.data.prepared.manifest import TokenizerRecord
from shear_lit.data.preparing import duplicates, stages
from shear_lit.data.preparing.job import TextJob
from shear_lit.data.preparing.sections import SECTION_PIECES, DonePiece, Section, SectionFiles, SectionRecord
from shear_lit.data.preparing.settings import PrepareSettings, SplitTokens
from shear_lit.data.preparing.tokenising import gathered
from shear_lit.data.text.kind import Source
from shear_lit.data.tokens.spools import SpoolRecord

DOMAINS = 7
DOCUMENTS = 1600  # of a piece of work of 2 MiB, where 10^9 documents are 1.2 TB
TOKENS = 300  # of a document, on average
AGAIN = 0.1  # of the documents came before


def job_in(folder: Path) -> TextJob:
    """A run that gives each domain 2 million tokens for validation, or fewer where there are few."""
    tokenizer = TokenizerRecord(name="none", fingerprint="f" * 64, vocabulary=32_000, bos_id=1, eos_id=2)
    settings = PrepareSettings(
        domains={"absent": "absent"},
        tokenizer="none",
        output=str(folder / "out"),
        tokens=SplitTokens(validation=100_000),
    )
    job = TextJob(settings=settings, tokenizer=tokenizer, work=folder)
    for place in (job.spools, job.sections):
        place.mkdir(exist_ok=True)
    job.tokenizer_file.write_text("{}")
    return job


def make(job: TextJob, documents: int) -> list[Section]:
    """The files of so many documents."""
    files, numbers = SectionFiles(job, None), np.random.default_rng(0)
    pieces = [DOCUMENTS] * (documents // DOCUMENTS) + [documents % DOCUMENTS] * (documents % DOCUMENTS > 0)
    firsts = [
        np.append(np.arange(0, len(part), SECTION_PIECES), len(part))
        for part in np.array_split(pieces, DOMAINS)
    ]
    found, earlier = [], np.empty((0, 2), "<u8")
    for domain, (own, starts) in enumerate(zip(np.array_split(pieces, DOMAINS), firsts, strict=True)):
        for first, last in zip(starts[:-1].tolist(), starts[1:].tolist(), strict=True):
            source = Source(
                domain=f"domain-{domain}", name=f"{domain}.jsonl", kind="lines", bytes=len(own) << 21
            )
            section = Section(sources=(source,), first=first, last=last)
            found.append(section)
            path, counts = files.path(section), own[first:last].tolist()
            hashes = numbers.integers(0, 1 << 64, (sum(counts), 2), dtype="<u8")
            again = numbers.random(len(hashes)) < AGAIN
            if len(earlier):
                hashes[again] = earlier[numbers.integers(0, len(earlier), int(again.sum()))]
            earlier = np.concatenate([earlier, hashes[:1000]])
            lengths = numbers.integers(1, 2 * TOKENS, len(hashes)).astype("<u4")
            with path.with_suffix(".documents").open("wb") as file:
                file.write(hashes.tobytes())
                file.write(lengths.tobytes())
            starts_in = np.cumsum([0, *counts])
            done = [
                piece(f"{len(found):08x}{n:024x}", lengths[a:b])
                for n, (a, b) in enumerate(pairwise(starts_in))
            ]
            record = SectionRecord(stamps=("",), known=(), pieces=tuple(done))
            path.write_text(json.dumps(record, default=vars))
    return found


def piece(name: str, lengths: np.ndarray) -> DonePiece:
    record = SpoolRecord(
        documents=len(lengths),
        tokens=int(lengths.sum()),
        numbers=len(lengths),
        rejected={},
        first=[],
        token_type="uint16",
    )
    return DonePiece(inputs=(0,), spool=name, contents=("f" * 64,), record=record)


def measure(folder: Path, documents: int) -> dict:
    """Select, in this process."""
    job = job_in(folder)
    own = json.loads((folder / "sections-list").read_text())
    sections = [Section(**one | {"sources": tuple(Source(**s) for s in one["sources"])}) for one in own]
    seconds: dict[str, float] = {}

    @contextmanager
    def timed(name: str):
        start = time.perf_counter()
        yield
        seconds[name] = seconds.get(name, 0.0) + time.perf_counter() - start

    def timing(name: str):
        real = getattr(stages, name.partition(":")[2])

        def call(*arguments, **more):
            with timed(name.partition(":")[0]):
                return real(*arguments, **more)

        setattr(stages, name.partition(":")[2], call)

    with timed("gather"):
        domains = gathered(job, sections, None)
    for name in ("duplicates:mark_duplicates", "divide:select", "tasks:write_selected"):
        timing(name)
    with timed("all"):
        selected = stages.select_documents(job, domains, None, "plan")
    seconds["all"] += seconds["gather"]
    assert sum(s.documents for d in selected.domains.values() for s in d.splits.values()) > documents / 2
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss << 10
    written = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
    return {
        "documents": documents,
        "seconds": {name: round(value, 2) for name, value in seconds.items()},
        "peak_mebibytes": round(peak / 2**20),
        "gigabytes_on_disk": round(written / 1e9, 3),
    }


def simulated(documents: int, options: argparse.Namespace) -> dict:
    """Make the files, and select in another process."""
    with tempfile.TemporaryDirectory(dir=options.folder) as place:
        folder = Path(place)
        sections = make(job_in(folder), documents)
        listed = [
            {"sources": [vars(s) for s in one.sources], "first": one.first, "last": one.last}
            for one in sections
        ]
        (folder / "sections-list").write_text(json.dumps(listed))
        asked = [sys.executable, __file__, "--inside", str(folder), "--documents", str(documents)]
        asked += ["--bucket-documents", str(options.bucket_documents)]
        found = subprocess.run(asked, check=True, stdout=subprocess.PIPE, text=True)
        shutil.rmtree(folder / "sections")
        return json.loads(found.stdout.splitlines()[-1])


def carried_on(less: dict, more: dict, to: int) -> dict:
    """Seconds and gigabytes at ``to`` documents, on the line through two measurements."""

    def line(a: float, b: float) -> float:
        slope = (b - a) / (more["documents"] - less["documents"])
        return b + slope * (to - more["documents"])

    return {
        "documents": to,
        "minutes": round(line(less["seconds"]["all"], more["seconds"]["all"]) / 60, 1),
        "peak_gigabytes": round(line(less["peak_mebibytes"], more["peak_mebibytes"]) * 2**20 / 1e9, 1),
        "gigabytes_on_disk": round(line(less["gigabytes_on_disk"], more["gigabytes_on_disk"])),
    }


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--documents", type=int, nargs="+", default=[10**5, 10**6, 10**7])
    parser.add_argument("--to", type=int, default=10**9)
    parser.add_argument("--folder", default=None, help="where to make the temporary directory")
    parser.add_argument(
        "--bucket-documents",
        type=int,
        default=duplicates.BUCKET_DOCUMENTS,
        help="documents that are sorted at once; of 10^9 it is 4 million, as there are 256 buckets at most",
    )
    parser.add_argument("--inside", default="", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.inside:
        duplicates.BUCKET_DOCUMENTS = options.bucket_documents
        print(json.dumps(measure(Path(options.inside), options.documents[0])))
        return
    found = [simulated(documents, options) for documents in options.documents]
    result = {"question": "barrier", "bar": {"minutes": 60, "gigabytes": 64}, "measured": found}
    if len(found) > 1:
        result["carried_on"] = carried_on(*found[-2:], options.to)
    print(json.dumps({**result, "machine": f"{platform.machine()}, {os.cpu_count()} cores"}))


if __name__ == "__main__":
    main()
