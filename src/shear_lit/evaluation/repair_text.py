"""The text that a cut is repaired on: a sample of every domain, and some that the source generates.

What no domain has (code, where all are prose) would be computed worse after a repair than before it: least squares
know only the inputs that they see. A little of what the source itself writes holds them to the rest of what it knows.
Few tokens of most vocabularies are of other scripts than the Latin one, and a source soon leaves them: in some short
sequences it is made to stay.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice
from typing import Any, NamedTuple, Protocol

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

IN_OTHER_SCRIPTS = 8
"""One token of so many that are generated is for other scripts than the Latin one."""
SHORT = 16
"""Tokens of a sequence in another script at most: there are many scripts."""
_ROWS = 16


class RepairSizes(Protocol):
    """What a user says of the text of a repair."""

    @property
    def tokens(self) -> int:
        """Tokens of the data, at least; whole sequences of every domain."""

    @property
    def generated_fraction(self) -> float:
        """How many tokens the source generates beside them, as a fraction of them."""


class Writing(NamedTuple):
    """Text that a source generates."""

    sequences: int
    length: int
    """Tokens of each of them."""
    scripts: OtherScripts | None = None
    """What it is written with; None: as the source likes."""


@dataclass(frozen=True, kw_only=True)
class RepairText:
    """Passages of a sample of the domains, then those that a source generates; this process's part of either."""

    data: CalibrationText
    writings: tuple[Writing, ...]
    """Those of all processes."""
    vocabulary: int
    device: torch.device
    rank: int
    world_size: int

    @property
    def generated_sequences(self) -> int:
        """Those of all processes."""
        return sum(writing.sequences for writing in self.writings)

    @property
    def generated_tokens(self) -> int:
        """Those of all processes."""
        return sum(writing.sequences * writing.length for writing in self.writings)

    def passages(self, source: Any) -> Iterator[Passage]:
        """All of them; ``source``, a stock model on the CPU, generates on the device."""
        yield from self.data
        for first, rows, writing in islice(self._together(), self.rank, None, self.world_size):
            scripts = {} if writing.scripts is None else writing.scripts._asdict()
            ids = generated(
                source,
                rows,
                length=writing.length,
                vocabulary=self.vocabulary,
                seed=first,
                device=self.device,
                **{name: torch.from_numpy(part) for name, part in scripts.items()},
            )
            for start, part in zip(range(0, rows, _ROWS), ids.split(_ROWS), strict=True):
                number = self.data.planned + first + start
                yield Passage(inputs={"input_ids": part, "labels": part}, number=number)

    def _together(self) -> Iterator[tuple[int, int, Writing]]:
        """The first of those that are generated together, and how many they are."""
        begin = 0
        for writing in self.writings:
            for first in range(0, writing.sequences, TOGETHER):
                yield begin + first, min(TOGETHER, writing.sequences - first), writing
            begin += writing.sequences


def repair_text(
    sizes: RepairSizes, manifest: Manifest, loader: ValidationLoader, model: str, device: torch.device
) -> RepairText:
    """The text whose part from prepared data ``loader`` reads, made with ``data_batches``, and ``model`` the rest."""
    vocabulary = manifest.tokenizer.vocabulary
    scripts = other_scripts(tokenizer_of(model), vocabulary) if has_tokenizer(model) else None
    tokens, length = sizes.tokens * sizes.generated_fraction, min(GENERATED_LENGTH, manifest.sequence_length)
    others, short = tokens / IN_OTHER_SCRIPTS if scripts else 0, min(SHORT, length)
    return RepairText(
        data=CalibrationText(loader, device),
        writings=(
            Writing(math.ceil((tokens - others) / length), length),
            Writing(math.ceil(others / short), short, scripts),
        ),
        vocabulary=vocabulary,
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
