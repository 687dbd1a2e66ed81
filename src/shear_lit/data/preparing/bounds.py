"""Where documents begin in sequences that were packed without writing it down: what their BOS and EOS tokens tell."""

from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from shear_lit.data.errors import DataError
from shear_lit.data.prepared.chunks import SequenceDocuments, Tokens, content_problem, write_part
from shear_lit.data.prepared.manifest import (
    FORMAT,
    ChunkRecord,
    Manifest,
    TokenizerRecord,
    damaged,
    write_manifest,
)
from shear_lit.data.prepared.reading import read_manifest
from shear_lit.data.preparing.commit import disk_error, locked
from shear_lit.data.preparing.settings import MdsImport
from shear_lit.disk.names import expanded


@dataclass(frozen=True, kw_only=True)
class Ends:
    """The tokens that a document begins and ends with, as far as there are any."""

    bos: int | None
    """What it begins with."""
    eos: int | None
    """What it ends with."""

    def told(self, tokens: Tokens) -> SequenceDocuments | None:
        """Where documents begin in ``tokens``, [sequences, length]; none, where nothing tells.

        A document begins after EOS, with BOS, or where both are known only where the two meet. At the start of a
        sequence nothing comes before: there BOS alone tells, and without BOS that a sequence begins with a document is
        not known.
        """
        if self.bos is None and self.eos is None:
            return None
        begins = np.ones(tokens.shape, dtype=np.bool_)
        if self.bos is not None:
            begins &= tokens == self.bos
        if self.eos is not None:
            begins[:, 1:] &= tokens[:, :-1] == self.eos
            begins[:, 0] &= self.bos is not None
        rows, places = np.nonzero(begins)
        return SequenceDocuments(
            np.searchsorted(rows, np.arange(len(tokens) + 1)).astype(np.uint32),
            np.full(len(tokens), tokens.shape[1], dtype=np.uint32),
            places.astype(np.uint32),
        )


def ends_of(tokenizer: TokenizerRecord, made: Manifest | MdsImport) -> Ends:
    """What the documents of data that was ``made`` so begin and end with."""
    return Ends(
        bos=tokenizer.bos_id if made.prepend_bos else None,
        eos=tokenizer.eos_id if made.append_eos else None,
    )


def write_bounds(directory: str) -> Manifest:
    """Write where documents begin beside the chunks of data that an earlier version prepared.

    No token changes, and checkpoints of runs on it can still be resumed. A run that is stopped leaves the data as it
    was, and is repeated.

    Raises:
        DataError: it is no such data, it is damaged, or its documents have neither BOS nor EOS.
    """
    manifest = read_manifest(directory)
    root, ends = expanded(directory).resolve(), ends_of(manifest.tokenizer, manifest)
    if manifest.format == FORMAT:
        raise DataError(
            f"{directory!r} was prepared by this version, which writes where documents begin wherever it is known. "
            "Leave it as it is.",
            key="bounds",
        )
    if ends == Ends(bos=None, eos=None):
        raise DataError(
            f"{directory!r}: its documents were packed without EOS and without BOS: nothing tells where one begins. "
            "Prepare the text again.",
            key="bounds",
        )
    try:
        with locked(root.with_name(f"{root.name}.partial")):
            domains = {}
            for name, domain in manifest.domains.items():
                splits = {}
                for split, record in domain.splits.items():
                    chunks = (_with_bounds(root / name / split, one, manifest, ends) for one in record.chunks)
                    splits[split] = replace(record, chunks=tuple(chunks))
                domains[name] = replace(domain, splits=splits)
            converted = replace(manifest, format=FORMAT, domains=domains, split_special_tokens=None)
            write_manifest(root, converted)
    except OSError as error:
        raise disk_error(root, error) from error
    return converted


def _with_bounds(folder: Path, chunk: ChunkRecord, manifest: Manifest, ends: Ends) -> ChunkRecord:
    path = folder / chunk.file
    if (what := content_problem(path, chunk)) is not None:
        raise damaged(manifest.place, f"{path}: {what}")
    size = chunk.sequences * manifest.sequence_length
    # litdata puts a head of its own before the tokens, and nothing after them.
    offset = chunk.bytes - size * np.dtype(manifest.token_type).itemsize
    tokens = np.fromfile(path, manifest.token_type, size, offset=offset)
    documents = ends.told(tokens.reshape(chunk.sequences, manifest.sequence_length))
    assert documents is not None
    return replace(chunk, documents=write_part(path.with_suffix(".documents"), (documents.content(),)))
