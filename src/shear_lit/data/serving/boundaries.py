"""Where documents begin inside packed sequences, for models that must not look from one into another.

Such a batch carries the position of each token in its document. Stock transformers keep attention inside documents by
them: where positions begin anew without an attention mask, they attend within each run of positions only.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Int64
from torch import Tensor

from shear_lit.data.errors import DataError
from shear_lit.data.prepared.manifest import Manifest

IGNORED = -100
"""The label of a token that is not predicted."""


@dataclass(frozen=True, kw_only=True)
class DocumentBoundary:
    """How one document ends and the next one begins; at least one of the two is known."""

    end: int | None
    """The token that ends each document."""
    begin: int | None
    """The token that begins each document."""


def boundary_of(manifest: Manifest, directory: str) -> DocumentBoundary:
    """What tells the documents of prepared data apart.

    Raises:
        DataError: its documents were packed without EOS and without BOS.
    """
    end = manifest.tokenizer.eos_id if manifest.append_eos else None
    begin = manifest.tokenizer.bos_id if manifest.prepend_bos else None
    if end is None and begin is None:
        raise DataError(
            f"false: the documents in {directory!r} were packed without EOS and without "
            "BOS: nothing tells where one begins. Prepare the data with append_eos=true, or let attention cross them.",
            key="data.cross_document_attention",
        )
    return DocumentBoundary(end=end, begin=begin)


def document_positions(
    tokens: Int64[Tensor, "sequences tokens"], boundary: DocumentBoundary
) -> Int64[Tensor, "sequences tokens"]:
    """The position of each token in its document, or in the part of it that lies in the sequence; from 0."""
    begins = torch.ones_like(tokens, dtype=torch.bool)
    if boundary.end is not None:
        begins[:, 1:] &= tokens[:, :-1] == boundary.end
    if boundary.begin is not None:
        begins[:, 1:] &= tokens[:, 1:] == boundary.begin
    place = torch.arange(tokens.shape[1], device=tokens.device).expand_as(tokens)
    return place - torch.where(begins, place, 0).cummax(dim=1).values


def model_inputs(batch: Mapping[str, Any], *, in_one_row: bool = False) -> dict[str, Tensor]:
    """The inputs and labels of a stock model for a batch of ``tokens`` and, where documents are apart, ``positions``.

    The first token of a document is then no label: nothing before it tells of it. ``in_one_row`` lays the sequences
    of such a batch behind one another, which is how transformers' flash attention tells documents apart.
    """
    tokens, positions = batch["tokens"], batch.get("positions")
    if positions is None:
        return {"input_ids": tokens, "labels": tokens}
    inputs = {
        "input_ids": tokens,
        "position_ids": positions,
        "labels": tokens.masked_fill(positions == 0, IGNORED),
    }
    return {name: part.reshape(1, -1) for name, part in inputs.items()} if in_one_row else inputs
