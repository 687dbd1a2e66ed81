"""The repair itself: every kept block is refitted so that the carved stream comes close to the source's.

For a writer, A is what it is given in the carved model, everything before it included, and Y what the source's stream
at the kept entries is after the same place, or after the last of the dropped blocks behind it, less the carved stream
before it; it becomes the ridge least-squares solution of A W^T = Y. Readers come first, towards the source's own
pre-activations at the kept units. Where a norm follows the writer, the stream is not linear in it: it is fitted to the
source's own output, and the norm's weight per channel after it. Where both halves of a block read the same stream,
their writers are fitted together. A tied head is the embedding, and stays.

The layer-wise problem is that of arXiv:2208.11580 and arXiv:2302.04089; here A is the cut model's own, with the errors
of all blocks before it, and Y the source's (docs/repair.md says what others do).
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import torch
from torch import Tensor, nn
from tqdm import tqdm

from shear_lit.models.choices import RepairParts
from shear_lit.models.family import Family, NormKind
from shear_lit.pruning.carve import KeptUnits
from shear_lit.pruning.repair.moments import SHARES, Fit, Moments, refit
from shear_lit.pruning.repair.scales import refit_head_norm, refit_scales
from shear_lit.pruning.repair.streams import BlockByBlock, Call, Stream, inputs_within, recorded, run
from shear_lit.pruning.repair.sublayers import Sublayer, kept_rows, sublayers_of
from shear_lit.ranking.importance import Passage, Reduce

HELD_OUT = 5
"""Every so many-th sequence is held out."""
INPUTS_KEPT_BYTES = 2e9
"""Inputs of one writer that are kept for the pass after its solution; where they are more, they are computed again."""


class Refitted(NamedTuple):
    """What became of one weight of the carved model."""

    tensor: str
    """Its name."""
    share: float
    """How strongly it was held back."""
    before: float
    """What it left of its targets' squares on text held out: the mean over targets of the fraction of each."""
    after: float
    """What a refit leaves of them."""
    refitted: bool
    """Whether it was better than before: if not, the weight is what it was."""


@dataclass
class _Text:
    """One passage on its way through both models; streams lie on the CPU."""

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

    def flat(self, values: Tensor, device: torch.device) -> Tensor:
        """The rows of those tokens that count."""
        values = values.to(device)
        if self.counted is None:
            return values.flatten(0, 1)
        return values[self.counted.to(device)]


def repair(
    source: nn.Module,
    carved: nn.Module,
    family: Family,
    carved_family: Family,
    kept: KeptUnits,
    text: Iterable[Passage],
    *,
    parts: RepairParts = "readers",
    device: torch.device,
    reduce: Reduce | None = None,
    shares: Sequence[float] = SHARES,
) -> list[Refitted]:
    """Refit the weights of ``carved``, in place, and say what became of each.

    ``carved`` is ``source`` cut at ``kept``. Where nothing was cut, nothing changes. ``reduce`` adds up over processes,
    each of which has a part of the text.
    """
    if kept.shape == family.shape:
        return []
    models = BlockByBlock(source, family, device), BlockByBlock(carved, carved_family, device)
    return _Repair(*models, kept, parts, reduce, shares).run([*_begun(*models, text)])


def _begun(source: BlockByBlock, carved: BlockByBlock, text: Iterable[Passage]) -> Iterator[_Text]:
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
        yield _Text(held_out, counted, stream, carved_stream, calls, carved_calls)


@dataclass
class _Repair:
    """One run of it."""

    source: BlockByBlock
    carved: BlockByBlock
    kept: KeptUnits
    parts: RepairParts
    reduce: Reduce | None
    shares: Sequence[float]
    found: list[Refitted] = field(default_factory=list)

    @property
    def device(self) -> torch.device:
        return self.source.device

    def run(self, texts: list[_Text]) -> list[Refitted]:
        """Block after block, then the head."""
        layers, count = self.kept.layers.tolist(), self.source.family.shape.layers
        self._advance(texts, range(layers[0]))
        for new, old in enumerate(tqdm(layers, desc="Repairing", unit="block", disable=None)):
            following = layers[new + 1] if new + 1 < len(layers) else count
            self._block(texts, new, old, range(old + 1, following))
        self._head(texts)
        return self.found

    def _advance(self, texts: list[_Text], blocks: range) -> None:
        """Let the source's stream pass blocks."""
        for index in blocks:
            with self.source.on_device(index) as block:
                for text in texts:
                    text.source = run(block, text.source, text.calls[index], self.device).cpu()

    def _block(self, texts: list[_Text], new: int, old: int, dropped: range) -> None:
        halves = sublayers_of(self.source.family)
        with self.source.on_device(old) as full, self.carved.on_device(new) as small:
            groups = (halves,) if self.source.family.parallel else tuple((half,) for half in halves)
            read = self._pass_source(texts, full, small, old, groups[0])
            self._advance(texts, dropped)
            for position, group in enumerate(groups):
                if position:
                    read = self._read_middle(texts, full, small, group[0])
                if self.parts != "writers":
                    for half, moments in zip(group, read, strict=True):
                        self._refit_readers(moments, full, small, half, new, old)
                self._refit_writers(texts, small, group, new, last=position == len(groups) - 1)

    # The source, and what the readers are given

    def _pass_source(
        self, texts: list[_Text], full: nn.Module, small: nn.Module, old: int, group: tuple[Sublayer, ...]
    ) -> list[Moments]:
        """Let the source's stream pass its block, and add up what the first readers are given in both models."""
        attention, feed_forward = sublayers_of(self.source.family)
        read = [self._of_readers(texts) for _ in group]
        firsts = [full.get_submodule(half.readers[0]) for half in group]
        added = full.get_submodule(attention.post_norm or attention.writer)
        writers = {
            half.writer: full.get_submodule(half.writer)
            for half in (attention, feed_forward)
            if half.post_norm
        }
        for text in texts:
            with recorded(firsts, {added, *writers.values()}) as seen:
                after = run(full, text.source, text.calls[old], self.device)
            for half, first, moments in (
                zip(group, firsts, read, strict=True) if self.parts != "writers" else ()
            ):
                given = _normed(small, half, text.carved.to(self.device))
                self._add(moments, text, given, seen[first])
            text.middle = (text.source.to(self.device) + seen[added]).cpu()
            text.outputs = {
                name: seen[module][..., self.kept.hidden].cpu() for name, module in writers.items()
            }
            text.source = after.cpu()
        return read

    def _read_middle(
        self, texts: list[_Text], full: nn.Module, small: nn.Module, half: Sublayer
    ) -> list[Moments]:
        """What the readers of the second half are given in both models."""
        moments = self._of_readers(texts)
        for text in texts if self.parts != "writers" else ():
            given, wanted = (
                _normed(block, half, stream.to(self.device))
                for block, stream in ((small, text.carved), (full, text.middle))
            )
            self._add(moments, text, given, wanted)
        return [moments]

    def _of_readers(self, texts: list[_Text]) -> Moments:
        sizes = texts[0].carved.shape[-1], texts[0].source.shape[-1]
        # Behind both stands a 1, for biases.
        return Moments(sizes[0] + 1, sizes[1] + 1, among_targets=True, device=self._home)

    @property
    def _home(self) -> torch.device:
        """Where sums lie: where there are numbers of 64 bits."""
        return torch.device("cpu") if self.device.type == "mps" else self.device

    def _add(self, moments: Moments, text: _Text, given: Tensor, wanted: Tensor) -> None:
        rows, targets = (_with_one(text.flat(part, self.device)) for part in (given, wanted))
        moments.add(rows, targets, text.held_out.to(self.device))

    # Refits

    def _refit_readers(
        self, moments: Moments, full: nn.Module, small: nn.Module, half: Sublayer, new: int, old: int
    ) -> None:
        """Towards the source's own pre-activations at the kept units: they are linear in what its readers are given."""
        moments = self._whole(moments)
        for name in half.readers:
            rows = kept_rows(self.source.family, self.kept, name, old).to(self.device)
            reader, wanted = small.get_submodule(name), full.get_submodule(name)
            self._refit_reader(moments, wanted, reader, rows, f"{self.carved.family.blocks}.{new}.{name}")

    def _refit_reader(
        self, moments: Moments, wanted: nn.Module, reader: nn.Module, rows: Tensor | None, name: str
    ) -> None:
        weight, bias = wanted.get_parameter("weight").detach(), getattr(wanted, "bias", None)
        if bias is None:
            maps, own = weight, reader.get_parameter("weight").detach()
            moments = moments.without_ones()
        else:
            maps = torch.cat([weight, bias.detach()[:, None]], dim=1)
            own = torch.cat(
                [reader.get_parameter("weight"), reader.get_parameter("bias")[:, None]], dim=1
            ).detach()
        maps = maps if rows is None else maps[rows]
        fit = refit(moments.through(maps), own, self.shares)
        if fit.weight is not None:
            _put(reader, fit.weight, biased=bias is not None)
        self._note(f"{name}.weight", fit)

    def _refit_writers(
        self, texts: list[_Text], small: nn.Module, group: tuple[Sublayer, ...], new: int, *, last: bool
    ) -> None:
        """The writers of one half, or of both together; then their part of the carved stream."""
        writers = [small.get_submodule(half.writer) for half in group]
        biased = getattr(writers[0], "bias", None) is not None
        width = sum(writer.get_parameter("weight").shape[1] for writer in writers)
        inputs = self._inputs(texts, small, group, new, width)
        moments = Moments(width + biased, texts[0].carved.shape[-1], among_targets=False, device=self._home)
        for text, given in zip(texts, inputs(), strict=True):
            rows = text.flat(given, self.device)
            wanted = text.flat(self._wanted(text, group, last=last), self.device)
            moments.add(_with_one(rows) if biased else rows, wanted, text.held_out.to(self.device))
        moments = self._whole(moments)
        own = torch.cat([writer.get_parameter("weight").detach() for writer in writers], dim=1)
        others = (
            sum((w.get_parameter("bias").detach() for w in writers[1:]), torch.zeros(())) if biased else None
        )
        if others is not None:
            bias = writers[0].get_parameter("bias").detach() + others.to(own.device)
            own = torch.cat([own, bias[:, None]], dim=1)
        fit = refit(moments, own, self.shares)
        name = f"{self.carved.family.blocks}.{new}."
        if fit.weight is not None:
            solved = fit.weight
            if others is not None:
                solved = torch.cat([solved[:, :-1], solved[:, -1:] - others.to(solved)[..., None]], dim=1)
            start = 0
            for position, writer in enumerate(writers):
                columns = writer.get_parameter("weight").shape[1]
                piece = solved[:, start : start + columns]
                start += columns
                with_bias = biased and position == 0
                _put(
                    writer,
                    torch.cat([piece, solved[:, -1:]], dim=1) if with_bias else piece,
                    biased=with_bias,
                )
        for half in group:
            self._note(f"{name}{half.writer}.weight", fit)
        if group[0].post_norm is not None:
            self._refit_post_norm(
                texts, small, group[0], inputs, f"{name}{group[0].post_norm}.weight", last=last
            )
        for text, given in zip(texts, inputs(), strict=True):
            stream = text.carved.to(self.device)
            text.carved = (stream + _put_out(small, group, given.to(self.device))).cpu()

    def _refit_post_norm(
        self,
        texts: list[_Text],
        small: nn.Module,
        half: Sublayer,
        inputs: Callable[[], Iterable[Tensor]],
        name: str,
        *,
        last: bool,
    ) -> None:
        assert half.post_norm is not None
        pairs = (
            (
                text.flat(_put_out(small, (half,), given.to(self.device)), self.device),
                text.flat(self._difference(text, last=last), self.device),
                text.held_out.to(self.device),
            )
            for text, given in zip(texts, inputs(), strict=True)
        )
        norm = small.get_submodule(half.post_norm)
        channels = texts[0].carved.shape[-1]
        fit = refit_scales(pairs, channels, self.reduce, self.shares, self._home)
        if fit.weight is not None:
            self._scale(norm, fit.weight, half.post_norm)
        self._note(name, fit)

    def _wanted(self, text: _Text, group: tuple[Sublayer, ...], *, last: bool) -> Tensor:
        """What the writers of ``group`` should put out."""
        if group[0].post_norm is not None:
            return text.outputs[group[0].writer]
        return self._difference(text, last=last)

    def _difference(self, text: _Text, *, last: bool) -> Tensor:
        """What the carved stream lacks of the source's, behind the block or between its halves."""
        stream = text.source if last else text.middle
        return stream[..., self.kept.hidden] - text.carved

    def _inputs(
        self, texts: list[_Text], small: nn.Module, group: tuple[Sublayer, ...], new: int, width: int
    ) -> Callable[[], Iterable[Tensor]]:
        """What the writers are given, for every text; to be asked for again and again."""

        def compute() -> Iterator[Tensor]:
            for text in texts:
                yield torch.cat([self._given(text, small, half, new) for half in group], dim=-1)

        tokens = sum(text.carved.shape[0] * text.carved.shape[1] for text in texts)
        if 4.0 * tokens * width > INPUTS_KEPT_BYTES:
            return compute
        kept = [given.cpu() for given in compute()]
        return lambda: kept

    def _given(self, text: _Text, small: nn.Module, half: Sublayer, new: int) -> Tensor:
        """What a writer is given: attention is run as the block does, a feed-forward layer by itself."""
        writer = small.get_submodule(half.writer)
        if half.writer == sublayers_of(self.carved.family)[0].writer:
            call = text.carved_calls[new]
            return inputs_within(lambda: run(small, text.carved, call, self.device), writer)
        normed = _normed(small, half, text.carved.to(self.device))
        return inputs_within(lambda: small.get_submodule(half.module)(normed), writer)

    def _head(self, texts: list[_Text]) -> None:
        """An untied head reads the stream behind the last norm; a tied one stays, and the norm may be refitted."""
        if self.parts == "writers":
            return
        last = next(norm for norm in self.source.family.norms if "*" not in norm.module)
        tied = not any(cut.tensor == "lm_head.weight" for cut in self.source.family.cuts)
        if tied and self.parts != "norms":
            return
        moments = self._of_readers(texts)
        models = (self.source, self.carved)
        norms = [model.module(last.module).to(self.device) for model in models]
        with torch.no_grad():
            for text in texts:
                wanted = norms[0](text.source.to(self.device))
                self._add(moments, text, norms[1](text.carved.to(self.device)), wanted)
        moments = self._whole(moments)
        if tied:
            name = self.source.family.embedding
            source_head, head = (model.module(name).get_parameter("weight").detach() for model in models)
            fit = refit_head_norm(moments.without_ones(), source_head, head, shares=self.shares)
            if fit.weight is not None:
                self._scale(norms[1], fit.weight, last.module)
            self._note(f"{last.module}.weight", fit)
        else:
            wanted_head, own_head = (model.module("lm_head") for model in models)
            self._refit_reader(moments, wanted_head, own_head, None, "lm_head")
        for norm in norms:
            norm.cpu()

    def _note(self, name: str, fit: Fit) -> None:
        self.found.append(Refitted(name, fit.share, fit.before, fit.after, fit.weight is not None))

    def _whole(self, moments: Moments) -> Moments:
        if self.reduce is not None:
            moments.reduce(self.reduce)
        return moments

    def _scale(self, norm: nn.Module, scale: Tensor, name: str) -> None:
        """Multiply what a norm puts out, by channel."""
        kinds = {declared.module.rpartition(".")[2]: declared.kind for declared in self.carved.family.norms}
        weight, extra = norm.get_parameter("weight"), 0.0
        if kinds[name.rpartition(".")[2]] is NormKind.ONE_PLUS_RMS:
            extra = 1.0
        with torch.no_grad():
            weight.copy_((weight.double() + extra) * scale.to(weight.device) - extra)
            if getattr(norm, "bias", None) is not None:
                norm.get_parameter("bias").mul_(scale.to(weight.device))


@torch.no_grad()
def _normed(block: nn.Module, half: Sublayer, stream: Tensor) -> Tensor:
    return stream if half.norm is None else block.get_submodule(half.norm)(stream)


@torch.no_grad()
def _put_out(block: nn.Module, group: tuple[Sublayer, ...], given: Tensor) -> Tensor:
    """What the writers of ``group`` add to the stream."""
    total, start = torch.zeros((), device=given.device), 0
    for half in group:
        writer = block.get_submodule(half.writer)
        columns = writer.get_parameter("weight").shape[1]
        out = writer(given[..., start : start + columns])
        total = total + (out if half.post_norm is None else block.get_submodule(half.post_norm)(out))
        start += columns
    return total


def _with_one(rows: Tensor) -> Tensor:
    return torch.cat([rows, rows.new_ones(len(rows), 1)], dim=1)


@torch.no_grad()
def _put(linear: nn.Module, weight: Tensor, *, biased: bool) -> None:
    if biased:
        linear.get_parameter("bias").copy_(weight[:, -1])
        weight = weight[:, :-1]
    linear.get_parameter("weight").copy_(weight)
