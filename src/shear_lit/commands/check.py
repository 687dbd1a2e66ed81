"""``shear-lit prepare --check DIR``: whether prepared data is what its manifest says."""

from typing import TYPE_CHECKING

from shear_lit.data.serving.remote import REMOTE, RemoteSettings
from shear_lit.ranges import Count

if TYPE_CHECKING:
    from shear_lit.data.looking.verification import Verified


def check_prepared(check: str, workers: Count = 4, remote: RemoteSettings = REMOTE) -> "Verified":
    """Hold every chunk and index of prepared data against its manifest; nothing is written.

    Names each one that is missing or changed, and then ends with exit code 1.

    Args:
        check: Directory that `shear-lit prepare` wrote, or its address: s3://, gs:// or hf://datasets/.
        workers: Chunks that are read at a time.
        remote: How data in remote storage is read.
    """
    from shear_lit.data.looking.verification import verify

    return verify(check, workers=workers, remote=remote)
