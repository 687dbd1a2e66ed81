"""Which MDS folders to import, and as what: the settings, for which nothing heavy is imported."""

from dataclasses import dataclass
from pathlib import Path

from shear_lit.data.errors import DataError
from shear_lit.data.prepared.manifest import SPLITS
from shear_lit.data.preparing.mds import MERGED, MdsError
from shear_lit.data.preparing.settings import CHUNK_BYTES
from shear_lit.disk.names import expanded
from shear_lit.ranges import ChunkBytes

_PUBLISHED = {
    "prune": ("for_prune",),
    "pretrain": ("for_ft",),
    "validation": (f"eval/{MERGED}", MERGED, "eval"),
}
"""Where LLM-Shearing's scripts put each split."""


@dataclass(frozen=True, kw_only=True)
class MdsImport:
    """Which MDS folders to import, and as what."""

    from_mds: str | dict[str, str | list[str]]
    """MDS folders by split (`--from_mds.prune=DIR`), or the directory that holds `for_prune`, `for_ft` and `eval`."""
    tokenizer: str
    """Hugging Face directory or name of the tokenizer that made the tokens; for the published data that of Llama 2."""
    output: str
    """Directory to write; must be empty or absent."""
    append_eos: bool = True
    """Whether each document ends with EOS, which LLM-Shearing's scripts add; only written into the manifest."""
    prepend_bos: bool = True
    """Whether each document begins with BOS, which LLM-Shearing's scripts add; only written into the manifest."""
    chunk_bytes: ChunkBytes = CHUNK_BYTES
    """Size in bytes that each file of packed sequences aims at."""

    def __post_init__(self) -> None:
        if self.chunk_bytes < 1:
            raise DataError(
                f"{self.chunk_bytes} is no size: use 1 or more, for example {CHUNK_BYTES}.", key="chunk_bytes"
            )

    def folders(self) -> dict[str, list[str]]:
        """The MDS folders of each split.

        Raises:
            MdsError: a split has another name than ours, or a directory holds none of LLM-Shearing's folders.
        """
        if isinstance(self.from_mds, str):
            return _published(expanded(self.from_mds))
        if not self.from_mds or not set(self.from_mds) <= set(SPLITS):
            raise MdsError(
                f"from_mds names the splits {sorted(self.from_mds)}: there must be one, and they are "
                f"{', '.join(SPLITS)}. Write for example --from_mds.prune=DIR --from_mds.validation=DIR."
            )
        return {split: [f] if isinstance(f, str) else list(f) for split, f in self.from_mds.items()}


def _published(root: Path) -> dict[str, list[str]]:
    found = {
        split: [str(next(root / place for place in places if (root / place).is_dir()))]
        for split, places in _PUBLISHED.items()
        if any((root / place).is_dir() for place in places)
    }
    if not found:
        names = ", ".join(place for places in _PUBLISHED.values() for place in places)
        raise MdsError(
            f"{str(root)!r} holds none of {names}: which split it is cannot be told. "
            "Name the split: --from_mds.prune=DIR, --from_mds.pretrain=DIR, --from_mds.validation=DIR.",
            key="from_mds",
        )
    return found
