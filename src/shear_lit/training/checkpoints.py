"""Reading a checkpoint of a run for export: one process, no process group, no optimizer state.

A checkpoint is a file (``step=NNNNNN.ckpt``) or a directory of shards (``step=NNNNNN/``), whole if it has ``meta.pt``.
"""

import warnings
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
import torch.distributed.checkpoint as sharded
from torch import Tensor
from torch.distributed.checkpoint.api import CheckpointException
from torch.distributed.checkpoint.metadata import TensorStorageMetadata

from shear_lit.mistakes import Mistake
from shear_lit.models.huggingface import check_sizes, config_of
from shear_lit.models.registry import family_of, tensor_sizes
from shear_lit.pruning.gates import ExactSize
from shear_lit.theory.shape import Axis, ModelShape
from shear_lit.training.shard_index import check_index

ENTRY = "shear_lit"
"""The key under which a checkpoint keeps its facts."""
FORMAT = 1
"""The version of the facts that this package writes."""

_MODEL, _GATES, _META = "model.", "gates.", "meta.pt"
_HEAD, _EMBEDDING = "lm_head.weight", "model.embed_tokens.weight"


class CheckpointError(Mistake):
    """A checkpoint that cannot be read as one of this package's."""


@dataclass(frozen=True, kw_only=True)
class CheckpointFacts:
    """What a checkpoint says of itself, in plain types, so that it can be read without running anything."""

    source: str
    """Name or directory of the model that the run started from."""
    source_fingerprint: str
    """``source_fingerprint`` of it."""
    config: dict[str, Any]
    """The Hugging Face config of the model in the checkpoint (the source's: gates do not shrink it)."""
    target: ModelShape | None
    """The shape to cut to, if the run prunes."""
    axes: tuple[Axis, ...] = ()
    """The axes that have gates."""
    exact: ExactSize | None = None
    """What the gates are held to, where their size is exact."""
    keep_layer_period: bool = False
    """Whether the blocks that are kept alternate as the family's do."""
    ordered_by: str | None = None
    """The criterion in whose order the gates started, if they started in an order."""
    step: int
    """Optimizer steps taken."""
    tokens: int
    """Tokens trained on."""
    domains: dict[str, Any] = field(default_factory=dict)
    """What the run knows of its domains, by name."""
    losses: dict[str, float] = field(default_factory=dict)
    """The last validation losses by domain, in nats per token."""

    def to_entry(self) -> dict[str, Any]:
        """The value of ``checkpoint["shear_lit"]``."""
        entry = {
            name: value
            for name, value in asdict(self).items()
            if name not in ("target", "axes", "exact", "keep_layer_period", "ordered_by", "domains")
        }
        pruning: dict[str, Any] | None = None
        if self.target is not None:
            pruning = {"target": self.target.to_dict(), "axes": [axis.value for axis in self.axes]}
        if pruning is not None and self.exact is not None:
            pruning["exact"] = self.exact.to_entry()
        if pruning is not None and self.keep_layer_period:
            pruning["keep_layer_period"] = True
        if pruning is not None and self.ordered_by is not None:
            pruning["ordered_by"] = self.ordered_by
        return {"format": FORMAT, **entry, "pruning": pruning, "data": {"domains": self.domains}}

    @classmethod
    def from_entry(cls, entry: Mapping[str, Any], where: str | Path) -> "CheckpointFacts":
        """The facts that ``to_entry`` wrote into the checkpoint at ``where``.

        Raises:
            CheckpointError: they are of another format, or incomplete.
        """
        if entry.get("format") != FORMAT:
            raise CheckpointError(
                f"checkpoint={str(where)!r} is of format {entry.get('format')!r}, and this version reads {FORMAT}. "
                f"Export it with the version of shear_lit that wrote it."
            )
        try:
            pruning = entry["pruning"]
            return cls(
                **{
                    name: entry[name] for name in ("source", "source_fingerprint", "config", "step", "tokens")
                },
                target=None if pruning is None else ModelShape(**pruning["target"]),
                axes=() if pruning is None else tuple(Axis(axis) for axis in pruning["axes"]),
                exact=ExactSize.from_entry(pruning["exact"]) if pruning and "exact" in pruning else None,
                keep_layer_period=bool(pruning and pruning.get("keep_layer_period", False)),
                ordered_by=pruning.get("ordered_by") if pruning else None,
                domains=dict(entry["data"].get("domains", {})),
                losses=dict(entry["losses"]),
            )
        except (KeyError, TypeError, ValueError) as error:
            raise CheckpointError(
                f"checkpoint={str(where)!r}: what it says of itself is incomplete or damaged ({error!r}). "
                f"Use another checkpoint of the run."
            ) from error


@dataclass(frozen=True, kw_only=True)
class ModelCheckpointContents:
    """What a checkpoint holds that a model can be made of."""

    tensors: dict[str, Tensor]
    """Every parameter of the model once, by its Hugging Face name; of a file, mapped from it and not copied."""
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

        Of a file nothing is copied; of a directory of shards the model is, once. Neither runs code: tensors are read
        as such, and the index of shards, which torch unpickles, may name only torch's records.

        Raises:
            CheckpointError: it is damaged, or does not hold the model that it names.
        """
        state = _sharded_state(self.path) if self.path.is_dir() else _state(self.content, self.path)
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
    content = _load(path / _META if path.is_dir() else path, path)
    if path.is_dir():
        _guarded(lambda: check_index(path), path)
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
            f"checkpoint={str(path)!r} has no entry {ENTRY!r}: it was not written by this package. "
            f"Name a checkpoint of a `fit` run."
        )
    return CheckpointFacts.from_entry(checkpoint[ENTRY], path)


def _state(content: Mapping[str, Any], path: Path) -> dict[str, Tensor]:
    if not isinstance(content.get("state_dict"), Mapping):
        raise _damaged(path, "it has no state_dict")
    return dict(content["state_dict"])


def _sharded_state(path: Path) -> dict[str, Tensor]:
    prefix = "state_dict."
    wanted = (prefix + _MODEL, prefix + _GATES)

    def read_shards() -> dict[str, Tensor]:
        check_index(path)
        reader = sharded.FileSystemReader(path)
        stored = reader.read_metadata().state_dict_metadata
        shards = {
            name: torch.empty(entry.size, dtype=entry.properties.dtype)
            for name, entry in stored.items()
            if name.startswith(wanted) and isinstance(entry, TensorStorageMetadata)
        }
        with warnings.catch_warnings():  # torch warns of what is asked for here: one process
            warnings.filterwarnings("ignore", message="torch.distributed is disabled", category=UserWarning)
            sharded.load(shards, storage_reader=reader, no_dist=True)
        return shards

    state = _guarded(read_shards, path)
    return {name.removeprefix(prefix): tensor for name, tensor in state.items()}


def _load(file: Path, path: Path) -> dict[str, Any]:
    """What torch saved in ``file``, which is the checkpoint at ``path`` or the last file of its directory."""
    if not path.exists():
        raise CheckpointError(
            f"checkpoint={str(path)!r} does not exist: a file step=NNNNNN.ckpt or a directory step=NNNNNN is expected. "
            f"Look in the run's folder checkpoints/."
        )
    if not file.is_file():
        raise CheckpointError(
            f"checkpoint={str(path)!r} has no {_META}, which is written last: the directory is half-written, or no "
            f"checkpoint. Use an earlier checkpoint of the run."
        )
    content = _guarded(lambda: torch.load(file, map_location="cpu", weights_only=True, mmap=True), path)
    if not isinstance(content, dict):
        raise _damaged(path, f"{file.name} holds a {type(content).__name__}")
    return content


def _guarded(read: Callable[[], Any], path: Path) -> Any:
    """The result of ``read``; whatever torch raises at a file that it cannot read has one meaning for the user."""
    try:
        return read()
    except CheckpointException as error:  # no Exception: it collects those of all ranks, here of one
        causes = [cause for cause, _ in error.failures.values()]
        raise _damaged(path, f"{type(causes[0]).__name__}: {causes[0]}") from error
    except Exception as error:  # torch raises RuntimeError, OSError, EOFError, UnpicklingError, KeyError, ...
        raise _damaged(path, f"{type(error).__name__}: {error}") from error


def _model_tensors(state: Mapping[str, Tensor], facts: CheckpointFacts, path: Path) -> dict[str, Tensor]:
    tensors = {name.removeprefix(_MODEL): tensor for name, tensor in state.items() if name.startswith(_MODEL)}
    config = config_of(facts.config)
    if config.tie_word_embeddings:
        # A copy of the head that has drifted from the embedding is a model that no stock config describes.
        head = tensors.pop(_HEAD, None)
        if head is not None and _EMBEDDING in tensors and not _same_values(head, tensors[_EMBEDDING]):
            raise _damaged(path, "the head is tied to the embedding, but their stored values differ")
    try:
        check_sizes(tensors, tensor_sizes(config))
    except ValueError as error:
        raise _damaged(path, str(error)) from error
    return tensors


def _same_values(first: Tensor, second: Tensor) -> bool:
    """Whether they are equal; of two views of one memory nothing is read."""
    same_memory = first.data_ptr() == second.data_ptr() and first.shape == second.shape
    return same_memory or torch.equal(first, second)


def _log_alpha(state: Mapping[str, Tensor], facts: CheckpointFacts, path: Path) -> dict[Axis, Tensor]:
    stored = {name.removeprefix(_GATES): tensor for name, tensor in state.items() if name.startswith(_GATES)}
    shape = family_of(config_of(facts.config)).shape
    try:
        check_sizes(stored, {axis.value: shape.gate_shape(axis) for axis in facts.axes})
    except ValueError as error:
        raise _damaged(path, f"gates: {error}") from error
    return {axis: stored[axis.value] for axis in facts.axes}


def _damaged(path: Path, what: str) -> CheckpointError:
    return CheckpointError(
        f"checkpoint={str(path)!r} cannot be used: {what}. It is damaged, half-copied, or not of this package. "
        f"Copy it again, or use another checkpoint of the run."
    )
