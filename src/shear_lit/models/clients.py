"""Which programs read a model of this package, and under which conditions: a table that was measured, not typed.

``clients.json`` beside this file is written by ``benchmarks/clients.py`` (``make clients``), which loads models of
every family, cut on all axes, with the programs themselves, and compares their logits with those of what was written.
"""

import json
from collections.abc import Iterator
from dataclasses import dataclass, fields, replace
from enum import StrEnum
from functools import lru_cache
from importlib.resources import files
from itertools import combinations
from typing import Any

from transformers import PretrainedConfig

from shear_lit.models.mistral import biases_of_llama
from shear_lit.models.registry import family_of, keeps_period
from shear_lit.theory.shape import ModelShape

_USUAL_BASE = 10000.0
"""The base of the rotary embedding that some programs take for the only one of a family."""


class Verdict(StrEnum):
    """What a program makes of a model."""

    READS = "reads"
    """Its logits are those of the model."""
    REFUSES = "refuses"
    """It says that it cannot read it."""
    WRONG = "wrong"
    """It computes something else without a word."""


@dataclass(frozen=True, kw_only=True)
class Conditions:
    """What of a model programs differ about."""

    family: str
    """Model type of its config."""
    rope: str
    """Kind of its rotary embedding (of blocks without a window, where others differ)."""
    width: str
    """``equal`` where hidden is heads x head size, otherwise ``other``."""
    period: str
    """Of its blocks: ``alike``, ``windowed`` (all with a sliding window), or of several kinds, which alternate as the
    family's do (``kept``) or not (``broken``)."""


@dataclass(frozen=True, kw_only=True)
class Reading:
    """What one program made of a model under some conditions."""

    conditions: Conditions
    """The conditions."""
    client: str
    """Name of the program."""
    version: str
    """Its version."""
    source: Verdict
    """What it makes of models as they are published."""
    export: Verdict
    """What it makes of models that were cut and written here."""

    def __str__(self) -> str:
        return f"{self.client.partition('-')[0]} {self.version}"

    @property
    def lost(self) -> bool:
        """Whether the program reads the source and not what is cut from it."""
        return self.source is Verdict.READS and self.export is not Verdict.READS


@dataclass(frozen=True, kw_only=True)
class Written:
    """A model that is to be written, as far as programs differ about it."""

    config: PretrainedConfig
    """Config of its source, under the type that it is written as."""
    shape: ModelShape
    """Its shape."""
    period_kept: bool
    """Whether the kinds of its blocks alternate as the family's do."""

    @property
    def conditions(self) -> Conditions:
        """Its conditions."""
        equal = self.shape.hidden == self.shape.query_heads * _head_size(self.config)
        return Conditions(
            family=self.config.model_type,
            rope=_rope_kind(self.config),
            width="equal" if equal else "other",
            period=_blocks(self.config) if self.period_kept else "broken",
        )

    def ways_out(self) -> Iterator[tuple[str, Conditions]]:
        """What a user can change about it, and the conditions after that."""
        now, size = self.conditions, _head_size(self.config)
        if now.width == "other":
            equal = replace(now, width="equal")
            source = family_of(self.config).shape
            narrower, heads = self.shape.query_heads * size, self.shape.hidden // size
            if narrower <= source.hidden:
                yield f"hidden={narrower}", equal
            fits = heads * size == self.shape.hidden and heads % self.shape.kv_heads == 0
            if fits and heads <= source.query_heads:
                yield f"query_heads={heads}", equal
            if now.family == "llama" and not biases_of_llama(self.config):
                yield "write_as=mistral", replace(now, family="mistral")
        if now.period == "broken":
            yield "keep_layer_period=true", replace(now, period="kept")


def readings(conditions: Conditions) -> tuple[Reading, ...]:
    """What programs made of models under ``conditions``; none where it was not tried."""
    return tuple(reading for reading in _table() if reading.conditions == conditions)


def _nearest_readings(conditions: Conditions) -> tuple[Reading, ...]:
    """The same, with a plain rotary embedding where its kind was not tried: widths and blocks matter all the same."""
    return readings(conditions) or readings(replace(conditions, rope="default"))


def warning(written: Written) -> str | None:
    """One line on the programs that read the source and not what is to be written, and what they all would read."""
    lost = [reading for reading in _nearest_readings(written.conditions) if reading.lost]
    if not lost:
        return None
    wrong = [str(reading) for reading in lost if reading.export is Verdict.WRONG]
    refused = [str(reading) for reading in lost if reading.export is Verdict.REFUSES]
    said = [
        *([f"read without a word as another model by {_listed(wrong)}"] if wrong else []),
        *([f"refused by {_listed(refused)}"] if refused else []),
    ]
    return f"{_why(written)}: {' and '.join(said)}, although the source is read. {_repair(written)}"


def _why(written: Written) -> str:
    conditions, size = written.conditions, _head_size(written.config)
    reasons = []
    if conditions.width == "other":
        reasons.append(
            f"target.hidden={written.shape.hidden} is not query_heads={written.shape.query_heads} x {size}, the head "
            f"size"
        )
    if conditions.period == "broken":
        period = family_of(written.config).period
        assert period is not None
        reasons.append(f"the blocks' period of {period.blocks} is not kept")
    return " and ".join(reasons) or f"model_type={conditions.family} with {conditions.rope} rotary embedding"


def _repair(written: Written) -> str:
    ways, now = list(written.ways_out()), written.conditions
    lost = {reading.client for reading in _nearest_readings(now) if reading.lost}
    for number in (1, 2):
        whole = [
            " with ".join(text for text, _ in chosen)
            for chosen in combinations(ways, number)
            if lost
            <= {
                each.client
                for each in _nearest_readings(_joined(now, chosen))
                if each.export is Verdict.READS
            }
        ]
        if whole:
            return f"Use {' or '.join(whole)} for a model that all of them read."
    return "No other shape was seen to change that."


def _joined(now: Conditions, chosen: tuple[tuple[str, Conditions], ...]) -> Conditions:
    changed = {
        name: value
        for _, conditions in chosen
        for name, value in vars(conditions).items()
        if value != getattr(now, name)
    }
    return replace(now, **changed)


def lines(config: PretrainedConfig) -> tuple[str, ...]:
    """What programs made of models like the one that ``config`` describes, a line each, for a card."""
    of_export = {
        Verdict.READS: "reads it",
        Verdict.REFUSES: "refuses it",
        Verdict.WRONG: "computes something else",
    }
    of_source = {
        Verdict.READS: "",
        Verdict.REFUSES: " (it refuses such sources)",
        Verdict.WRONG: " (of such sources it computes something else)",
    }
    return tuple(
        f"{reading}: {of_export[reading.export]}{of_source[reading.source]}"
        for reading in readings(conditions_of(config))
    )


def conditions_of(config: PretrainedConfig) -> Conditions:
    """The conditions of a model that exists."""
    shape = family_of(config).shape
    return Written(config=config, shape=shape, period_kept=keeps_period(config)).conditions


def _head_size(config: PretrainedConfig) -> int:
    return family_of(config).head_size


def _blocks(config: PretrainedConfig) -> str:
    """What kinds of blocks there are, in a model whose kinds alternate as its family's do."""
    if family_of(config).period is not None:
        return "kept"
    kinds = set(getattr(config, "layer_types", None) or ())
    if "sliding_attention" in kinds and kinds != {"sliding_attention"}:
        return "kept"
    windowed = kinds == {"sliding_attention"} or (not kinds and getattr(config, "sliding_window", None))
    return "windowed" if windowed else "alike"


def _rope_kind(config: PretrainedConfig) -> str:
    """Its kind, as the table calls it: with the base that was tried, where some program knows the usual one only."""
    rope: dict[str, Any] = config.rope_parameters
    rope = rope.get("full_attention", rope)
    kind = str(rope["rope_type"])
    of_family = (each.conditions.rope for each in _table() if each.conditions.family == config.model_type)
    unusual = next((tried for tried in of_family if tried.startswith(f"{kind}, theta ")), None)
    return unusual if unusual is not None and rope["rope_theta"] != _USUAL_BASE else kind


def _listed(names: list[str]) -> str:
    return f"{', '.join(names[:-1])} and {names[-1]}" if len(names) > 1 else names[0]


@lru_cache(maxsize=1)
def _table() -> tuple[Reading, ...]:
    """The measured table; what could not be written is not in it."""
    rows = json.loads(files(__package__).joinpath("clients.json").read_text(encoding="utf-8"))
    return tuple(
        Reading(
            conditions=Conditions(**{field.name: row[field.name] for field in fields(Conditions)}),
            client=row["client"],
            version=row["version"],
            source=Verdict(row["source"]),
            export=Verdict(row["export"]),
        )
        for row in rows
        if row["export"] in tuple(Verdict)
    )
