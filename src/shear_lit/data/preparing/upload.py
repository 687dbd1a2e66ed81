"""Prepared data that is written to S3: a run works in a directory, and sends what it has made in the end.

The directory holds two of its own: what is known of the data that is in S3 (its manifest and its ledger, fetched), and
``.partial`` beside it, as for any other output. Objects appear whole. They are sent in such an order that a reader
finds the old data or the new: the manifest is the last one.
"""

import hashlib
import json
import logging
import secrets
import shutil
from collections.abc import Iterator
from pathlib import Path

from shear_lit.data.errors import DataError
from shear_lit.data.prepared.chunks import content_problem, file_hash, write_part
from shear_lit.data.prepared.manifest import LEDGER, MANIFEST, Manifest
from shear_lit.data.prepared.reading import manifest_alone
from shear_lit.data.preparing.checks import earlier_manifest
from shear_lit.data.preparing.commit import (
    clear,
    commit,
    is_of_stopped_run,
    moving_order,
    output_place,
)
from shear_lit.data.preparing.settings import CommonSettings
from shear_lit.data.storage.attempts import StorageError
from shear_lit.data.storage.s3 import (
    S3,
    Stored,
    fetch,
    is_address,
    listed,
    problem,
    put,
    remove,
    split_address,
    stored_sha256,
)
from shear_lit.progress import Progress

_BEGUN = "upload.json"  # in the directory of a run: what it is sent to
_log = logging.getLogger(__name__)


def place_of(settings: CommonSettings) -> Path:
    """The directory that is written: the output, or where a run works that sends what it has made.

    Raises:
        DataError: it cannot be written, or is no place that is written to.
    """
    if not is_address(settings.output):
        if "://" in settings.output:
            raise DataError(
                f"{settings.output!r}: a directory or an address that begins with {S3} is written. Correct it; "
                "AWS_ENDPOINT_URL names another service that speaks S3.",
                key="output",
            )
        if settings.work:
            raise DataError(
                f"{settings.work!r}: a run whose output is a directory works beside it. Leave it out.",
                key="work",
            )
        return output_place(settings.output)
    address = address_of(settings)
    bucket, prefix = split_address(address)
    if not bucket or not prefix:
        raise DataError(
            f"{settings.output!r}: {S3}BUCKET/PREFIX is expected, and the prefix is for this data alone. Correct it.",
            key="output",
        )
    if not settings.work:
        raise DataError(
            f"{settings.output!r}: a run works in a directory and sends what it has made in the end. Name one with "
            "--work DIR, which machines that do parts of the run share.",
            key="output",
        )
    name = f"{prefix.rpartition('/')[2]}-{hashlib.sha256(address.encode()).hexdigest()[:8]}"
    try:
        return output_place(str(Path(settings.work) / name))
    except ValueError as error:  # of the user, about a directory that they named by another key
        error.key = "work"  # type: ignore[attr-defined]
        raise


def address_of(settings: CommonSettings) -> str:
    """The address of the output in S3; nothing, where it is a directory."""
    return settings.output.rstrip("/") if is_address(settings.output) else ""


def earlier(settings: CommonSettings, output: Path) -> Manifest | None:
    """The manifest of the data that is there already, if there is any; of data in S3, with the ledger beside it.

    Raises:
        DataError: it cannot be read, or something else is there.
    """
    if not (address := address_of(settings)):
        return earlier_manifest(output)
    try:
        there = {one.key: one for one in _listed(address)}
        if MANIFEST not in there:
            shutil.rmtree(output, ignore_errors=True)  # of data that is no longer in S3
            if there and not (output.with_name(f"{output.name}.partial") / _BEGUN).is_file():
                raise DataError(
                    f"{settings.output!r} holds objects already, and no prepared data to which files could be added: "
                    "nothing is ever overwritten. Choose another prefix, or remove them.",
                    key="output",
                )
            return None
        return _fetched(address, output)
    except StorageError as error:
        raise problem(error, settings.output, "output") from error


def _listed(address: str) -> Iterator[Stored]:
    """What lies below an address, named from there."""
    bucket, prefix = split_address(f"{address}/")
    for one in listed(bucket, prefix):
        yield Stored(key=one.key.removeprefix(prefix), bytes=one.bytes, version=one.version)


def _fetched(address: str, output: Path) -> Manifest:
    """What adding files takes, in ``output``."""
    output.mkdir(parents=True, exist_ok=True)
    _fetch(f"{address}/{MANIFEST}", output / MANIFEST)
    manifest = manifest_alone(output)
    folder = output / LEDGER / str(manifest.runs)
    for record in manifest.ledger:
        if content_problem(folder / record.file, record) is not None:
            folder.mkdir(parents=True, exist_ok=True)
            _fetch(f"{address}/{LEDGER}/{manifest.runs}/{record.file}", folder / record.file)
    return manifest


def _fetch(address: str, path: Path) -> None:
    """Fetch an object that appears whole: machines that share the directory may do so at once."""
    beside = path.with_name(f"{path.name}.{secrets.token_hex(8)}")
    fetch(address, beside)
    beside.replace(path)


def publish(settings: CommonSettings, packed: Path, output: Path, manifest: Manifest) -> None:
    """Make what is in ``packed`` a part of the output; a run that is stopped here leaves the old data.

    Raises:
        DataError: it cannot be sent.
    """
    if not (address := address_of(settings)):
        commit(packed, output)
        return
    write_part(packed.parent / _BEGUN, (json.dumps(address).encode(),))
    try:
        _send(address, packed, manifest)
    except StorageError as error:
        raise problem(error, settings.output, "output") from error


def _send(address: str, packed: Path, manifest: Manifest) -> None:
    files = sorted((path for path in packed.rglob("*") if path.is_file()), key=moving_order)
    there = {one.key: one.bytes for one in _listed(address)}
    hashes = _hashes(manifest)
    again = 0
    with Progress("Sending", sum(path.stat().st_size for path in files), "B", bytes_of=True) as progress:
        for path in files:
            name, size = path.relative_to(packed).as_posix(), path.stat().st_size
            if name == MANIFEST:
                _check_sent(address, manifest)
            sha256 = hashes.get(name) or file_hash(path)
            if there.get(name) == size and stored_sha256(f"{address}/{name}") == sha256:
                again += 1
            else:
                put(path, f"{address}/{name}", sha256)
            progress.add(size)
    if again:
        _log.info("%d of %d files were sent by an earlier run", again, len(files))


def _hashes(manifest: Manifest) -> dict[str, str]:
    """The SHA-256 of each file that the manifest names, by its place."""
    hashes = {f"{LEDGER}/{manifest.runs}/{one.file}": one.sha256 for one in manifest.ledger}
    for name, domain in manifest.domains.items():
        for split, record in domain.splits.items():
            for one in (one for chunk in record.chunks for one in chunk.files()):
                hashes[f"{name}/{split}/{one.file}"] = one.sha256
    return hashes


def _check_sent(address: str, manifest: Manifest) -> None:
    """See that all that a manifest names is there, before it is."""
    there = {one.key for one in _listed(address)}
    if missing := sorted(_hashes(manifest).keys() - there):
        raise StorageError(f"{missing[0]} is not there, nor are {len(missing) - 1} others that were sent")


def clear_output(settings: CommonSettings, output: Path, manifest: Manifest) -> None:
    """Remove what a run that was stopped while it added files left behind: what the manifest does not name.

    Raises:
        DataError: the storage refuses.
    """
    if not (address := address_of(settings)):
        clear(output, manifest)
        return
    named = _hashes(manifest)
    try:
        for one in _listed(address):
            if one.key not in named and is_of_stopped_run(one.key, manifest):
                remove(f"{address}/{one.key}")
    except StorageError as error:
        raise problem(error, settings.output, "output") from error
    shutil.rmtree(output, ignore_errors=True)
