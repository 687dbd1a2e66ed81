"""The cells of ``clients.py``: families, rotary kinds, widths, kinds of blocks, and how each version names them.

Sizes are those that every client's kernels take: heads of 64, widths of multiples of 32. Windows and the lengths that
scaled rotary embeddings start from are shorter than the probe, so that losing either shows.
"""

from dataclasses import dataclass
from typing import Any

from shear_lit.theory.shape import ModelShape

TOKENS = 28
WINDOW = 16
HEAD = 64
THETA, LOCAL_THETA, USUAL_THETA = 500.0, 50.0, 10000.0
LONGEST, ORIGINAL = 64, 16
"""Positions of a model, and those that a scaled one was made for."""

WRITERS = ("4.57", "5")
"""The transformers that write sources: the form that most of the hub has, and today's."""
PLAIN, SCALED, USUAL = "plain", "scaled", "usual"
"""Rotary embeddings: as they are but for theta, scaled, and with the theta of the family's published models."""
EQUAL, OTHER = "equal", "other"
"""Whether hidden / heads of what is written is the head size."""
ALIKE, WINDOWED, KEPT, BROKEN = "alike", "windowed", "kept", "broken"
"""Blocks: all of one kind; all with a window; several kinds, in the order of the family's period, or not."""

_SLIDING, _FULL = "sliding_attention", "full_attention"
_YARN = {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": ORIGINAL}
_LINEAR = {"rope_type": "linear", "factor": 4.0}
_LLAMA3 = {
    "rope_type": "llama3",
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": ORIGINAL,
}
_LONGROPE = {
    "rope_type": "longrope",
    "short_factor": [1.0 + 0.05 * place for place in range(HEAD // 2)],
    "long_factor": [2.0 + 0.1 * place for place in range(HEAD // 2)],
}


@dataclass(frozen=True, kw_only=True)
class FamilyCells:
    """What is tried of one family."""

    scaling: dict[str, Any]
    """Its own kind of scaled rotary embedding, in the names of both versions."""
    old_scaling: dict[str, Any] | None = None
    """The kind that 4.57 takes instead."""
    kinds: tuple[str, ...] = (ALIKE,)
    """Kinds of blocks, each with both rotary kinds and both widths."""
    once: tuple[str, ...] = ()
    """Kinds of blocks that are tried with one rotary kind and one width only."""
    widths: tuple[str, ...] = (EQUAL, OTHER)
    """Widths that its config takes."""
    scaled_widths: tuple[str, ...] | None = None
    """The same of a scaled one, where they differ."""
    tied: bool = False
    """Whether the head is the embedding."""
    sentencepiece: bool = True
    """Whether llama.cpp's converter takes a SentencePiece tokenizer for it."""
    layers: int = 4
    """Blocks of the source."""
    kept: tuple[int, ...] = (1, 3)
    """Blocks that are kept; in the order of the period, where there is one."""
    broken: tuple[int, ...] = ()
    """Blocks that break the period."""
    multi_head: bool = False
    """Whether every query head has a KV head of its own."""
    initializer: float = 0.05
    """Standard deviation of the weights."""
    ropes: tuple[str, ...] = (PLAIN, SCALED)
    """Rotary embeddings, of those above."""
    made_smaller: tuple[tuple[str, float, float], ...] = ()
    """Parts of names of parameters, each with a factor, and what the model adds to the parameter before it is used."""


# llama.cpp looks GELU up in half precision, and in gpt_neox by another formula: where the feed-forward layers made most
# of the residual stream, as with random weights, that alone would be more than the tolerance.
_GEMMA_FEED_FORWARD = (("post_feedforward_layernorm.weight", 0.1, 1.0),)
_NEOX_FEED_FORWARD = (("dense_4h_to_h", 0.02, 0.0),)

FAMILIES: dict[str, FamilyCells] = {
    "llama": FamilyCells(scaling=_LLAMA3),
    "mistral": FamilyCells(scaling=_YARN, once=(WINDOWED,)),
    "qwen2": FamilyCells(scaling=_YARN, once=(KEPT,)),
    "qwen3": FamilyCells(scaling=_YARN, once=(KEPT,), tied=True),
    "smollm3": FamilyCells(
        scaling=_YARN, kinds=(KEPT, BROKEN), tied=True, layers=8, kept=(0, 1, 6, 7), broken=(0, 3, 5, 7)
    ),
    # Its norms come after the feed-forward layer, whose output would be lost beside their constant.
    "olmo2": FamilyCells(
        scaling=_YARN, old_scaling={"type": "linear", "factor": 4.0}, sentencepiece=False, initializer=0.1
    ),
    # llama.cpp's converters of gemma2 and gpt_neox leave theta out.
    "gemma2": FamilyCells(
        scaling=_LINEAR,
        ropes=(PLAIN, SCALED, USUAL),
        kinds=(KEPT, BROKEN),
        tied=True,
        layers=6,
        kept=(0, 1, 4, 5),
        broken=(0, 2, 3, 5),
        made_smaller=_GEMMA_FEED_FORWARD,
    ),
    "gemma3_text": FamilyCells(
        scaling=_LINEAR,
        kinds=(KEPT, BROKEN),
        tied=True,
        layers=12,
        kept=(0, 1, 3, 4, 7, 11),
        broken=(0, 2, 4, 5, 8, 11),
        made_smaller=_GEMMA_FEED_FORWARD,
    ),
    "gpt_neox": FamilyCells(
        scaling=_LINEAR,
        ropes=(PLAIN, SCALED, USUAL),
        widths=(EQUAL,),
        multi_head=True,
        sentencepiece=False,
        made_smaller=_NEOX_FEED_FORWARD,
    ),
    "phi3": FamilyCells(scaling=_LONGROPE, once=(WINDOWED,), scaled_widths=(EQUAL,)),
}


@dataclass(frozen=True, kw_only=True, order=True)
class Source:
    """One model that is cut."""

    family: str
    rope: str
    windowed: bool
    """Whether there is a window that the family could do without."""
    writer: str

    def __str__(self) -> str:
        return f"{self.family}-{self.rope}{'-windowed' if self.windowed else ''}-{self.writer}"

    @property
    def shape(self) -> ModelShape:
        facts = FAMILIES[self.family]
        heads, kv_heads = (6, 6) if facts.multi_head else (9, 3)
        return ModelShape(
            layers=facts.layers, hidden=heads * HEAD, query_heads=heads, kv_heads=kv_heads, intermediate=256
        )

    @property
    def kind_of_rope(self) -> str:
        """As configs call it; with a theta that the family's published models do not have, where that matters."""
        scaling = self._scaling or {"rope_type": "default"}
        kind = str(scaling.get("rope_type") or scaling["type"])
        unusual = self.rope != USUAL and USUAL in FAMILIES[self.family].ropes
        return f"{kind}, theta {THETA:g}" if unusual else kind

    @property
    def _theta(self) -> float:
        return USUAL_THETA if self.rope == USUAL else THETA

    @property
    def _scaling(self) -> dict[str, Any] | None:
        facts = FAMILIES[self.family]
        if self.rope != SCALED:
            return None
        return facts.old_scaling if facts.old_scaling and self.writer == "4.57" else facts.scaling

    def entries(self, vocabulary: int) -> dict[str, Any]:
        """The entries of the config, as the version that writes it names them."""
        facts, shape = FAMILIES[self.family], self.shape
        entries = {
            "vocab_size": vocabulary,
            "hidden_size": shape.hidden,
            "intermediate_size": shape.intermediate,
            "num_hidden_layers": shape.layers,
            "num_attention_heads": shape.query_heads,
            "max_position_embeddings": LONGEST,
            "tie_word_embeddings": facts.tied,
            "initializer_range": facts.initializer,
            "bos_token_id": 1,
            "eos_token_id": 2,
            "pad_token_id": 0,
        }
        if self.family == "gpt_neox":
            entries |= {"layer_norm_eps": 1e-3, "use_parallel_residual": True}
        else:
            entries |= {"num_key_value_heads": shape.kv_heads, "rms_norm_eps": 1e-3}
        if self.family in ("mistral", "qwen3", "gemma2", "gemma3_text"):  # theirs is explicit
            entries["head_dim"] = HEAD
        return entries | self._kinds() | self._rope()

    def _kinds(self) -> dict[str, Any]:
        if self.family == "gemma2":
            soft_caps = {"attn_logit_softcapping": 20.0, "final_logit_softcapping": 15.0}
            return {"sliding_window": WINDOW, "query_pre_attn_scalar": HEAD, **soft_caps}
        if self.family == "gemma3_text":
            return {"sliding_window": WINDOW, "query_pre_attn_scalar": HEAD}
        if self.family in ("qwen2", "qwen3") and self.windowed:
            return {"use_sliding_window": True, "sliding_window": WINDOW, "max_window_layers": 2}
        if self.family in ("mistral", "phi3"):
            return {"sliding_window": WINDOW if self.windowed else None}
        return {}

    def _rope(self) -> dict[str, Any]:
        scaling = self._scaling
        partial = {"gpt_neox": 0.5, "phi3": 0.75 if self.rope == PLAIN else 1.0}.get(self.family)
        entries = (
            self._old_rope(scaling, partial) if self.writer == "4.57" else self._new_rope(scaling, partial)
        )
        if self.family == "phi3":
            entries["original_max_position_embeddings"] = ORIGINAL
        return entries

    def _old_rope(self, scaling: dict[str, Any] | None, partial: float | None) -> dict[str, Any]:
        if self.family == "gpt_neox":
            return {"rotary_emb_base": self._theta, "rotary_pct": partial, "rope_scaling": scaling}
        entries: dict[str, Any] = {"rope_theta": self._theta, "rope_scaling": scaling}
        if self.family == "phi3":
            entries["partial_rotary_factor"] = partial
            if scaling:  # its config class wants the old name, and these entries alone
                entries["rope_scaling"] = {
                    "type": "longrope",
                    **{k: v for k, v in scaling.items() if k != "rope_type"},
                }
        if self.family == "gemma3_text":
            entries["rope_local_base_freq"] = LOCAL_THETA
        return entries

    def _new_rope(self, scaling: dict[str, Any] | None, partial: float | None) -> dict[str, Any]:
        rope = {"rope_theta": self._theta, **(scaling or {"rope_type": "default"})}
        if partial is not None:
            rope["partial_rotary_factor"] = partial
        if self.family == "phi3" and scaling:
            rope["original_max_position_embeddings"] = ORIGINAL
        if self.family == "gemma3_text":
            local = {"rope_type": "default", "rope_theta": LOCAL_THETA}
            return {"rope_parameters": {_FULL: rope, _SLIDING: local}}
        return {"rope_parameters": rope}


@dataclass(frozen=True, kw_only=True, order=True)
class Cell:
    """One cut of a source."""

    source: Source
    width: str
    period: str
    write_as: str = "source"
    """Model type of what is written."""

    def __str__(self) -> str:
        written = "" if self.write_as == "source" else f"-as-{self.write_as}"
        return f"{self.source}-{self.width}-{self.period}{written}"

    @property
    def written_family(self) -> str:
        return self.source.family if self.write_as == "source" else self.write_as

    @property
    def kept_layers(self) -> tuple[int, ...]:
        facts = FAMILIES[self.source.family]
        return facts.broken if self.period == BROKEN else facts.kept

    @property
    def target(self) -> ModelShape:
        heads, kv_heads = (4, 4) if FAMILIES[self.source.family].multi_head else (4, 2)
        hidden = heads * HEAD if self.width == EQUAL else (heads + 1) * HEAD
        return ModelShape(
            layers=len(self.kept_layers),
            hidden=hidden,
            query_heads=heads,
            kv_heads=kv_heads,
            intermediate=192,
        )


def all_cells(families: list[str]) -> list[Cell]:
    """Every cell of some families."""
    found = []
    for family in families:
        facts = FAMILIES[family]
        for writer in WRITERS:
            for rope in facts.ropes:
                widths = facts.scaled_widths if rope == SCALED and facts.scaled_widths else facts.widths
                source = Source(family=family, rope=rope, windowed=False, writer=writer)
                found += [
                    Cell(source=source, width=width, period=kind) for width in widths for kind in facts.kinds
                ]
                if family == "llama":  # at the widths that some clients refuse of it
                    found.append(Cell(source=source, width=OTHER, period=ALIKE, write_as="mistral"))
            source = Source(family=family, rope=PLAIN, windowed=True, writer=writer)
            found += [Cell(source=source, width=EQUAL, period=kind) for kind in facts.once]
    return found
