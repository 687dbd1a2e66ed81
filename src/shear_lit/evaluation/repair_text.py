"""The text that a cut is repaired on: a sample of every domain, and some that the source generates.

What no domain has (code, where all are prose) would be computed worse after a repair than before it: least squares
know only the inputs that they see. A little of what the source itself writes holds them to the rest of what it knows.
Few tokens of most vocabularies are of other scripts than the Latin one, and a source soon leaves them: in half of the
sequences it is made to stay.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice
from typing import Any, Protocol

import torch

from shear_lit.data.errors import DataError
from shear_lit.data.prepared.manifest import Manifest
from shear_lit.data.serving.remote import RemoteSettings
from shear_lit.data.serving.sampled import ValidationLoader, batches_of
from shear_lit.data.serving.store import SequenceStore
from shear_lit.data.tokens.scripts import OtherScripts, other_scripts
from shear_lit.data.tokens.tokenizer import tokenizer_of
from shear_lit.evaluation.calibration import CalibrationText, fitting_data
from shear_lit.models.companions import has_tokenizer
from shear_lit.models.family import Family
from shear_lit.models.generation import GENERATED_LENGTH, TOGETHER, generated
from shear_lit.ranking.importance import Passage
from shear_lit.theory.shape import ModelShape

_ROWS = 16


class RepairSizes(Protocol):
    """What a user says of the text of a repair."""

    @property
    def tokens(self) -> int:
        """Tokens of the data, at least; whole sequences of every domain."""

    @property
    def generated_fraction(self) -> float:
        """How many tokens the source generates beside them, as a fraction of them."""


@dataclass(frozen=True, kw_only=True)
class RepairText:
    """Passages of a sample of the domains, then those that a source generates; this process's part of either."""

    data: CalibrationText
    generated_sequences: int
    """Those of all processes."""
    length: int
    """Tokens of each of them."""
    vocabulary: int
    scripts: OtherScripts | None
    """What the source writes half of them with; None: it writes them all as it likes."""
    device: torch.device
    rank: int
    world_size: int

    @property
    def generated_tokens(self) -> int:
        """Those of all processes."""
        return self.generated_sequences * self.length

    def passages(self, source: Any) -> Iterator[Passage]:
        """All of them; ``source``, a stock model on the CPU, generates on the device."""
        yield from self.data
        for first, rows, scripts in islice(self._written(), self.rank, None, self.world_size):
            drawn = (
                {}
                if scripts is None
                else {name: torch.from_numpy(part) for name, part in scripts._asdict().items()}
            )
            ids = generated(
                source,
                rows,
                length=self.length,
                vocabulary=self.vocabulary,
                seed=first,
                device=self.device,
                **drawn,
            )
            for start, part in zip(range(0, rows, _ROWS), ids.split(_ROWS), strict=True):
                number = self.data.planned + first + start
                yield Passage(inputs={"input_ids": part, "labels": part}, number=number)

    def _written(self) -> Iterator[tuple[int, int, OtherScripts | None]]:
        """The first of those that are generated together, how many they are, and with what."""
        free = self.generated_sequences - (self.generated_sequences // 2 if self.scripts else 0)
        for begin, end, scripts in ((0, free, None), (free, self.generated_sequences, self.scripts)):
            for first in range(begin, end, TOGETHER):
                yield first, min(TOGETHER, end - first), scripts


def repair_text(
    sizes: RepairSizes, manifest: Manifest, loader: ValidationLoader, model: str, device: torch.device
) -> RepairText:
    """The text whose part from prepared data ``loader`` reads, made with ``data_batches``, and ``model`` the rest."""
    vocabulary = manifest.tokenizer.vocabulary
    length = min(GENERATED_LENGTH, manifest.sequence_length)
    return RepairText(
        data=CalibrationText(loader, device),
        generated_sequences=math.ceil(sizes.tokens * sizes.generated_fraction / length),
        length=length,
        vocabulary=vocabulary,
        scripts=other_scripts(tokenizer_of(model), vocabulary) if has_tokenizer(model) else None,
        device=device,
        rank=loader.rank,
        world_size=loader.world_size,
    )


def data_batches(sizes: RepairSizes, manifest: Manifest, split: str) -> dict[str, int]:
    """Sequences of each domain, and those of a batch, of the part from prepared data."""
    return batches_of(manifest, split, sizes.tokens)


def open_repair_text(
    directory: str,
    model: str,
    family: Family,
    target: ModelShape,
    *,
    split: str,
    sizes: RepairSizes,
    device: torch.device,
    cross_document_attention: bool,
    remote: RemoteSettings,
) -> tuple[RepairText, Manifest]:
    """The text for a repair of a cut to ``target``, of which only config and tokenizer are read.

    Raises:
        SourceError, TextError, DataError: as ``open_calibration_text``; or it is too little text for the target.
    """
    manifest = fitting_data(directory, model, remote)
    loader = ValidationLoader(
        SequenceStore(directory, split, manifest, remote),
        **data_batches(sizes, manifest, split),
        documents_apart=not cross_document_attention,
    )
    text = repair_text(sizes, manifest, loader, model, device)
    tokens = loader.sequences * manifest.sequence_length + text.generated_tokens
    check_enough(tokens, family, target, split=split, key="repair_tokens")
    return text, manifest


def check_enough(tokens: int, family: Family, target: ModelShape, *, split: str, key: str) -> None:
    """Refuse so little text that weights have more columns than there are tokens to fit them to.

    Raises:
        DataError: it is too little.
    """
    least = least_tokens(family, target)
    if tokens < least:
        raise DataError(
            f"{tokens:,} tokens of the {split} split: the widest weight that is refitted has "
            f"{widest(family, target):,} columns, and needs {least:,} tokens. Use more, or prepare more text.",
            key=key,
        )


def widest(family: Family, target: ModelShape) -> int:
    """Columns of the widest weight of a block of a cut to ``target``."""
    return max(family.widest_writer(target), target.hidden)


def least_tokens(family: Family, target: ModelShape) -> int:
    """Tokens with which a repair is well posed: of those that are not held out, as many as columns."""
    return math.ceil(widest(family, target) * 5 / 4)
