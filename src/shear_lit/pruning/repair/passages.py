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

    fitted: int
    """Tokens that count and are not held out: they come before those that are."""
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

    def of_kept(self, stream: Float[Tensor, "... source"]) -> Float[Tensor, "... kept"]:
        """Those channels of the source's that the cut keeps."""
        # Several times as fast as indexing the last dimension.
        rows = stream.flatten(0, -2)
        kept = self.kept.hidden.to(rows.device)
        return rows.gather(1, kept.expand(len(rows), -1)).view(*stream.shape[:-1], -1)

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
        ids = passage.inputs["input_ids"]
        held_out = torch.arange(passage.number, passage.number + len(ids)) % HELD_OUT == HELD_OUT - 1
        order = held_out.to(torch.uint8).argsort(stable=True).to(ids.device)
        counted = passage.counted
        if not passage.counts:
            counted = torch.zeros_like(ids, dtype=torch.bool)
        counted = None if counted is None else counted[order].cpu()
        sorted_rows = passage._replace(inputs={name: part[order] for name, part in passage.inputs.items()})
        stream, calls = source.begin(sorted_rows)
        carved_stream, carved_calls = carved.begin(sorted_rows)
        rows = int((~held_out).sum())
        fitted = rows * ids.shape[1] if counted is None else int(counted[:rows].sum())
        yield Text(fitted, counted, stream, carved_stream, calls, carved_calls)


class PairMoments(Moments):
    """Moments of what readers are given in the cut, and in the source; for biases, a 1 stands behind both."""

    def __init__(self, pair: Pair, *, biased: bool) -> None:
        """Sums of nothing."""
        sizes = [model.family.shape.hidden + biased for model in (pair.carved, pair.source)]
        super().__init__(*sizes, among_targets=True, device=pair.sums_device)
        self._device, self.biased = pair.device, biased

    def add_rows(self, text: Text, given: Tensor, wanted: Tensor) -> None:
        """Count the tokens of a passage."""
        rows, targets = (text.flat(part, self._device) for part in (given, wanted))
        if self.biased:
            rows, targets = with_one(rows), with_one(targets)
        self.add(rows, targets, text.fitted)

    def of(self, *, biased: bool) -> Moments:
        """The moments for a layer with a bias, or for one without."""
        return self if biased == self.biased else self.without_ones()


def with_one(rows: Tensor) -> Tensor:
    """Rows with a 1 behind each."""
    return torch.cat([rows, rows.new_ones(len(rows), 1)], dim=1)
