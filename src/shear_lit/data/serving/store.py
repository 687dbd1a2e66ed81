"""Reading packed sequences by (domain, sequence), from verified chunks in a local directory or in remote storage."""

from bisect import bisect_right
from collections import OrderedDict
from collections.abc import Sequence
from itertools import accumulate
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch.utils.data import Dataset

from shear_lit.data.errors import DamagedData, DataError
from shear_lit.data.order.permutation import WINDOW_CHUNKS
from shear_lit.data.prepared.chunks import SequenceDocuments
from shear_lit.data.prepared.manifest import FORMAT, ChunkRecord, FileRecord, Manifest, damaged
from shear_lit.data.serving.batch import PADDING_DOMAIN, DomainBatch
from shear_lit.data.serving.directories import Place, open_data, read_data
from shear_lit.data.serving.remote import REMOTE, RemoteSettings

Key = tuple[int, int]
"""The index of a domain and the number of a sequence inside it; ``PADDING_DOMAIN - index`` marks padding."""


class SequenceStore(Dataset[DomainBatch]):
    """The sequences of one split, by (domain, sequence); read-only, and opened when first read in each process.

    Each chunk is verified by its hash when a process of this node first opens it: a changed byte ends the run with the
    chunk's name.
    """

    def __init__(
        self,
        directory: Place,
        split: str,
        manifest: Manifest | None = None,
        remote: RemoteSettings = REMOTE,
    ) -> None:
        """Take prepared data, local or remote, of one directory or several; ``manifest`` saves reading it again.

        Raises:
            DataError: the data is not whole, a domain has no such split, or the cache is too small for it.
        """
        manifest = read_data(directory, remote) if manifest is None else manifest
        self.chunk_sizes = manifest.chunk_sizes(split)
        """Sequences of each chunk, by domain."""
        self.domains = tuple(self.chunk_sizes)
        """The domains' names; their indices are those in a batch."""
        self.sequence_length = manifest.sequence_length
        """Tokens of one sequence."""
        self.directory = str(directory) if isinstance(directory, str | Path) else manifest.place
        """Where the data lies."""
        self._vocabulary = manifest.tokenizer.vocabulary
        self._is_earlier = manifest.format < FORMAT
        self._is_chat = manifest.chat is not None
        self._type = np.dtype(manifest.token_type)
        self._bytes = self.sequence_length * self._type.itemsize
        self._folders = [f"{name}/{split}" for name in self.domains]
        self._splits = [manifest.domains[name].splits[split] for name in self.domains]
        self._masked = [s.padding > 0 or any(c.loss_mask for c in s.chunks) for s in self._splits]
        self._ends = [list(accumulate(sizes)) for sizes in self.chunk_sizes.values()]
        self.chunks = open_data(directory, manifest, remote)
        """What the sequences lie in."""
        self.chunks.check_room([record.chunks for record in self._splits])
        self._documents: OrderedDict[tuple[int, int], SequenceDocuments] = OrderedDict()

    @property
    def masked(self) -> bool:
        """Whether some tokens are not to be predicted."""
        return any(self._masked)

    def sequences(self, domain: int) -> int:
        """How many sequences a domain has."""
        return sum(self.chunk_sizes[self.domains[domain]])

    def check_documents(self) -> None:
        """Refuse to keep documents apart where it is not known where they begin.

        Raises:
            DataError: the data was prepared by a version that did not write it down, or has nothing that tells it.
        """
        if self.knows_documents:
            return
        earlier = (
            "was prepared by an earlier version, which did not write down where documents begin. "
            f"Run `shear-lit prepare --bounds {self.directory}` to add it"
        )
        imported = (
            "was imported with append_eos=false and prepend_bos=false: nothing tells where documents begin. "
            "Import it again with those that it has"
        )
        raise DataError(
            f"false: the data in {self.directory!r} {earlier if self._is_earlier else imported}, or let attention "
            "cross documents.",
            key="data.cross_document_attention",
        )

    def check_together(self) -> None:
        """Refuse to let attention cross documents where they are conversations.

        Raises:
            DataError: they are.
        """
        if self._is_chat:
            raise DataError(
                f"true: the data in {self.directory!r} is conversations, none of which goes on from the one before "
                "it. Use data.cross_document_attention=false.",
                key="data.cross_document_attention",
            )

    def __getitem__(self, key: Key) -> DomainBatch:
        return self.read([key])

    def __getitems__(self, keys: Sequence[Key]) -> DomainBatch:
        return self.read(keys)

    @property
    def knows_documents(self) -> bool:
        """Whether it is written down where all documents begin."""
        return all(chunk.documents is not None for record in self._splits for chunk in record.chunks)

    def read(
        self, keys: Sequence[Key], *, documents_apart: bool = False, documents_numbered: bool = False
    ) -> DomainBatch:
        """Read the sequences of one micro-batch; where documents are apart, with the position of each token in its.

        ``documents_numbered``: with the number of each token's document in its domain's split; one that goes on in
        the next chunk has two.
        A batch has a ``loss_mask`` where one of its sequences is of a split with padding or with masked tokens.
        """
        tokens = np.empty((len(keys), self.sequence_length), dtype=np.int64)
        places = [self._place(domain, int(sequence)) for domain, sequence in keys]
        for row, place in enumerate(places):
            tokens[row] = self._tokens(place)
        if len(keys) and (largest := int(tokens.max())) >= self._vocabulary:
            raise self._unknown_token(keys[int(tokens.max(axis=1).argmax())], largest)
        domain = torch.tensor([max(domain, PADDING_DOMAIN) for domain, _ in keys], dtype=torch.int64)
        batch: DomainBatch = {"tokens": torch.from_numpy(tokens), "domain": domain, "micro_batch": 0}
        if documents_apart:
            positions = [self._bounds(p).positions(p.row, self.sequence_length) for p in places]
            batch["positions"] = torch.from_numpy(np.stack(positions))
        if documents_numbered:
            numbers = [
                (p.number << 32) + self._bounds(p).numbers(p.row, self.sequence_length) for p in places
            ]
            batch["document"] = torch.from_numpy(np.stack(numbers))
        if any(self._masked[place.domain] for place in places):
            batch["loss_mask"] = torch.from_numpy(np.stack([self._loss_mask(place) for place in places]))
        return batch

    def files(self, domain: int, number: int, *, documents_apart: bool) -> list[tuple[str, FileRecord]]:
        """The files that reading a chunk of a domain takes, each after its folder."""
        chunk, bounds = self._splits[domain].chunks[number], documents_apart or self._splits[domain].padding
        beside = (chunk.documents if bounds else None, chunk.loss_mask)
        return [(self._folders[domain], file) for file in (chunk, *beside) if file is not None]

    def _unknown_token(self, key: Key, token: int) -> DamagedData:
        where = f"{self._folders[_domain_of(key[0])]}, sequence {key[1]}"
        return damaged(
            self.directory,
            f"{where}: it holds the token {token}, and the tokenizer has {self._vocabulary} entries",
            DamagedData,
        )

    def _place(self, domain: int, sequence: int) -> "_Place":
        domain = _domain_of(domain)
        ends = self._ends[domain]
        if not 0 <= sequence < ends[-1]:
            raise IndexError(f"{self._folders[domain]} has sequences 0 to {ends[-1] - 1}, not {sequence}")
        number = bisect_right(ends, sequence)
        chunk = self._splits[domain].chunks[number]
        return _Place(domain, number, chunk, sequence - ends[number] + chunk.sequences)

    def _tokens(self, place: "_Place") -> NDArray[np.unsignedinteger]:
        # litdata puts a head of its own before the tokens, and nothing after them.
        offset = place.chunk.bytes - (place.chunk.sequences - place.row) * self._bytes
        data = self.chunks.read(self._folders[place.domain], place.chunk, offset, self._bytes)
        return np.frombuffer(data, dtype=self._type)

    def _bounds(self, place: "_Place") -> SequenceDocuments:
        """Where documents begin in the chunk; kept for two windows of each domain, one of which may just begin."""
        key = (place.domain, place.number)
        if key not in self._documents:
            self._documents[key] = self._read_bounds(place)
            if len(self._documents) > 2 * WINDOW_CHUNKS * len(self.domains):
                self._documents.popitem(last=False)
        self._documents.move_to_end(key)
        return self._documents[key]

    def _read_bounds(self, place: "_Place") -> SequenceDocuments:
        folder, file = self._folders[place.domain], place.chunk.documents
        if file is None:
            raise self._damaged(folder, place.chunk, "nothing says where its documents begin and end")
        content = self.chunks.read(folder, file, 0, file.bytes)
        try:
            return SequenceDocuments.parsed(content, place.chunk.sequences, self.sequence_length)
        except ValueError as error:
            raise self._damaged(folder, file, str(error)) from error

    def _loss_mask(self, place: "_Place") -> NDArray[np.bool_]:
        """Which tokens of a sequence are to be predicted: those of text, where nothing says otherwise."""
        mask = np.ones(self.sequence_length, dtype=np.bool_)
        if (file := place.chunk.loss_mask) is not None:
            folder, size = self._folders[place.domain], -(-self.sequence_length // 8)
            if file.bytes != size * place.chunk.sequences:
                raise self._damaged(folder, file, "it is not that of its chunk")
            bits = np.frombuffer(self.chunks.read(folder, file, place.row * size, size), np.uint8)
            mask = np.unpackbits(bits, count=self.sequence_length, bitorder="little").astype(np.bool_)
        if self._splits[place.domain].padding:
            mask[self._bounds(place).ends[place.row] :] = False
        return mask

    def _damaged(self, folder: str, file: FileRecord, what: str) -> DamagedData:
        return damaged(self.directory, f"{folder}/{file.file}: {what}", DamagedData)


class _Place(NamedTuple):
    """Where a sequence lies."""

    domain: int
    number: int
    """Which chunk of its domain it is in."""
    chunk: ChunkRecord
    row: int
    """Which sequence of the chunk it is."""


def _domain_of(index: int) -> int:
    """The index of a domain, also of a sequence that only fills a batch up."""
    return index if index >= 0 else PADDING_DOMAIN - index
