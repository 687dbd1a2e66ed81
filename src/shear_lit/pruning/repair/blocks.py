"""The repair itself: every kept block is refitted so that the carved stream comes close to the source's.

For a writer, A is what it is given in the carved model, everything before it included, and Y what the source's stream
at the kept entries is after the same place, or after the last of the dropped blocks behind it, less the carved stream
before it; it becomes the ridge least-squares solution of A W^T = Y. Readers come first, towards the source's own
pre-activations at the kept units. Where a norm follows the writer, the stream is not linear in it: it is fitted to the
source's own output, and the norm's weight per channel after it. Where both halves of a block read the same stream,
their writers are fitted together.

The layer-wise problem is that of arXiv:2208.11580 and arXiv:2302.04089; here A is the cut model's own, with the errors
of all blocks before it, and Y the source's (docs/repair.md says what others do).
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial

import torch
from torch import Tensor, nn

from shear_lit.models.choices import RepairParts
from shear_lit.models.family import Family
from shear_lit.progress import watched
from shear_lit.pruning.carve import KeptUnits
from shear_lit.pruning.repair.head import (
    head_is_tied,
    refit_last_norm,
    refit_tied_embedding,
    refit_untied_head,
    scale_norm,
)
from shear_lit.pruning.repair.memory import INPUTS_KEPT_BYTES
from shear_lit.pruning.repair.moments import SHARES, Fit, Moments, Refitted, put, refit, with_bias
from shear_lit.pruning.repair.passages import Pair, PairMoments, Text, with_one
from shear_lit.pruning.repair.scales import refit_scales
from shear_lit.pruning.repair.streams import BlockByBlock, inputs_within, recorded, run
from shear_lit.pruning.repair.sublayers import Sublayer, kept_rows, sublayers_of
from shear_lit.ranking.importance import Passage, Reduce


def repair(
    source: nn.Module,
    carved: nn.Module,
    family: Family,
    carved_family: Family,
    kept: KeptUnits,
    text: Iterable[Passage],
    *,
    parts: RepairParts = "embedding",
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
    pair, passages, tied = Pair(*models, kept, shares, reduce), [*text], head_is_tied(family)
    found = []
    if tied and parts in ("embedding", "norms") and kept.shape.hidden < family.shape.hidden:
        found.append(refit_tied_embedding(pair, passages))
    texts = pair.begun(passages)
    found += _Blocks(pair, parts).repaired(texts)
    if not tied and parts != "writers":
        found.append(refit_untied_head(pair, texts))
    elif tied and parts == "norms":
        found.append(refit_last_norm(pair, texts))
    return found


@dataclass
class _Blocks:
    """All blocks of a cut."""

    pair: Pair
    parts: RepairParts
    found: list[Refitted] = field(default_factory=list)

    @property
    def device(self) -> torch.device:
        return self.pair.device

    def repaired(self, texts: list[Text]) -> list[Refitted]:
        """One after the other."""
        layers, count = self.pair.kept.layers.tolist(), self.pair.source.family.shape.layers
        self.pair.advance(texts, range(layers[0]))
        for new, old in enumerate(watched(layers, "Repairing", "block")):
            following = layers[new + 1] if new + 1 < len(layers) else count
            self._block(texts, new, old, range(old + 1, following))
        return self.found

    def _block(self, texts: list[Text], new: int, old: int, dropped: range) -> None:
        halves = sublayers_of(self.pair.source.family)
        with self.pair.source.on_device(old) as full, self.pair.carved.on_device(new) as small:
            groups = (halves,) if self.pair.source.family.parallel else tuple((half,) for half in halves)
            read = self._pass_source(texts, full, small, old, groups[0])
            self.pair.advance(texts, dropped)
            for position, group in enumerate(groups):
                if position:
                    read = self._read_middle(texts, full, small, group[0])
                if self.parts != "writers":
                    for half, moments in zip(group, read, strict=True):
                        self._refit_readers(moments, full, small, half, new, old)
                self._refit_writers(texts, small, group, new, last=position == len(groups) - 1)

    # The source, and what the readers are given

    def _pass_source(
        self, texts: list[Text], full: nn.Module, small: nn.Module, old: int, group: tuple[Sublayer, ...]
    ) -> list[PairMoments]:
        """Let the source's stream pass its block, and add up what the first readers are given in both models."""
        attention, feed_forward = sublayers_of(self.pair.source.family)
        read = [self._moments_of_readers(small, half) for half in group]
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
                moments.add_rows(text, given, seen[first])
            text.middle = (text.source.to(self.device) + seen[added]).cpu()
            text.outputs = {name: self.pair.of_kept(seen[module]).cpu() for name, module in writers.items()}
            text.source = after.cpu()
        return read

    def _read_middle(
        self, texts: list[Text], full: nn.Module, small: nn.Module, half: Sublayer
    ) -> list[PairMoments]:
        """What the readers of the second half are given in both models."""
        moments = self._moments_of_readers(small, half)
        for text in texts if self.parts != "writers" else ():
            given, wanted = (
                _normed(block, half, stream.to(self.device))
                for block, stream in ((small, text.carved), (full, text.middle))
            )
            moments.add_rows(text, given, wanted)
        return [moments]

    def _moments_of_readers(self, small: nn.Module, half: Sublayer) -> PairMoments:
        readers = (small.get_submodule(name) for name in half.readers)
        return PairMoments(
            self.pair, biased=any(getattr(reader, "bias", None) is not None for reader in readers)
        )

    # Refits

    def _refit_readers(
        self, moments: PairMoments, full: nn.Module, small: nn.Module, half: Sublayer, new: int, old: int
    ) -> None:
        """Towards the source's own pre-activations at the kept units: they are linear in what its readers are given."""
        moments.summed(self.pair.reduce)
        for name in half.readers:
            rows = kept_rows(self.pair.source.family, self.pair.kept, name, old).to(self.device)
            reader, wanted = small.get_submodule(name), full.get_submodule(name)
            self._refit_reader(
                moments, wanted, reader, rows, f"{self.pair.carved.family.blocks}.{new}.{name}"
            )

    def _refit_reader(
        self, moments: PairMoments, wanted: nn.Module, reader: nn.Module, rows: Tensor, name: str
    ) -> None:
        biased = getattr(wanted, "bias", None) is not None
        maps, own = (
            with_bias(layer) if biased else layer.get_parameter("weight").detach()
            for layer in (wanted, reader)
        )
        fit = refit(moments.of(biased=biased).through(maps[rows]), own, self.pair.shares)
        if fit.weight is not None:
            put(reader, fit.weight, biased=biased)
        self._note(f"{name}.weight", fit)

    def _refit_writers(
        self, texts: list[Text], small: nn.Module, group: tuple[Sublayer, ...], new: int, *, last: bool
    ) -> None:
        """The writers of one half, or of both together; then their part of the carved stream."""
        writers = [small.get_submodule(half.writer) for half in group]
        biased = getattr(writers[0], "bias", None) is not None
        width = sum(writer.get_parameter("weight").shape[1] for writer in writers)
        inputs = self._inputs(texts, small, group, new, width)
        moments = Moments(
            width + biased, texts[0].carved.shape[-1], among_targets=False, device=self.pair.sums_device
        )
        for text, given in zip(texts, inputs(), strict=True):
            rows = text.flat(given, self.device)
            wanted = text.flat(self._wanted(text, group, last=last), self.device)
            moments.add(with_one(rows) if biased else rows, wanted, text.fitted)
        moments.summed(self.pair.reduce)
        own = torch.cat([writer.get_parameter("weight").detach() for writer in writers], dim=1)
        others = (
            sum((w.get_parameter("bias").detach() for w in writers[1:]), torch.zeros(())) if biased else None
        )
        if others is not None:
            bias = writers[0].get_parameter("bias").detach() + others.to(own.device)
            own = torch.cat([own, bias[:, None]], dim=1)
        fit = refit(moments, own, self.pair.shares)
        name = f"{self.pair.carved.family.blocks}.{new}."
        if fit.weight is not None:
            solved = fit.weight
            if others is not None:
                solved = torch.cat([solved[:, :-1], solved[:, -1:] - others.to(solved)[..., None]], dim=1)
            start = 0
            for position, writer in enumerate(writers):
                columns = writer.get_parameter("weight").shape[1]
                piece = solved[:, start : start + columns]
                start += columns
                has_bias = biased and position == 0
                put(writer, torch.cat([piece, solved[:, -1:]], dim=1) if has_bias else piece, biased=has_bias)
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
        texts: list[Text],
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
                text.fitted,
            )
            for text, given in zip(texts, inputs(), strict=True)
        )
        norm = small.get_submodule(half.post_norm)
        channels = texts[0].carved.shape[-1]
        fit = refit_scales(pairs, channels, self.pair.reduce, self.pair.shares, self.pair.sums_device)
        if fit.weight is not None:
            scale_norm(norm, fit.weight, self.pair.carved.family, half.post_norm)
        self._note(name, fit)

    def _wanted(self, text: Text, group: tuple[Sublayer, ...], *, last: bool) -> Tensor:
        """What the writers of ``group`` should put out."""
        if group[0].post_norm is not None:
            return text.outputs[group[0].writer]
        return self._difference(text, last=last)

    def _difference(self, text: Text, *, last: bool) -> Tensor:
        """What the carved stream lacks of the source's, behind the block or between its halves."""
        stream = text.source if last else text.middle
        return self.pair.of_kept(stream) - text.carved

    def _inputs(
        self, texts: list[Text], small: nn.Module, group: tuple[Sublayer, ...], new: int, width: int
    ) -> Callable[[], Iterable[Tensor]]:
        """What the writers are given, for every text; to be asked for again and again."""
        compute = partial(self._each_given, texts, small, group, new)
        tokens = sum(text.carved.shape[0] * text.carved.shape[1] for text in texts)
        if 4.0 * tokens * width > INPUTS_KEPT_BYTES:
            return compute
        kept = [given.cpu() for given in compute()]
        return lambda: kept

    def _each_given(
        self, texts: list[Text], small: nn.Module, group: tuple[Sublayer, ...], new: int
    ) -> Iterator[Tensor]:
        for text in texts:
            given = [self._given(text, small, half, new) for half in group]
            yield given[0] if len(given) == 1 else torch.cat(given, dim=-1)

    def _given(self, text: Text, small: nn.Module, half: Sublayer, new: int) -> Tensor:
        """What a writer is given: attention is run as the block does, a feed-forward layer by itself."""
        writer = small.get_submodule(half.writer)
        if half.writer == sublayers_of(self.pair.carved.family)[0].writer:
            call = text.carved_calls[new]
            return inputs_within(lambda: run(small, text.carved, call, self.device), writer)
        normed = _normed(small, half, text.carved.to(self.device))
        return inputs_within(lambda: small.get_submodule(half.module)(normed), writer)

    def _note(self, name: str, fit: Fit) -> None:
        self.found.append(fit.noted(name))


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
