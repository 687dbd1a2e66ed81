"""Raw text to prepared data: tokenised, divided among splits that share no document, packed.

Every input is cut into pieces of work that depend on nothing but the input. Each is tokenised into a file of its own
in ``<output>.partial``, by whoever is free. Then duplicates are dropped and the documents divided, which needs their
hashes alone, and every chunk is packed, again by whoever is free. A run that is stopped, by whatever means, goes on
where it was, and ends with the same bytes.
"""

import shutil
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from shear_lit.data.errors import DataError
from shear_lit.data.prepared.manifest import FORMAT, MANIFEST, Manifest
from shear_lit.data.prepared.reading import read_manifest
from shear_lit.data.preparing.chat import chat_job, check_same_conversations
from shear_lit.data.preparing.chat_settings import ChatSettings
from shear_lit.data.preparing.commit import clear, clear_work, commit, disk_error, locked, output_place
from shear_lit.data.preparing.decontaminating import check_same_tasks, with_tasks, without_common
from shear_lit.data.preparing.executors import Executor, Here, Processes
from shear_lit.data.preparing.job import Job, TextJob
from shear_lit.data.preparing.ledger import ledger_of, new_sources
from shear_lit.data.preparing.settings import CommonSettings, PrepareSettings
from shear_lit.data.preparing.stages import Before, assembled, contents, tokenised
from shear_lit.data.text.contamination.tasks import Task
from shear_lit.data.text.pieces import check_text_field
from shear_lit.data.text.sources import Source, find_sources
from shear_lit.data.tokens.tokenizer import TextTokenizer, load_tokenizer

_BYTES_PER_TOKEN = 4  # of raw text, about: usual text has 3 to 5
_MOST_COMPRESSED = 3  # about


def prepare(
    settings: CommonSettings, executor: Executor | None = None, *, tasks: Sequence[Task] = ()
) -> Manifest:
    """Tokenise, split and pack ``settings.domains`` into ``settings.output``, or add to it what is new.

    A first run's output is whole, or not there. What is added is there with the last file that is written, the
    manifest; until then the data set is what it was. A run that fails or is stopped keeps what it did in
    ``<output>.partial``, and the next one goes on from there, with whatever of it suits its settings and files.

    Args:
        settings: What to prepare, and how.
        executor: Who does the tasks; by default ``settings.workers`` processes of this machine.
        tasks: Evaluation tasks of ``settings.decontaminate.suites``, which this package cannot look up.

    Raises:
        DataError: a setting cannot be met: files, output, tokenizer, disk, too much unusable text, too small a split.
    """
    output = output_place(settings.output)
    _earlier(output)  # what cannot be written to is refused before anything is made beside it
    work = output.with_name(f"{output.name}.partial")
    try:
        with locked(work):
            manifest = _prepared(settings, output, work, executor, tasks)
            clear(output, manifest)
            clear_work(work)
    except OSError as error:
        raise disk_error(work, error) from error
    return manifest


def _prepared(
    settings: CommonSettings, output: Path, work: Path, executor: Executor | None, tasks: Sequence[Task]
) -> Manifest:
    """Do what is to be done, while no other run can change the output."""
    earlier = _earlier(output)
    sources = find_sources(settings.domains, exclude=output)
    tokenizer = load_tokenizer(settings.tokenizer)
    _check_special_tokens(settings, tokenizer)
    job = with_tasks(_job(settings, tokenizer, work), sources, tasks)
    if executor is None:
        small = sum(source.bytes for source in sources) <= settings.unit_bytes
        executor = Here() if settings.workers == 1 or small else Processes(settings.workers)
    before = None
    if earlier is not None:
        check_same_conversations(earlier, job.chat, settings.output)
        _check_same_settings(earlier, settings, tokenizer)
        check_same_tasks(earlier, job.decontamination, settings.output)
    check_text_field(sources, job)
    if earlier is not None:
        before = Before(earlier, ledger_of(output, earlier))
        sources = new_sources(sources, contents(job, sources, executor), before.ledger.inputs())
        if not sources:
            return earlier
    _check_disk(output, job, sources)
    job.spools.mkdir(exist_ok=True)
    job.tokenizer_file.write_text(tokenizer.backend.to_str(), encoding="utf-8")
    job = without_common(job, sources, before.ledger.folder if before else None, executor)
    assert job.tokens_key  # computed once, here, and taken along by every task
    manifest = assembled(job, tokenised(job, sources, executor), before, executor)
    commit(job.packed, output)
    return manifest


def _job(settings: CommonSettings, tokenizer: TextTokenizer, work: Path) -> Job:
    if isinstance(settings, ChatSettings):
        return chat_job(settings, tokenizer, work)
    assert isinstance(settings, PrepareSettings)
    return TextJob(settings=settings, tokenizer=tokenizer.record(), work=work)


def _earlier(output: Path) -> Manifest | None:
    """The manifest of the data that is there already, if there is any."""
    if (output / MANIFEST).is_file():
        try:
            return read_manifest(output)
        except DataError as error:
            error.key = "output"
            raise
    if output.exists() and not (output.is_dir() and not any(output.iterdir())):
        raise DataError(
            f"{str(output)!r} is not an empty directory, nor does it hold prepared data to which files could "
            "be added: nothing is ever overwritten. Choose another directory, or remove it.",
            key="output",
        )
    return None


def _check_same_settings(earlier: Manifest, settings: CommonSettings, tokenizer: TextTokenizer) -> None:
    """Refuse to add to data that was made differently."""
    if not tokenizer.is_of(earlier.tokenizer.fingerprint):
        raise DataError(
            f"{settings.tokenizer!r} (fingerprint {tokenizer.fingerprint[:12]}) is not the one that made what "
            f"is in output={settings.output!r}: {earlier.tokenizer.name!r} ({earlier.tokenizer.fingerprint[:12]}). "
            "Use that one, or prepare into another directory.",
            key="tokenizer",
        )
    keys = ["sequence_length", "prepend_bos", "append_eos", "text_field", "shares", "tokens"]
    for key in keys + (["packing", "split_special_tokens"] if earlier.format == FORMAT else []):
        asked, found = getattr(settings, key), getattr(earlier, key)
        asked = asdict(asked) if key in ("shares", "tokens") else asked
        if asked != found and (found or key not in ("text_field", "shares", "tokens")):
            raise DataError(
                f"{asked!r}: what is in output={settings.output!r} was prepared with {found!r}, and files "
                f"can only be added in the same way. Use {key}={found!r}, or prepare into another directory.",
                key=key,
            )


def _check_special_tokens(settings: CommonSettings, tokenizer: TextTokenizer) -> None:
    for wanted, token, key in (
        (settings.append_eos, tokenizer.eos_id, "append_eos"),
        (settings.prepend_bos, tokenizer.bos_id, "prepend_bos"),
    ):
        if wanted and token is None:
            raise DataError(
                f"true: tokenizer {settings.tokenizer!r} has no such token. Use --{key} false.", key=key
            )


def _check_disk(output: Path, job: Job, sources: list[Source]) -> None:
    compressed = (".gz", ".bz2", ".xz", ".zst", ".zstd", ".parquet")
    text = sum(s.bytes * (_MOST_COMPRESSED if s.name.endswith(compressed) else 1) for s in sources)
    there = sum(path.stat().st_size for path in job.spools.glob("*"))
    needed = 2 * text * job.dtype.itemsize // _BYTES_PER_TOKEN - there  # each token is spooled, then packed
    free = shutil.disk_usage(job.work).free
    if free < needed:
        raise DataError(
            f"{str(output)!r}: {free / 1e9:.2f} GB are free there, and {text / 1e9:.2f} GB of text may take "
            f"{needed / 1e9:.2f} GB while it is prepared. Make space, or choose a directory on another disk.",
            key="output",
        )
