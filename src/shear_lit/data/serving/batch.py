"""One micro-batch, and what a stock model is given of it."""

from collections.abc import Mapping
from typing import Any, NotRequired, TypedDict

from jaxtyping import Bool
from torch import Tensor

from shear_lit.theory.losses import IGNORED

PADDING_DOMAIN = -1
"""The domain of a sequence that only fills a batch up: it counts nowhere."""


class DomainBatch(TypedDict):
    """One micro-batch."""

    tokens: Tensor
    """Token ids, Int64[sequences, sequence_length]."""
    domain: Tensor
    """Index of each sequence's domain, Int64[sequences]; ``PADDING_DOMAIN`` where it only fills up."""
    micro_batch: int
    """Index of the micro-batch within its global batch, over all ranks."""
    positions: NotRequired[Tensor]
    """Position of each token in its document, Int64[sequences, sequence_length]; there where documents are apart."""
    document: NotRequired[Tensor]
    """Number of each token's document in its domain, Int64[sequences, sequence_length]; there where it is asked for."""
    loss_mask: NotRequired[Tensor]
    """Whether each token is to be predicted, Bool[sequences, sequence_length]; there where some are not."""
    keys: NotRequired[list[tuple[int, int]]]
    """The domain of each sequence, and its number inside it; there in training. Plain numbers, for no device."""
    predicted: NotRequired[int]
    """Tokens that all of this process's micro-batches of the global batch predict; there where their number varies."""


def predicted_tokens(batch: Mapping[str, Any]) -> Bool[Tensor, "sequences tokens"] | None:
    """Which tokens of a batch are to be predicted; none: all but the first of each sequence.

    Those are no padding, are not masked, and are not the first of a document that is apart: nothing tells of it.
    """
    mask, positions = batch.get("loss_mask"), batch.get("positions")
    if positions is None:
        return mask
    return positions > 0 if mask is None else mask & (positions > 0)


def predicted_count(batch: Mapping[str, Any]) -> int:
    """How many tokens of a batch are to be predicted."""
    tokens, predicted = batch["tokens"], predicted_tokens(batch)
    return tokens[:, 1:].numel() if predicted is None else int(predicted[:, 1:].sum())


def model_inputs(batch: Mapping[str, Any], *, in_one_row: bool = False) -> dict[str, Tensor]:
    """The inputs and labels of a stock model for a batch of ``tokens``, and of ``positions`` where documents are apart.

    By positions, stock transformers keep attention inside documents: where they begin anew without an attention mask,
    it attends within each run of positions only. ``in_one_row`` lays the sequences of such a batch behind one another,
    which is how its flash attention tells documents apart. Padding is the last of a sequence, or a document of its own:
    no text attends to it.
    """
    tokens, predicted = batch["tokens"], predicted_tokens(batch)
    inputs = {
        "input_ids": tokens,
        "labels": tokens if predicted is None else tokens.masked_fill(~predicted, IGNORED),
    }
    if "positions" not in batch:
        return inputs
    inputs["position_ids"] = batch["positions"]
    return {name: part.reshape(1, -1) for name, part in inputs.items()} if in_one_row else inputs
