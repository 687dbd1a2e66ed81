"""The LightningModule of both stages: with ``pruning`` it plays the min-max game, without it plainly pre-trains."""

import logging
from collections.abc import Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any, NotRequired, TypedDict, cast

import lightning as L
import torch
from lightning.pytorch.strategies import ModelParallelStrategy
from torch import Tensor, nn
from torch.distributed.tensor import DTensor
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR

from shear_lit.data.serving.batch import DomainBatch, model_inputs
from shear_lit.data.serving.datamodule import DomainData
from shear_lit.data.serving.sampled import ValidationLoader
from shear_lit.data.tokens.token_bytes import token_bytes
from shear_lit.data.tokens.tokenizer import tokenizer_of
from shear_lit.disk.names import split_revision
from shear_lit.evaluation.document_loss import DocumentLosses
from shear_lit.evaluation.domain_loss import DomainLoss, reported
from shear_lit.models.adapters import Lora, attach_adapters, drawn_by
from shear_lit.models.choices import Attention
from shear_lit.models.companions import has_tokenizer
from shear_lit.models.family import Family
from shear_lit.models.head import next_token_losses
from shear_lit.models.huggingface import (
    read_config,
    read_model,
    run_blocks_again,
    source_fingerprint,
    stored_dtype,
)
from shear_lit.models.registry import family_of, written_config
from shear_lit.models.source_files import REVISION, pinned
from shear_lit.pruning.attach import AttachedGates, attach
from shear_lit.pruning.constraints import LAGRANGIAN, GateValues, SizeConstraint
from shear_lit.pruning.game import Game, Schedule
from shear_lit.pruning.gates import Gates, Multipliers
from shear_lit.pruning.settings import Pruning
from shear_lit.pruning.stages import stage_shapes
from shear_lit.ranges import CountFrom0, as_plain_numbers
from shear_lit.ranking.criteria import criteria_by_axis, named
from shear_lit.ranking.scores import read_scores
from shear_lit.theory.losses import Weights, next_tokens
from shear_lit.theory.shape import Axis, ModelShape
from shear_lit.training.checkpoints import ENTRY, CheckpointFacts
from shear_lit.training.distillation import Distillation, of_gates, sums_of_each
from shear_lit.training.errors import RunError
from shear_lit.training.learning import Learning
from shear_lit.training.optimizer import (
    PAPER_PRUNING,
    OptimizerSettings,
    apply_settings,
    build_optimizer,
    build_schedule,
)
from shear_lit.training.strategies import shard
from shear_lit.training.training_losses import TRAINING_LOSSES, TrainingLosses

_log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class TrainingSettings:
    """What a run does about a step that went wrong."""

    skip_nonfinite: CountFrom0 = 0
    """Optimizer steps of the run that may pass without an update, because their gradient is not finite; 0: none."""

    def __post_init__(self) -> None:
        as_plain_numbers(self)


class StepOutput(TypedDict):
    """What one training step hands to the callbacks, besides the loss it minimises."""

    loss: Tensor
    language_loss: Tensor
    """Cross-entropy in nats per predicted token: over micro-batches and processes, its mean is the global batch's."""
    divergence: NotRequired[Tensor]
    """From the teacher, likewise: times the square of the temperature, and without its weight."""
    gates_objective: NotRequired[Tensor]
    """What gates learn from, where that is another objective than the weights'."""
    layers_distance: NotRequired[Tensor]
    """Of the streams behind blocks from the teacher's, likewise: a mean over blocks, without its weight."""
    size_penalty: NotRequired[Tensor]
    expected_sizes: NotRequired[Tensor]
    """Expected units per row by gated axis, averaged over rows."""
    multipliers: NotRequired[Tensor]
    """First and second multipliers by gated axis, [2, axes]."""


class ShearingModule(L.LightningModule):
    """A stock Hugging Face model and, in stage 1, its gates and their multipliers.

    Weights are read in ``configure_model``, once the strategy is up; construction reads the config alone.
    """

    def __init__(
        self,
        source: str,
        revision: str | None = None,
        pruning: Pruning | None = None,
        optimizer: OptimizerSettings = PAPER_PRUNING,
        distillation: Distillation | None = None,
        lora: Lora | None = None,
        gradient_checkpointing: bool = False,  # noqa: FBT001, FBT002  (a key of the command line)
        attention: Attention = "sdpa",
        seed: int = 17,
    ) -> None:
        """Describe the run.

        Args:
            source: Hugging Face directory or hub name of the model to start from.
            revision: Branch, tag or commit of a hub name; null for the newest. The commit that it is when a run
                begins is recorded, and read again by every process and after a resume.
            pruning: Target shape and the way there; null continues pre-training without gates.
            optimizer: Learning rates and their schedule.
            distillation: Learn from a frozen model; null learns from the text alone.
            lora: Train low-rank adapters beside weights that stay as they are; null trains the weights. Not with
                pruning.
            gradient_checkpointing: Run each block's forward again during backward, to save memory.
            attention: Attention implementation of transformers (sdpa, eager, flash_attention_2, ...).
            seed: Seed of the gates' noise.
        """
        super().__init__()
        self._asked_revision = revision or split_revision(source)[1]
        self.optimizer_settings = optimizer
        self.distillation = distillation
        self.lora = lora
        self.gradient_checkpointing = gradient_checkpointing
        self.attention = attention
        self.seed = seed
        self._asked_pruning = pruning
        self._read_source(pinned(source, revision))
        self.source_fingerprint = ""
        self.model: nn.Module | None = None
        self.gates: Gates | None = None
        self.multipliers: Multipliers | None = None
        self.attached: AttachedGates | None = None
        self.game: Game | None = None
        self.learning: Learning | None = None
        self.domain_loss: DomainLoss | None = None
        self.training_losses: TrainingLosses | None = None
        """Since the last move of a mixture that follows them."""
        self.domain_losses: Tensor | None = None
        """Losses of the last validation by domain, in nats per token."""
        self.document_losses: DocumentLosses | None = None
        self._domain_errors: torch.Tensor | None = None
        """What a validation counts by document, where it is all that is done; this process's part."""
        self.gradient_norm: Tensor | None = None
        """Of the last optimizer step, before it was clipped; on the device."""
        self.skip_nonfinite = 0
        """Optimizer steps whose gradient may be not finite: they pass without an update (`TrainingSettings`)."""
        self.skipped_steps: list[int] = []
        """Those that did."""
        self._restored_step = 0
        self._predicted: tuple[int, Tensor] | None = None
        self._ordered_by: str | None = None
        self.repaired: dict[str, Any] | None = None
        """What was done to repair the cut that the gates started from, or that of the last stage (`RepairFacts`)."""
        self._taught: dict[str, Any] | None = None

    def _read_source(self, source: str) -> None:
        """Read the config of the model to start from, and what follows from it."""
        self.source = source
        # The class of the weights that are read is the source's: the other type computes the same from them.
        asked = self._asked_pruning
        self.source_config = written_config(
            read_config(source), "source" if asked is None else asked.write_as
        )
        self.family: Family = family_of(self.source_config)
        self.pruning = None if asked is None else asked.resolved(self.source_config)
        self.axes: tuple[Axis, ...] = () if self.pruning is None else self.pruning.gated_axes(self.family)
        self.stages: tuple[ModelShape, ...] = (
            () if self.pruning is None else stage_shapes(self.pruning, self.family, self.axes)
        )
        """The shapes at which sizes rest on their way to the target."""

    def go_on_from(self, source: str) -> None:
        """Read the commit that a run has begun with, whatever the hub has now; ``source`` is its name for it.

        A run that names another model, or the same one as a directory, reads what it names.

        Raises:
            RunError: another revision is asked for.
        """
        (name, commit), (own_name, own_commit) = split_revision(source), split_revision(self.source)
        if name != own_name or commit is None or commit == own_commit:
            return
        if self._asked_revision is not None:
            raise RunError(
                f"{self._asked_revision!r} is the commit {own_commit} of {name}, and the run that is resumed has "
                f"begun with {commit}. Remove it, or say {commit}.",
                key=REVISION,
            )
        self._read_source(source)

    def setup(self, stage: str) -> None:
        """Let all processes read the same commit, and make room for the losses of the data's domains."""
        first = self.trainer.strategy.broadcast(self.source)
        if first != self.source:
            self._read_source(first)
        if self.domain_loss is None:
            self.domain_loss = DomainLoss(len(self.data.domains))
        if self.training_losses is None and self.data.mixture.follows == "training":
            self.training_losses = TrainingLosses(len(self.data.domains))

    def configure_model(self) -> None:
        """Read the weights, attach gates, and shard where the strategy asks for it (called before every run)."""
        if self.model is not None:
            return
        # Once: the source may move, or its hub go away, while the run goes on.
        self.source_fingerprint = source_fingerprint(self.source)
        if self.source_config.dtype is None:
            # For exports, which may not find the source.
            self.source_config.dtype = getattr(torch, stored_dtype(self.source))
        if self.pruning is not None and self.pruning.ranked:
            scores = self.pruning.initial_scores
            self._ordered_by = (
                named(self.criteria(self.pruning), self.pruning.ranking)
                if scores is None
                else read_scores(scores).origin.criterion
            )
        model = read_model(self.source, dtype=torch.float32, attention=self.attention)
        # Lightning keeps the mode a model comes in, and transformers reads models for evaluation.
        model.train()
        if self.gradient_checkpointing:
            run_blocks_again(model)
        self.model = model
        if self.lora is not None:
            attach_adapters(model, self.lora, seed=self.seed)
        if self.pruning is not None:
            self.gates = Gates(self.family.shape, self.axes, initial_log_alpha=self.pruning.initial_log_alpha)
            if self.pruning.constraint == "lagrangian":
                self.multipliers = Multipliers(self.axes, second_start=self.pruning.second_multiplier_start)
            self.attached = attach(model, self.family)
            self.game = Game(self.gates, self.multipliers, self.attached, self.seed)
        if self.distillation is not None and self.trainer.training:
            self.learning = Learning(
                self.distillation,
                self.data,
                source=self.source,
                pruning=self.pruning is not None,
                precision=self.trainer.precision,
                attention=self.attention,
            )
            self._taught = self.learning.facts
            if self.distillation.layers_weight:
                self.learning.match_streams(model, self.family, self.source, self.source_fingerprint)
            if self.pruning is not None and self.pruning.objective != "same":
                words = {"language": "cross-entropy", "distillation": "the teacher"}[self.pruning.objective]
                _log.info("gates learn from %s alone: a second backward pass in every step", words)
        if isinstance(self.trainer.strategy, ModelParallelStrategy):
            assert self.device_mesh is not None
            small = [module for module in (self.gates, self.multipliers) if module is not None]
            blocks = cast(nn.ModuleList, model.get_submodule(self.family.blocks))
            compute = torch.bfloat16 if self.trainer.precision == "bf16-mixed" else None
            shard(blocks, model, small, self.device_mesh["data_parallel"], compute_dtype=compute)
            if self.learning is not None:
                self.learning.shard(self.device_mesh["data_parallel"])

    def on_train_start(self) -> None:
        """Let what the user says of the optimizer win over a checkpoint."""
        if self.learning is not None:
            self.learning.to(self.device)
        schedule = cast(LambdaLR, self.lr_schedulers())
        apply_settings(self.optimizer_settings, self.trainer.optimizers[0], schedule)

    def training_sample(self, **sizes: int) -> ValidationLoader:
        """This process's part of a sample of each domain's training text."""
        ranks = {"rank": self.trainer.global_rank, "world_size": self.trainer.world_size}
        return self.data.training_sample(**ranks, **sizes)

    def criteria(self, pruning: Pruning) -> dict[Axis, str]:
        """What orders the units of each gated axis."""
        criteria = criteria_by_axis(pruning.ranking, key="model.pruning.ranking")
        return {axis: criteria[axis] for axis in self.axes}

    def sum_over_ranks(self, total: Tensor) -> Tensor:
        """A sum over all processes of what this one has."""
        if self.trainer.world_size == 1:
            return total
        return cast(Tensor, self.trainer.strategy.reduce(total.to(self.device), reduce_op="sum")).to(
            total.device
        )

    def training_step(self, batch: DomainBatch, batch_index: int) -> StepOutput:
        """The objective under sampled gates, plus the penalty of their expected sizes."""
        if self.game is None:
            with self._adapters_drop(batch):
                return self._objective(batch, {})
        apart = self.schedule.pruning.objective != "same"
        state = self.game.draw(self.schedule, self.trainer.global_step, batch["micro_batch"], apart=apart)
        output = self._objective(batch, state.values)
        output["expected_sizes"] = self.game.expected_sizes(state)
        penalty = self.game.penalty(state, self.scheduled_sparsity())
        if penalty is not None:
            output["loss"] = output["loss"] + penalty.total
            output["size_penalty"] = penalty.total.detach()
            output["multipliers"] = penalty.multipliers.detach()
        return output

    def _adapters_drop(self, batch: DomainBatch) -> AbstractContextManager[None]:
        """Drop the same inputs of adapters wherever a micro-batch is computed, and after any resume."""
        if self.lora is None or not self.lora.dropout:
            return nullcontext()
        return drawn_by((self.seed, self.trainer.global_step, batch["micro_batch"]), self.device)

    def _objective(self, batch: DomainBatch, gates: GateValues) -> StepOutput:
        """This micro-batch's part of the one objective that the global batch has, times the number of all parts.

        Where gates have another one, its gradient in them is in the loss, and its value beside it.
        """
        assert self.model is not None
        learned = Weights() if self.distillation is None else self.distillation.weights
        objectives = [learned]
        if self.pruning is not None and self.pruning.objective != "same":
            objectives.append(of_gates(self.pruning.objective, learned))
        if self.learning is None:
            sums, *others = sums_of_each(self.model, self._inputs(batch), objectives, None)
        else:
            sums, *others = self.learning.sums(self.model, batch, self._inputs, gates, objectives)
        if self.training_losses is not None:
            targets = next_tokens(self._inputs(batch)["labels"])
            self.training_losses.update(sums.tokens.view_as(targets), targets, batch["domain"])
        predicted = self._predicted_by(batch)
        output: StepOutput = {"loss": sums.total / predicted, "language_loss": sums.language / predicted}
        if self.learning is not None:
            output["divergence"] = sums.divergence / predicted
            output["layers_distance"] = sums.layers / predicted
        for other in others:
            assert self.game is not None
            output["loss"] = output["loss"] + self.game.passed_on(other.total / predicted)
            output["gates_objective"] = other.total.detach() / predicted
        return output

    def _predicted_by(self, batch: DomainBatch) -> Tensor | int:
        """Tokens that a micro-batch of the global batch predicts, on average over it."""
        if "predicted" not in batch:
            return batch["tokens"][:, 1:].numel()
        if self._predicted is None or self._predicted[0] != self.trainer.global_step:
            total = self.sum_over_ranks(torch.tensor(batch["predicted"], device=self.device))
            parts = self.trainer.world_size * self.trainer.accumulate_grad_batches
            self._predicted = self.trainer.global_step, total.clamp(min=1).float() / parts
        return self._predicted[1]

    def on_validation_epoch_start(self) -> None:
        """Put the gates in force as they are now; outside of a run, count by document, too."""
        if self.trainer.state.fn == "validate":
            cast(ValidationLoader, self.trainer.val_dataloaders).documents_numbered = True
            known = has_tokenizer(self.source)
            self.document_losses = DocumentLosses(token_bytes(tokenizer_of(self.source)) if known else None)
        if self.game is not None:
            self.game.stand(self.constraint())

    def validation_step(self, batch: DomainBatch, batch_index: int) -> None:
        """Add the losses of one micro-batch to its domains."""
        assert self.model is not None and self.domain_loss is not None
        found = next_token_losses(self.model, self._inputs(batch))
        losses, targets = (part.view_as(batch["tokens"]) for part in found)
        self.domain_loss.update(losses, targets, batch["domain"])
        if self.document_losses is not None:
            self.document_losses.update(losses, targets, batch)

    def on_validation_epoch_end(self) -> None:
        """Keep the losses per domain, the same on every rank."""
        assert self.domain_loss is not None
        # torchmetrics makes a single number of a tensor that has one.
        self.domain_losses = self.domain_loss.compute().reshape(-1).cpu()
        self._domain_errors = self.domain_loss.errors.cpu()
        self.domain_loss.reset()
        # For callbacks that watch a number (EarlyStopping); RunLog writes them to the loggers.
        self.log_dict(reported(self.data.domains, self.domain_losses.tolist()), logger=False)

    def configure_gradient_clipping(
        self,
        optimizer: Optimizer,
        gradient_clip_val: float | None = None,
        gradient_clip_algorithm: str | None = None,
    ) -> None:
        """Clip the gradients, and keep the norm that they had."""
        parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
        norm = nn.utils.get_total_norm(p.grad for p in parameters if p.grad is not None)
        self.gradient_norm = norm.full_tensor() if isinstance(norm, DTensor) else norm
        # Only who asks for it waits for the device here. The norm is of all ranks, which therefore agree.
        if len(self.skipped_steps) < self.skip_nonfinite and not bool(self.gradient_norm.isfinite()):
            self.skipped_steps.append(self.trainer.global_step)
            optimizer.zero_grad(set_to_none=True)  # AdamW leaves a parameter without a gradient as it is
            return
        if gradient_clip_algorithm == "value":
            self.clip_gradients(optimizer, gradient_clip_val, gradient_clip_algorithm)
        elif gradient_clip_val:
            nn.utils.clip_grads_with_norm_(parameters, gradient_clip_val, norm)

    def optimizer_step(self, *args: Any, **kwargs: Any) -> None:
        """One step of the game, after which the gates return to their limits."""
        super().optimizer_step(*args, **kwargs)
        if self.gates is not None:
            self.gates.project()

    def configure_optimizers(self) -> Any:
        """AdamW for weights, gates and multipliers, and the schedule of all their learning rates."""
        assert self.model is not None
        optimizer = build_optimizer(self.optimizer_settings, self.model, self.gates, self.multipliers)
        schedule = build_schedule(self.optimizer_settings, optimizer, total_steps=self.trainer.max_steps)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Add what ``export`` must know, as plain types."""
        checkpoint[ENTRY] = self.facts().to_entry()
        if self.training_losses is not None:
            rank = self.trainer.global_rank
            checkpoint[TRAINING_LOSSES] = self.training_losses.gathered(self.sum_over_ranks, rank=rank)

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Know the last validation's losses again, which the next checkpoint repeats."""
        facts = CheckpointFacts.from_entry(checkpoint[ENTRY], "the one that is resumed")
        self._restored_step, losses = facts.step, facts.losses
        if self.training_losses is not None and (saved := checkpoint.get(TRAINING_LOSSES)):
            self.training_losses.go_on(saved, rank=self.trainer.global_rank)
        self.repaired = facts.repair
        names = self.data.domains
        if losses.keys() == set(names):
            self.domain_losses = torch.tensor([losses[name] for name in names], dtype=torch.float64)

    def facts(self) -> CheckpointFacts:
        """Where the run came from and what it is after."""
        data = self.data
        return CheckpointFacts(
            source=self.source,
            source_fingerprint=self.source_fingerprint,
            config=self.source_config.to_dict(),
            target=None if self.pruning is None else self.pruning.shape,
            axes=self.axes,
            constraint=self.constraint(),
            keep_layer_period=self.pruning is not None and self.pruning.keep_layer_period,
            ordered_by=self._ordered_by,
            repair=self.repaired,
            teacher=self._taught,
            lora=None if self.lora is None else self.lora.to_entry(),
            chat_template=None if data.manifest.chat is None else data.manifest.chat.template.source,
            step=self.trainer.global_step,
            tokens=sum(data.tokens_seen.values()),
            domains={name: {"tokens": tokens} for name, tokens in data.tokens_seen.items()},
            losses=self.named_losses,
        )

    @property
    def data(self) -> DomainData:
        """The data of the run."""
        data = self.trainer.datamodule  # type: ignore[attr-defined]
        if not isinstance(data, DomainData):
            raise TypeError(f"a ShearingModule trains on DomainData, not on {type(data).__name__}")
        return data

    @property
    def named_losses(self) -> dict[str, float]:
        """Losses of the last validation by domain, in nats per token; empty before the first one."""
        if self.domain_losses is None:
            return {}
        return dict(zip(self.data.domains, self.domain_losses.tolist(), strict=True))

    @property
    def named_errors(self) -> dict[str, float]:
        """Their standard errors, over sequences; empty before the first validation of this process."""
        if self._domain_errors is None:
            return {}
        return dict(zip(self.data.domains, self._domain_errors.tolist(), strict=True))

    @property
    def step(self) -> int:
        """Optimizer steps that the gates have behind them, also while a checkpoint is only validated."""
        return cast(int, self.trainer.global_step) or self._restored_step

    @property
    def schedule(self) -> Schedule:
        """What is asked of the sizes at each step of stage 1."""
        assert self.pruning is not None
        return Schedule(self.pruning, self.family.shape, self.axes, self.trainer.max_steps, self.stages)

    def scheduled_sparsity(self) -> dict[Axis, float]:
        """The sparsity that is asked of every gated axis at the current optimizer step."""
        return self.schedule.sparsity(self.step)

    def constraint(self) -> SizeConstraint:
        """How sizes are held at the current optimizer step."""
        return LAGRANGIAN if self.pruning is None else self.schedule.constraint(self.step)

    def _inputs(self, batch: Mapping[str, Any]) -> dict[str, Tensor]:
        return model_inputs(batch, in_one_row=self.attention == "flash_attention_2")
