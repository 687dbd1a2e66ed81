"""A source and its cut, and passages of text on their way through both."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field

import torch
from jaxtyping import Float
from torch import Tensor

from shear_lit.pruning.carve import KeptUnits
from shear_lit.pruning.repair.moments import Moments
from shear_lit.pruning.repair.streams import BlockByBlock, Call, Stream, run
from shear_lit.ranking.importance import Passage, Reduce

HELD_OUT = 5
"""Every so many-th sequence is held out."""


@dataclass
class Text:
    """One passage; its streams lie on the CPU."""

    held_out: Tensor
    """Whether each token that counts is held out."""
    counted: Tensor | None
    source: Stream
    carved: Stream
    calls: list[Call]
    """What the source's blocks are handed, in their order."""
    carved_calls: list[Call]
    middle: Stream = field(default_factory=lambda: torch.empty(0, 0, 0))
    """The source's stream within the block that is under way, between its two halves."""
    outputs: dict[str, Tensor] = field(default_factory=dict)
    """What the source's writers put out, where a norm follows them."""

    def flat(self, values: Tensor, device: torch.device) -> Float[Tensor, "tokens entries"]:
        """The rows of those tokens that count."""
        values = values.to(device)
        if self.counted is None:
            return values.flatten(0, 1)
        return values[self.counted.to(device)]


@dataclass(frozen=True)
class Pair:
    """A source and its cut, and how what one process finds becomes what all find."""

    source: BlockByBlock
    carved: BlockByBlock
    kept: KeptUnits
    shares: Sequence[float]
    """How strongly weights may be held back (``moments.refit``)."""
    reduce: Reduce | None

    @property
    def device(self) -> torch.device:
        """Where blocks compute."""
        return self.source.device

    @property
    def sums_device(self) -> torch.device:
        """Where sums lie: where there are numbers of 64 bits."""
        return torch.device("cpu") if self.device.type == "mps" else self.device

    def summed(self, moments: Moments) -> Moments:
        """Moments over the text of all processes."""
        if self.reduce is not None:
            moments.reduce(self.reduce)
        return moments

    def begun(self, text: Iterable[Passage]) -> list[Text]:
        """The passages before the first block."""
        return [*_begun(self.source, self.carved, text)]

    def advance(self, texts: Iterable[Text], blocks: Iterable[int]) -> None:
        """Let the source's stream pass blocks."""
        for index in blocks:
            with self.source.on_device(index) as block:
                for text in texts:
                    text.source = run(block, text.source, text.calls[index], self.device).cpu()


def thinned(text: Iterable[Passage], tokens: int, reduce: Reduce | None) -> list[Passage]:
    """About ``tokens`` tokens of all that processes have together; the same ones, however they share them."""
    passages = [passage for passage in text if passage.counts]
    total = torch.zeros(1, dtype=torch.float64)
    for passage in passages:
        total += passage.inputs["input_ids"].numel()
    total = total if reduce is None else reduce(total)
    # Of five neighbours one is held out: they stay together.
    every = max(1, int(total) // tokens)
    return [passage for passage in passages if passage.number // HELD_OUT % every == 0]


def _begun(source: BlockByBlock, carved: BlockByBlock, text: Iterable[Passage]) -> Iterator[Text]:
    for passage in text:
        stream, calls = source.begin(passage)
        carved_stream, carved_calls = carved.begin(passage)
        rows, length = stream.shape[:2]
        held_out = (torch.arange(passage.number, passage.number + rows) % HELD_OUT == HELD_OUT - 1)[:, None]
        counted = passage.counted
        if not passage.counts:
            counted = torch.zeros(rows, length, dtype=torch.bool)
        held_out = held_out.expand(rows, length)
        counted = None if counted is None else counted.cpu()
        held_out = held_out.flatten() if counted is None else held_out[counted]
        yield Text(held_out, counted, stream, carved_stream, calls, carved_calls)


class PairMoments(Moments):
    """Moments of what readers are given in the cut, and in the source; behind both stands a 1, for biases."""

    def __init__(self, pair: Pair) -> None:
        """Sums of nothing."""
        sizes = [model.family.shape.hidden + 1 for model in (pair.carved, pair.source)]
        super().__init__(*sizes, among_targets=True, device=pair.sums_device)
        self._device = pair.device

    def add_rows(self, text: Text, given: Tensor, wanted: Tensor) -> None:
        """Count the tokens of a passage."""
        rows, targets = (with_one(text.flat(part, self._device)) for part in (given, wanted))
        self.add(rows, targets, text.held_out.to(self._device))


def with_one(rows: Tensor) -> Tensor:
    """Rows with a 1 behind each."""
    return torch.cat([rows, rows.new_ones(len(rows), 1)], dim=1)
