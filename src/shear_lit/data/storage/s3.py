"""Objects in S3: listed, read as a whole or by ranges, and written; each request is made again where it fails.

What is read is held to the size and the version that were listed, and to its MD5 where S3 gives one. The libraries are
imported where they are used: commands start without them.
"""

import hashlib
import os
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

from shear_lit.data.errors import DataError
from shear_lit.data.storage.attempts import FinalError, StorageError, attempted

S3 = "s3://"
"""What an address in S3 begins with."""

_MD5 = re.compile(r"[0-9a-f]{32}")
_READ_BYTES = 1 << 20
_PART_BYTES = 16 << 20  # of an upload in several parts
_MEANINGS = {
    "NoSuchBucket": "there is no such bucket",
    "AccessDenied": "access is denied to these credentials",
    "403": "access is denied to these credentials",
    "InvalidAccessKeyId": "the access key is not known there",
    "SignatureDoesNotMatch": "the secret key is not the one of the access key",
    "NoCredentialsError": "no credentials were found (AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or a profile)",
    "PartialCredentialsError": "AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY are needed, and one is missing",
    "ParamValidationError": "that is no name of a bucket or of an object",
    "PreconditionFailed": "it has changed since it was listed",
    "412": "it has changed since it was listed",
}


@dataclass(frozen=True, kw_only=True)
class Stored:
    """An object, as it was listed."""

    key: str
    """Its name in the bucket."""
    bytes: int
    """Its size."""
    version: str
    """Its ETag, which another content does not have."""


def is_address(name: str) -> bool:
    """Whether ``name`` is one in S3."""
    return name.startswith(S3)


def split_address(address: str) -> tuple[str, str]:
    """The bucket and the name in it."""
    bucket, _, key = address.removeprefix(S3).partition("/")
    return bucket, key


def problem(error: StorageError, address: str, key: str) -> DataError:
    """What a person is told about an address that they gave as ``key``."""
    known = _MEANINGS.get(error.code)
    said = f"{known} ({error.code})" if known else str(error)
    found = DataError(
        f"{address!r}: {said}. Check the address, the credentials and the network (AWS_ENDPOINT_URL names a service "
        "other than Amazon's), and run the same command again: it continues.",
        key=key,
    )
    found.exit_code = 2 if known else 1
    return found


def listed(bucket: str, prefix: str) -> Iterator[Stored]:
    """The objects whose names begin with ``prefix``, in the order of their names.

    Raises:
        StorageError: they cannot be listed.
    """
    more: dict[str, str] = {}
    while True:
        ask = {"Bucket": bucket, "Prefix": prefix, **more}
        page = attempted(lambda ask=ask: _client().list_objects_v2(**ask), f"{S3}{bucket}/{prefix}")  # type: ignore[misc]
        for one in page.get("Contents", ()):
            yield Stored(key=one["Key"], bytes=one["Size"], version=one["ETag"].strip('"'))
        if not page.get("IsTruncated"):
            return
        more = {"ContinuationToken": page["NextContinuationToken"]}


def fetch(address: str, target: Path, version: str = "") -> None:
    """Write the object at ``address`` to ``target``, where it is of that version.

    Raises:
        StorageError: it cannot be had, or has changed.
        OSError: ``target`` cannot be written.
    """
    try:
        attempted(lambda: _fetch(address, target, version), address)
    except BaseException:
        target.unlink(missing_ok=True)
        raise


def _fetch(address: str, target: Path, version: str) -> None:
    with target.open("wb") as file:
        copy(address, file.write, version)


def copy(
    address: str, write: Callable[[bytes], object], version: str = "", *, is_hashed: bool = False
) -> None:
    """Give ``write`` an object part by part, by one request that is made once.

    Its MD5 is held against what S3 says, unless it ``is_hashed`` by whoever asks for it.

    Raises:
        OSError: less arrived than was promised, or something else.
        Exception: botocore's, where it cannot be had.
    """
    answer = _get(address, version)
    digest, size = hashlib.md5(usedforsecurity=False), 0
    while content := answer["Body"].read(_READ_BYTES):
        write(content)
        size += len(content)
        if not is_hashed:
            digest.update(content)
    if size != answer["ContentLength"]:
        raise OSError(f"{size:,} of {answer['ContentLength']:,} bytes arrived")
    if is_hashed:
        return
    expected = answer["ETag"].strip('"')
    is_md5 = _MD5.fullmatch(expected) and answer.get("ServerSideEncryption", "AES256") == "AES256"
    if is_md5 and "SSECustomerAlgorithm" not in answer and digest.hexdigest() != expected:
        raise OSError("what arrived has another MD5")


def read_range(address: str, start: int, size: int, version: str = "") -> bytes:
    """At most ``size`` bytes of an object from ``start`` on, which lies in it.

    Raises:
        StorageError: they cannot be had, or it has changed.
    """

    def ask() -> bytes:
        answer = _get(address, version, Range=f"bytes={start}-{start + size - 1}")
        content = bytes(answer["Body"].read())
        if len(content) != answer["ContentLength"] or len(content) > size:
            raise OSError(f"{len(content):,} of {answer['ContentLength']:,} bytes arrived")
        return content

    return attempted(ask, address)


def _get(address: str, version: str, **more: str) -> Any:
    bucket, key = split_address(address)
    if version:
        more["IfMatch"] = f'"{version}"'
    return _client().get_object(Bucket=bucket, Key=key, **more)


def stored_sha256(address: str) -> str:
    """The SHA-256 that ``put`` gave an object; nothing, where it has none.

    Raises:
        StorageError: it cannot be asked for.
    """
    bucket, key = split_address(address)
    answer = attempted(lambda: _client().head_object(Bucket=bucket, Key=key), address)
    return str(answer.get("Metadata", {}).get("sha256", ""))


def put(path: Path, address: str, sha256: str) -> None:
    """Send a file, in several parts where it is large; the object appears whole or not at all.

    Raises:
        StorageError: it cannot be sent.
    """
    from boto3.s3.transfer import TransferConfig

    bucket, key = split_address(address)
    how = TransferConfig(multipart_threshold=_PART_BYTES, multipart_chunksize=_PART_BYTES)
    more = {"Metadata": {"sha256": sha256}}
    attempted(lambda: _client().upload_file(str(path), bucket, key, ExtraArgs=more, Config=how), address)


def remove(address: str) -> None:
    """Remove an object.

    Raises:
        StorageError: it cannot be removed.
    """
    bucket, key = split_address(address)
    attempted(lambda: _client().delete_object(Bucket=bucket, Key=key), address)


def _client() -> Any:
    return _client_of(
        os.getpid(), os.environ.get("AWS_ENDPOINT_URL_S3") or os.environ.get("AWS_ENDPOINT_URL", "")
    )


@lru_cache(maxsize=4)
def _client_of(process: int, endpoint: str) -> Any:
    """A client that gives up soon, as attempts are counted here; connections do not outlive a fork."""
    import boto3
    from botocore.config import Config
    from botocore.exceptions import NoRegionError

    config = Config(retries={"total_max_attempts": 1}, connect_timeout=15, read_timeout=60)
    try:
        return boto3.Session().client("s3", config=config)
    except NoRegionError as error:
        raise FinalError(str(error)) from error
