"""How a run is spread over devices: FSDP2 is the sharded strategy, under the name ``fsdp2``."""

import shutil
from collections.abc import Callable, Sequence
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch
from lightning.fabric.utilities.types import _PATH
from lightning.pytorch.plugins import Precision, TorchCheckpointIO
from lightning.pytorch.strategies import ModelParallelStrategy, StrategyRegistry
from torch import nn
from torch.distributed.checkpoint.state_dict import (
    StateDictOptions,
    get_model_state_dict,
    get_optimizer_state_dict,
    set_optimizer_state_dict,
)
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.fsdp import MixedPrecisionPolicy, fully_shard

from shear_lit.disk.writing import whole_file
from shear_lit.mistakes import Mistake
from shear_lit.training.errors import reading
from shear_lit.training.records import check_file
from shear_lit.training.shards import checksum_in, load_meta, load_shards, save_shards

REFUSED_STRATEGIES = ("fsdp", "fsdp_cpu_offload")
"""Strategies of Lightning under which gates cannot be trained."""


class StrategyError(Mistake):
    """A strategy that cannot run the min-max game."""


class FSDP2Strategy(ModelParallelStrategy):
    """``fully_shard`` over all processes; checkpoints appear whole or not at all."""

    def __init__(
        self,
        *,
        save_distributed_checkpoint: bool = True,
        process_group_backend: str | None = None,
        timeout: timedelta = timedelta(minutes=30),
    ) -> None:
        super().__init__(
            tensor_parallel_size=1,
            save_distributed_checkpoint=save_distributed_checkpoint,
            process_group_backend=process_group_backend,
            timeout=timeout,
        )

    @property
    def saves_shards(self) -> bool:
        """Whether a checkpoint is a directory with a file per process."""
        return self._save_distributed_checkpoint

    def setup_environment(self) -> None:
        """Give the whole world to data parallelism (Lightning's "auto" would give nodes only)."""
        assert self.cluster_environment is not None
        self._data_parallel_size = self.num_nodes * self.num_processes
        super().setup_environment()

    def save_checkpoint(
        self, checkpoint: dict[str, Any], filepath: _PATH, storage_options: Any | None = None
    ) -> None:
        """Save under a temporary name, and rename when every process has written its part."""
        if not self.saves_shards:
            super().save_checkpoint(checkpoint, filepath, storage_options)
            return
        if storage_options is not None:
            raise TypeError("storage_options have no effect on shards")
        final = Path(self.broadcast(filepath))
        partial = final.with_name(f"{final.name}.partial")
        if self.is_global_zero and partial.exists():
            shutil.rmtree(partial)
        self.barrier()
        beside = dict(checkpoint)
        state = {"state_dict": beside.pop("state_dict"), **_by_optimizer(beside.pop("optimizer_states", []))}
        save_shards(state, partial, beside, writes_meta=self.is_global_zero)
        self.barrier()
        if self.is_global_zero:
            partial.rename(final)
        self.barrier()

    def load_checkpoint(
        self,
        checkpoint_path: _PATH,
        weights_only: bool | None = None,  # noqa: FBT001  (Lightning's)
    ) -> dict[str, Any]:
        """Fill the model and the optimizers, and give the rest; whatever is asked for, no code is run.

        Raises:
            CheckpointError: a part that this process or another reads was changed, or holds what is not read.
        """
        path = Path(self.broadcast(checkpoint_path))
        if not path.is_dir():
            with reading(path):
                check_file(path)
            return super().load_checkpoint(path, weights_only=True)
        assert self.model is not None
        with reading(path):
            meta = load_meta(path)
            checksum = checksum_in(meta, path)
            state = {"state_dict": get_model_state_dict(self.model)}
            load_shards(state, path, checksum)
        self.model.load_state_dict(state["state_dict"], strict=True)
        for index, optimizer in enumerate(self.optimizers):
            moments = _by_optimizer([get_optimizer_state_dict(self.model, optimizer)], first=index)
            with reading(path):
                load_shards(moments, path, checksum)
            (loaded,) = moments.values()
            options = StateDictOptions(cpu_offload=True)
            set_optimizer_state_dict(self.model, optimizer, optim_state_dict=loaded, options=options)
        return meta


def _by_optimizer(states: Sequence[Any], *, first: int = 0) -> dict[str, Any]:
    """The states of optimizers by the names that they have in a checkpoint."""
    return {f"optimizer_{first + index}": state for index, state in enumerate(states)}


class ShardedMixedPrecision(Precision):
    """``bf16-mixed`` under FSDP2: weights are gathered in bfloat16 (see ``shard``), and there is no autocast."""

    precision = "bf16-mixed"


class WholeFileIO(TorchCheckpointIO):
    """Reads a checkpoint that is as it was written, and runs nothing in it; writes one beside its name and renames it.

    It is complete or absent, wherever the system keeps its temporary files (Lightning's own goes through these, and
    copies where they are on another disk).
    """

    def save_checkpoint(
        self, checkpoint: dict[str, Any], path: _PATH, storage_options: Any | None = None
    ) -> None:
        """Write ``checkpoint`` to ``path``."""
        with whole_file(Path(path)) as partial:
            torch.save(checkpoint, partial)

    def load_checkpoint(
        self,
        path: _PATH,
        map_location: Callable[..., Any] | None = lambda storage, location: storage,
        weights_only: bool | None = None,  # noqa: FBT001  (Lightning's)
    ) -> dict[str, Any]:
        """Compare the file with its checksums, and read it; whatever is asked for, no code is run.

        Raises:
            CheckpointError: it was changed, or holds what is not read.
        """
        with reading(Path(path)):
            check_file(Path(path))
            return super().load_checkpoint(path, map_location, weights_only=True)


def shard(
    blocks: nn.ModuleList,
    model: nn.Module,
    small: Sequence[nn.Module],
    mesh: DeviceMesh,
    *,
    compute_dtype: torch.dtype | None = None,
) -> None:
    """Shard the language model block by block, and each of the ``small`` modules as a group of its own.

    The language model computes in ``compute_dtype`` (gradients are reduced in float32). Gates and multipliers stay
    float32 and are gathered for their own forward only; their gradients are averaged like all others.
    """
    policy = MixedPrecisionPolicy(param_dtype=compute_dtype, reduce_dtype=torch.float32)
    for block in blocks:
        fully_shard(block, mesh=mesh, mp_policy=policy)
    fully_shard(model, mesh=mesh, mp_policy=policy)
    for module in small:
        fully_shard(module, mesh=mesh)


if "fsdp2" not in StrategyRegistry:
    StrategyRegistry.register("fsdp2", FSDP2Strategy, description="FSDP2 (fully_shard) over all processes")
