"""The hub's cache, as huggingface_hub lays it out, filled by hand: there is no hub here."""

import hashlib
from pathlib import Path

NAME = "somebody/small"
FIRST, SECOND = "1" * 40, "2" * 40


def publish(
    cache: Path, source: Path, commit: str, *, name: str = NAME, refs: tuple[str, ...] = ("main",)
) -> None:
    """Put the files of a directory into the cache as a commit of a model, to which ``refs`` then point."""
    repository = cache / f"models--{name.replace('/', '--')}"
    snapshot, blobs = repository / "snapshots" / commit, repository / "blobs"
    for folder in (snapshot, blobs, repository / "refs"):
        folder.mkdir(parents=True, exist_ok=True)
    for path in source.iterdir():
        content = path.read_bytes()
        blob = blobs / hashlib.sha256(content).hexdigest()
        blob.write_bytes(content)
        (snapshot / path.name).symlink_to(Path("..", "..", "blobs", blob.name))
    for ref in refs:
        (repository / "refs" / ref).write_text(commit)


def use(cache: Path) -> None:
    """Let this process read models of the hub from ``cache`` and nowhere else."""
    from huggingface_hub import constants

    constants.HF_HUB_CACHE = str(cache)
    constants.HF_HUB_OFFLINE = True
