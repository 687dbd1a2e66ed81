"""What losses are measured on: a fixed sample of each domain."""

import math
from collections.abc import Iterator

from shear_lit.data.errors import DataError
from shear_lit.data.order.permutation import sample
from shear_lit.data.prepared.manifest import Manifest
from shear_lit.data.serving.batch import PADDING_DOMAIN, DomainBatch
from shear_lit.data.serving.store import Key, SequenceStore

_TOKENS_AT_A_TIME = 2048


class ValidationLoader:
    """A sample of each domain, in a fixed order, dealt to ranks that all do the same number of batches.

    It is spread over the domain and the same for every run on the data (``order.permutation.sample``). Batches that
    would be short are filled up with a repeated sequence of domain ``PADDING_DOMAIN``.
    """

    def __init__(
        self,
        store: SequenceStore,
        *,
        sequences: int,
        micro_batch: int,
        rank: int = 0,
        world_size: int = 1,
        documents_apart: bool = False,
        sample_number: int = 0,
    ) -> None:
        """Take at most ``sequences`` of each domain; all of it if a domain has fewer, none if it has none.

        Samples of other numbers have other sequences, by lot. Where documents are apart, each batch says at which
        position of its document a token stands.

        Raises:
            DataError: the numbers make no sense, there is no sequence, or it is not known where documents begin.
        """
        if sequences < 1 or micro_batch < 1:
            raise DataError(
                f"{sequences}, data.validation_micro_batch={micro_batch}: both must be at least 1.",
                key="data.validation_sequences",
            )
        self._store, self._micro, self.rank, self.world_size = store, micro_batch, rank, world_size
        self._documents_apart = documents_apart
        self.documents_numbered = False
        """Whether each batch says which document of its domain a token is of, where that is known."""
        if documents_apart:
            store.check_documents()
        self._keys: list[Key] = [
            (domain, number)
            for domain, (name, chunks) in enumerate(store.chunk_sizes.items())
            for number in sample(name, chunks, sequences, sample_number).tolist()
        ]
        if not self._keys:
            raise DataError(
                f"{store.directory!r}: no domain has a sequence in this split: there is nothing to measure losses on. "
                "Prepare more text.",
                key="data.directory",
            )
        self.sequences = len(self._keys)
        """Sequences of the sample, over all processes."""
        domain, sequence = self._keys[-1]
        missing = -len(self._keys) % (micro_batch * world_size)
        self._keys += [(PADDING_DOMAIN - domain, sequence)] * missing

    def __len__(self) -> int:
        """Batches of each rank."""
        return len(self._keys) // (self._micro * self.world_size)

    def __iter__(self) -> Iterator[DomainBatch]:
        """Yield this rank's batches."""
        for index in range(self.rank, len(self) * self.world_size, self.world_size):
            keys = self._keys[index * self._micro : (index + 1) * self._micro]
            numbered = self.documents_numbered and self._store.knows_documents
            batch = self._store.read(keys, documents_apart=self._documents_apart, documents_numbered=numbered)
            batch["micro_batch"] = index
            yield batch


def batches_of(manifest: Manifest, split: str, tokens: int) -> dict[str, int]:
    """Sequences of each domain that make so many tokens, where all have as many, and those of one batch of a repair."""
    length = manifest.sequence_length
    domains = sum(bool(sum(sizes)) for sizes in manifest.chunk_sizes(split).values())
    return {
        "sequences": math.ceil(tokens / (length * max(1, domains))),
        "micro_batch": max(1, _TOKENS_AT_A_TIME // length),
    }
