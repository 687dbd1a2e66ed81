"""What a frozen model says of each next token, as a cache keeps it: for its files, and for what it does not have."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from shear_lit.data.order.permutation import folded_key, keyed_fractions
from shear_lit.data.taught.record import CacheRecord
from shear_lit.models.head import head_computing
from shear_lit.theory.losses import Head, sparse_targets
from shear_lit.theory.sparse import Sparse, sampled, top_k


@torch.no_grad()
def answers(
    model: Any, inputs: Mapping[str, Tensor], sequences: Sequence[tuple[str, int]], record: CacheRecord
) -> Sparse:
    """What a model says of some (domain, sequence), Sparse[sequences, tokens].

    ``inputs`` are those of a stock model, in any layout of the same rows. Tokens are drawn by a number that depends on
    the seed of the ``record`` and on the sequence alone: whoever asks, and beside whichever others, gets the same.
    """
    found: list[Sparse] = []
    device = inputs["input_ids"].device
    uniform = torch.cat([_uniform(record, *sequence) for sequence in sequences]).to(device)

    def keep(log_p: Tensor, rows: slice) -> Sparse:
        if record.method == "sampled":
            return sampled(log_p, record.kept, uniform[rows])
        return top_k(log_p, record.kept)

    def compute(hidden: Tensor, head: Head) -> Tensor:
        found.append(sparse_targets(hidden, head, record.temperature, keep))
        return hidden

    given = {name: part for name, part in inputs.items() if name != "labels"}
    with head_computing(model, compute):
        model(**given, use_cache=False)
    return found[0].in_sequences(len(sequences))


def _uniform(record: CacheRecord, domain: str, sequence: int) -> Tensor:
    key = folded_key(record.seed, "teach", domain, sequence)
    # In float32, which every device has; one that is rounded to 1 would be outside of the last part.
    return torch.from_numpy(keyed_fractions(key, record.sequence_length)).float().clamp_(max=1 - 2**-24)
