"""Losses by document: what errors are taken over, because the tokens of one document are alike."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Float64, Int64
from numpy.typing import NDArray
from torch import Tensor

from shear_lit.theory.losses import IGNORED

Array = NDArray[np.float64]


@dataclass(frozen=True, kw_only=True)
class DomainFigures:
    """What was measured of one domain; each standard error is over documents."""

    loss: float
    """Nats per token."""
    stderr: float
    """Its standard error; nan with fewer than two documents."""
    loss_by_document: float
    """The mean over documents of each one's nats per token."""
    stderr_by_document: float
    """Its standard error."""
    bits_per_byte: float
    """Bits per byte of text; nan where nothing tells how many bytes a token stands for."""
    bits_per_byte_stderr: float
    """Its standard error."""
    tokens: int
    """Tokens that were predicted."""
    documents: int
    """Documents, or parts of them, that they are of."""

    def __str__(self) -> str:
        bits = f"; {self.bits_per_byte:.4f} ± {self.bits_per_byte_stderr:.4f} bits per byte"
        return (
            f"± {self.stderr:.4f} over {self.documents:,} documents; by document {self.loss_by_document:.4f} ± "
            f"{self.stderr_by_document:.4f}{'' if math.isnan(self.bits_per_byte) else bits}"
        )


class DocumentLosses:
    """Sums by document, over all batches."""

    def __init__(self, bytes_of_token: NDArray[np.int64] | None = None) -> None:
        """Count; ``bytes_of_token`` tells what the tokens stand for."""
        self._bytes = None if bytes_of_token is None else torch.from_numpy(bytes_of_token)
        self._knows_bytes = bytes_of_token is not None
        self._sums: dict[tuple[int, int], Array] = {}

    def update(
        self,
        losses: Float[Tensor, "sequences tokens"],
        targets: Int64[Tensor, "sequences tokens"],
        batch: Mapping[str, Any],
    ) -> None:
        """Count one batch, whose ``document`` numbers the tokens' documents; without it each sequence is one."""
        shape = batch["tokens"].shape
        losses, targets = losses.view(shape).cpu(), targets.view(shape).cpu()
        domain = batch["domain"].cpu()[:, None].expand(shape)
        if "document" in batch:
            # A loss stands where its token is predicted: one place before it.
            document = batch["document"].cpu().roll(-1, dims=1)
        else:
            document = len(self._sums) + torch.arange(shape[0])[:, None].expand(shape)
        counted = (targets != IGNORED) & (domain >= 0)
        size = torch.ones_like(targets) if self._bytes is None else self._bytes[targets.clamp(min=0)]
        parts = torch.stack([losses.double(), torch.ones_like(losses).double(), size.double()], -1)[counted]
        keys = torch.stack([domain[counted], document[counted]], -1)
        found, place = keys.unique(dim=0, return_inverse=True)
        sums = torch.zeros(len(found), 3, dtype=torch.float64).index_add_(0, place, parts)
        for (number, document_number), row in zip(found.tolist(), sums.numpy(), strict=True):
            key = (number, document_number)
            self._sums[key] = self._sums[key] + row if key in self._sums else row

    def sums(self) -> dict[tuple[int, int], Array]:
        """Loss, tokens and bytes by domain and document."""
        return self._sums

    def take(self, everywhere: Sequence[Mapping[tuple[int, int], Array]]) -> None:
        """Count what several processes have counted, this one among them, in place of its own."""
        self._sums = {}
        for part in everywhere:
            for key, row in part.items():
                self._sums[key] = self._sums[key] + row if key in self._sums else row

    def know_bytes(self, domain: int, sizes: Float64[np.ndarray, "documents"]) -> None:
        """Take the bytes of each document of a domain, in the order of their numbers, from whoever knows the text."""
        keys = sorted(key for key in self._sums if key[0] == domain)
        for key, size in zip(keys, sizes, strict=True):
            self._sums[key] = np.array([*self._sums[key][:2], size])
        self._knows_bytes = True

    def by_document(self, domain: int) -> Float64[np.ndarray, "documents 3"]:
        """Loss, tokens and bytes of each document of a domain, in the order of their numbers."""
        rows = [self._sums[key] for key in sorted(self._sums) if key[0] == domain]
        return np.stack(rows) if rows else np.zeros((0, 3))

    def figures(self, domain: int) -> DomainFigures:
        """What was measured of a domain."""
        loss, tokens, size = self.by_document(domain).T
        bits, bits_stderr = ratio(loss / math.log(2), size) if self._knows_bytes else (math.nan, math.nan)
        mean, stderr = ratio(loss, tokens)
        own, own_stderr = ratio(loss / tokens, np.ones_like(tokens))
        return DomainFigures(
            loss=mean,
            stderr=stderr,
            loss_by_document=own,
            stderr_by_document=own_stderr,
            bits_per_byte=bits,
            bits_per_byte_stderr=bits_stderr,
            tokens=int(tokens.sum()),
            documents=len(tokens),
        )


def ratio(
    sums: Float64[np.ndarray, "documents"], sizes: Float64[np.ndarray, "documents"]
) -> tuple[float, float]:
    """All of ``sums`` over all of ``sizes``, and its standard error where documents are drawn, not tokens.

    The error is that of the ratio of two means, to first order (the sandwich over clusters).
    """
    total, count = float(sizes.sum()), len(sizes)
    if total == 0:
        return math.nan, math.nan
    value = float(sums.sum()) / total
    if count < 2:
        return value, math.nan
    left = sums - value * sizes
    return value, math.sqrt(float(left @ left) * count / (count - 1)) / total
