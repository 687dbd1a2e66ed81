"""Reading a checkpoint of a run for export: one process, no process group, no optimizer state.

A checkpoint is a file (``step=NNNNNN.ckpt``) or a directory of shards (``step=NNNNNN/``), whole if it has ``meta.pt``.
"""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.distributed.checkpoint.metadata import TensorStorageMetadata

from shear_lit.models.adapters import Lora, merged
from shear_lit.models.huggingface import check_sizes, config_of
from shear_lit.models.registry import family_of, tensor_sizes
from shear_lit.pruning.constraints import LAGRANGIAN, Exact, SizeConstraint
from shear_lit.theory.shape import Axis, ModelShape
from shear_lit.training.errors import CheckpointError, damaged, reading
from shear_lit.training.records import check_file, load_file
from shear_lit.training.shard_index import read_index
from shear_lit.training.shards import META, checksum_in, load_meta, load_shards

ENTRY = "shear_lit"
"""The key under which a checkpoint keeps its facts."""
FORMAT = 1
"""The version of the facts that this package writes."""
BOUNDARY = "Boundary"
"""The key under which Lightning keeps what the callback of that name knows."""

_MODEL, _GATES, _STATE = "model.", "gates.", "state_dict."
_HEAD, _EMBEDDING = "lm_head.weight", "model.embed_tokens.weight"


@dataclass(frozen=True, kw_only=True)
class CheckpointFacts:
    """What a checkpoint says of itself, in plain types, so that it can be read without running anything."""

    source: str
    """Directory of the model that the run started from, or ``organisation/model@commit``; once without the commit."""
    source_fingerprint: str
    """``source_fingerprint`` of it."""
    config: dict[str, Any]
    """The Hugging Face config of the model in the checkpoint (the source's: gates do not shrink it)."""
    target: ModelShape | None
    """The shape to cut to, if the run prunes."""
    axes: tuple[Axis, ...] = ()
    """The axes that have gates."""
    constraint: SizeConstraint = LAGRANGIAN
    """How the gates' sizes were held at that step."""
    keep_layer_period: bool = False
    """Whether the blocks that are kept alternate as the family's do."""
    ordered_by: str | None = None
    """The criterion in whose order the gates started, if they started in an order."""
    repair: dict[str, Any] | None = None
    """``RepairFacts`` of the cut that the run started from, if it was repaired."""
    teacher: dict[str, Any] | None = None
    """``TeacherFacts`` of what the run learns from besides the text, if anything."""
    lora: dict[str, Any] | None = None
    """``Lora`` of the adapters that lie beside the weights, if there are any."""
    chat_template: str | None = None
    """The template that conversations were told to the model by, if the run's data is of conversations."""
    step: int
    """Optimizer steps taken."""
    tokens: int
    """Tokens trained on."""
    domains: dict[str, Any] = field(default_factory=dict)
    """What the run knows of its domains, by name."""
    losses: dict[str, float] = field(default_factory=dict)
    """The last validation losses by domain, in nats per token."""
    device_seconds: float | None = field(default=None, compare=False)
    """Seconds that the run has kept its devices, all together; none where the checkpoint does not say.

    Two runs are the same whatever time they took.
    """

    def to_entry(self) -> dict[str, Any]:
        """The value of ``checkpoint["shear_lit"]``."""
        entry = {
            name: value
            for name, value in asdict(self).items()
            if name
            not in (
                "target",
                "axes",
                "constraint",
                "keep_layer_period",
                "ordered_by",
                "repair",
                "domains",
                "teacher",
                "lora",
                "chat_template",
                "device_seconds",
            )
        }
        pruning: dict[str, Any] | None = None
        if self.target is not None:
            pruning = {"target": self.target.to_dict(), "axes": [axis.value for axis in self.axes]}
        if pruning is not None and isinstance(self.constraint, Exact):
            pruning["exact"] = self.constraint.to_entry()
        if pruning is not None and self.keep_layer_period:
            pruning["keep_layer_period"] = True
        if pruning is not None and self.ordered_by is not None:
            pruning["ordered_by"] = self.ordered_by
        if pruning is not None and self.repair is not None:
            pruning["repair"] = self.repair
        later = {"teacher": self.teacher, "lora": self.lora, "chat_template": self.chat_template}
        said = {name: value for name, value in later.items() if value is not None}
        return {"format": FORMAT, **entry, "pruning": pruning, **said, "data": {"domains": self.domains}}

    @classmethod
    def from_entry(cls, entry: Mapping[str, Any], where: str | Path) -> "CheckpointFacts":
        """The facts that ``to_entry`` wrote into the checkpoint at ``where``.

        Raises:
            CheckpointError: they are of another format, or incomplete.
        """
        if entry.get("format") != FORMAT:
            raise CheckpointError(
                f"{str(where)!r} is of format {entry.get('format')!r}, and this version reads {FORMAT}. "
                f"Export it with the version of shear_lit that wrote it.",
                key="checkpoint",
            )
        try:
            pruning = entry["pruning"]
            return cls(
                **{
                    name: entry[name] for name in ("source", "source_fingerprint", "config", "step", "tokens")
                },
                target=None if pruning is None else ModelShape(**pruning["target"]),
                axes=() if pruning is None else tuple(Axis(axis) for axis in pruning["axes"]),
                constraint=Exact.from_entry(pruning["exact"])
                if pruning and "exact" in pruning
                else LAGRANGIAN,
                keep_layer_period=bool(pruning and pruning.get("keep_layer_period", False)),
                ordered_by=pruning.get("ordered_by") if pruning else None,
                repair=dict(pruning["repair"]) if pruning and pruning.get("repair") else None,
                teacher=dict(entry["teacher"]) if entry.get("teacher") else None,
                lora=asdict(Lora(**entry["lora"])) if entry.get("lora") else None,
                chat_template=str(entry["chat_template"]) if entry.get("chat_template") else None,
                domains=dict(entry["data"].get("domains", {})),
                losses=dict(entry["losses"]),
            )
        except (KeyError, TypeError, ValueError) as error:
            raise CheckpointError(
                f"{str(where)!r}: what it says of itself is incomplete or damaged ({error!r}). "
                f"Use another checkpoint of the run.",
                key="checkpoint",
            ) from error


@dataclass(frozen=True, kw_only=True)
class ModelCheckpointContents:
    """What a checkpoint holds that a model can be made of."""

    tensors: dict[str, Tensor]
    """Every parameter of the model once, by its Hugging Face name, with what adapters add; of a file, mapped from it
    and not copied."""
    log_alpha: dict[Axis, Tensor]
    """The gates' parameters by axis, before any shift to an exact size; empty where the run does not prune."""
    facts: CheckpointFacts
    """What the checkpoint says of itself."""


@dataclass(frozen=True, kw_only=True)
class OpenedCheckpoint:
    """A checkpoint of either kind of which no weight was read."""

    path: Path
    """The file or the directory of shards."""
    facts: CheckpointFacts
    """What it says of itself."""
    content: dict[str, Any]
    """What torch saved in the file, its tensors mapped from it; of a directory, what lies beside the shards."""

    def read(self) -> ModelCheckpointContents:
        """Read the model and the gates, once: what was mapped is handed over, and unmapped with the result.

        Of a file nothing is copied; of a directory of shards the model is, once. Neither runs code, and what is read
        was compared with its checksums: all of a file, and of shards what an export needs.

        Raises:
            CheckpointError: it is damaged, or does not hold the model that it names.
        """
        if self.path.is_dir():
            state = _sharded_state(self.path, self.content, self.facts)
        else:
            with reading(self.path):
                check_file(self.path)
            state = _state(self.content, self.path)
        self.content.clear()
        return ModelCheckpointContents(
            tensors=_model_tensors(state, self.facts, self.path),
            log_alpha=_log_alpha(state, self.facts, self.path),
            facts=self.facts,
        )


def open_checkpoint(path: str | Path) -> OpenedCheckpoint:
    """See what a checkpoint of either kind says of itself, before its weights are read.

    Raises:
        CheckpointError: there is none, it is half-written or damaged, or it is not of this package.
    """
    path = Path(path)
    _check_there(path)
    with reading(path):
        content = load_meta(path) if path.is_dir() else load_file(path, numbers=False)
        if path.is_dir():
            read_index(path, checksum_in(content, path))
    if not isinstance(content, dict):
        raise damaged(path, f"{path.name} holds a {type(content).__name__}")
    return OpenedCheckpoint(path=path, facts=_facts(content, path), content=content)


def read_checkpoint(path: str | Path) -> ModelCheckpointContents:
    """The model, the gates and the facts of a checkpoint of either kind.

    Raises:
        CheckpointError: as ``open_checkpoint`` and ``OpenedCheckpoint.read`` do.
    """
    return open_checkpoint(path).read()


def read_facts(path: str | Path) -> CheckpointFacts:
    """What a checkpoint of either kind says of itself; no weight is read.

    Raises:
        CheckpointError: as ``open_checkpoint`` does.
    """
    return open_checkpoint(path).facts


def _facts(checkpoint: Mapping[str, Any], path: Path) -> CheckpointFacts:
    if not isinstance(checkpoint.get(ENTRY), Mapping):
        raise CheckpointError(
            f"{str(path)!r} has no entry {ENTRY!r}: it was not written by this package. "
            f"Name a checkpoint of a `fit` run.",
            key="checkpoint",
        )
    found = CheckpointFacts.from_entry(checkpoint[ENTRY], path)
    return replace(found, device_seconds=_device_seconds(checkpoint.get("callbacks")))


def _device_seconds(callbacks: Any) -> float | None:
    """What the boundary of the run has kept of its cost; checkpoints of earlier versions know nothing of it."""
    kept = callbacks.get(BOUNDARY) if isinstance(callbacks, Mapping) else None
    seconds = kept.get("device_seconds") if isinstance(kept, Mapping) else None
    return float(seconds) if isinstance(seconds, int | float) else None


def _state(content: Mapping[str, Any], path: Path) -> dict[str, Tensor]:
    if not isinstance(content.get("state_dict"), Mapping):
        raise damaged(path, "it has no state_dict")
    return dict(content["state_dict"])


def _sharded_state(path: Path, meta: Mapping[str, Any], facts: CheckpointFacts) -> dict[str, Tensor]:
    with reading(path):
        checksum = checksum_in(meta, path)
        stored = read_index(path, checksum).state_dict_metadata
    entries = {
        name.removeprefix(_STATE): entry
        for name, entry in stored.items()
        if name.startswith((_STATE + _MODEL, _STATE + _GATES)) and isinstance(entry, TensorStorageMetadata)
    }
    # Sizes first: what the model does not have is not given memory.
    described = {n: torch.empty(e.size, dtype=e.properties.dtype, device="meta") for n, e in entries.items()}
    _model_tensors(described, facts, path)
    _log_alpha(described, facts, path)
    state = {_STATE + name: torch.empty(like.shape, dtype=like.dtype) for name, like in described.items()}
    with reading(path):
        load_shards(state, path, checksum, no_dist=True)
    return {name.removeprefix(_STATE): tensor for name, tensor in state.items()}


def _check_there(path: Path) -> None:
    """Refuse a checkpoint that is not there, or was not written to its end."""
    if not path.exists():
        raise CheckpointError(
            f"{str(path)!r} does not exist: a file step=NNNNNN.ckpt or a directory step=NNNNNN is expected. "
            f"Look in the run's folder checkpoints/.",
            key="checkpoint",
        )
    if path.is_dir() and not (path / META).is_file():
        raise CheckpointError(
            f"{str(path)!r} has no {META}, which is written last: the directory is half-written, or no "
            f"checkpoint. Use an earlier checkpoint of the run.",
            key="checkpoint",
        )
    if not path.is_dir() and not path.is_file():
        raise CheckpointError(
            f"{str(path)!r} is a pipe or a device, not a file. Name a checkpoint of a `fit` run.",
            key="checkpoint",
        )


def _model_tensors(state: Mapping[str, Tensor], facts: CheckpointFacts, path: Path) -> dict[str, Tensor]:
    tensors = {name.removeprefix(_MODEL): tensor for name, tensor in state.items() if name.startswith(_MODEL)}
    config = config_of(facts.config)
    if facts.lora is not None:
        try:
            tensors = merged(tensors, Lora(**facts.lora))
        except ValueError as error:
            raise damaged(path, str(error)) from error
    if config.tie_word_embeddings:
        # A copy of the head that has drifted from the embedding is a model that no stock config describes.
        head = tensors.pop(_HEAD, None)
        if head is not None and _EMBEDDING in tensors and not _same_values(head, tensors[_EMBEDDING]):
            raise damaged(path, "the head is tied to the embedding, but their stored values differ")
    try:
        check_sizes(tensors, tensor_sizes(config))
    except ValueError as error:
        raise damaged(path, str(error)) from error
    return tensors


def _same_values(first: Tensor, second: Tensor) -> bool:
    """Whether they are equal; of two views of one memory nothing is read."""
    if first.is_meta:  # of tensors that are described only, nothing is known
        return True
    same_memory = first.data_ptr() == second.data_ptr() and first.shape == second.shape
    return same_memory or torch.equal(first, second)


def _log_alpha(state: Mapping[str, Tensor], facts: CheckpointFacts, path: Path) -> dict[Axis, Tensor]:
    stored = {name.removeprefix(_GATES): tensor for name, tensor in state.items() if name.startswith(_GATES)}
    shape = family_of(config_of(facts.config)).shape
    try:
        check_sizes(stored, {axis.value: shape.gate_shape(axis) for axis in facts.axes})
    except ValueError as error:
        raise damaged(path, f"gates: {error}") from error
    return {axis: stored[axis.value] for axis in facts.axes}
