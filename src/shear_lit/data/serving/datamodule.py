"""The LightningDataModule: a prepared directory, and a mixture that follows the losses."""

from collections.abc import Mapping
from functools import cached_property
from typing import Any, Literal

import torch
from lightning import LightningDataModule
from torch import Tensor

from shear_lit.data.errors import DataError
from shear_lit.data.order.mixture import MixtureSettings
from shear_lit.data.order.moving import Agreed, MovingMixture, own
from shear_lit.data.order.schedule import MixtureSchedule
from shear_lit.data.prepared.manifest import Manifest, check_same_domains
from shear_lit.data.serving.directories import read_data
from shear_lit.data.serving.loader import MixtureLoader, accumulation_of
from shear_lit.data.serving.remote import REMOTE, RemoteSettings
from shear_lit.data.serving.sampled import ValidationLoader
from shear_lit.data.serving.store import SequenceStore
from shear_lit.data.tokens.tokenizer import is_same
from shear_lit.ranges import Count, CountFrom0

_NEVER = -1


class DomainData(LightningDataModule):
    """Training batches mixed over domains, and validation batches of each domain."""

    def __init__(
        self,
        directory: list[str] | str,
        mixture: MixtureSettings,
        split: Literal["prune", "pretrain"] = "prune",
        global_batch: Count = 32,
        micro_batch: Count = 4,
        validation_sequences: Count = 128,
        validation_micro_batch: Count = 4,
        workers: CountFrom0 = 0,
        seed: int = 17,
        cross_document_attention: bool = True,  # noqa: FBT001, FBT002  (a key of the command line)
        remote: RemoteSettings = REMOTE,
    ) -> None:
        """Read prepared data.

        Args:
            directory: Directory of `shear-lit prepare`, or its address (s3://, gs://, hf://datasets/); or a list.
            mixture: How much of each domain is drawn, and how that follows the losses.
            split: Documents to train on: `prune` for stage 1, `pretrain` for stage 2.
            global_batch: Sequences of one optimizer step, over all processes and accumulation.
            micro_batch: Sequences of one forward pass of one process.
            validation_sequences: Sequences of each domain to validate on; all of them where a domain has fewer.
            validation_micro_batch: Sequences of one validation forward pass of one process.
            workers: Processes that read ahead for each process; reading mapped files is fastest without.
            seed: What the order of sequences depends on, besides the data and the mixture.
            cross_document_attention: Whether a token may attend to earlier documents of its packed sequence, as in the
                paper; false: positions begin anew with each document, and its first token is no label.
            remote: How data in remote storage is read.
        """
        super().__init__()
        self.directory, self.mixture, self.split = directory, mixture, split
        # Plain numbers, which checkpoints hold: those of the parser are of types of its own.
        self.global_batch, self.micro_batch = int(global_batch), int(micro_batch)
        self.validation_sequences = int(validation_sequences)
        self.validation_micro_batch = int(validation_micro_batch)
        self.workers, self.seed, self.remote = int(workers), int(seed), remote
        self.cross_document_attention = cross_document_attention
        self._apart = not cross_document_attention
        self._loader: MixtureLoader | None = None
        self._restored: Mapping[str, Any] | None = None
        self._updated_at = _NEVER

    # What is there

    @cached_property
    def manifest(self) -> Manifest:
        """The manifest of the prepared directory, held against its files."""
        return read_data(self.directory, self.remote)

    @property
    def domains(self) -> tuple[str, ...]:
        """The domains' names; a batch holds indices into them."""
        return tuple(self.manifest.domains)

    @cached_property
    def proportions(self) -> dict[str, float]:
        """The mixture at the start, by domain."""
        return self.mixture.read_proportions()

    @cached_property
    def references(self) -> Tensor | None:
        """Reference losses in nats per token, in the order of ``domains``; none with a static mixture without them."""
        references = self.mixture.read_references()
        if references is None:
            return None
        references.check_tokenizer(self.manifest.tokenizer, is_same)
        references.check_attention(cross_document=self.cross_document_attention)
        losses = references.for_domains(self.domains, f"the data in {self.manifest.place}")
        return torch.tensor(losses, dtype=torch.float64)

    @cached_property
    def schedule(self) -> MixtureSchedule:
        """The order of the sequences of a run on this data."""
        return MixtureSchedule(
            self.manifest.chunk_sizes(self.split),
            global_batch=self.global_batch,
            seed=self.seed,
            max_epochs=self.mixture.max_epochs,
        )

    def check(self, *, world_size: int, max_steps: int) -> None:
        """Refuse what cannot work, before any weight is read.

        Raises:
            DataError: the data is not whole, domains differ between data, proportions and references, or the run's
                length, batch and processes do not divide.
        """
        self.check_data()
        self.schedule.start(self._start_weights())
        accumulation_of(self.global_batch, self.micro_batch, world_size)
        every = self.mixture.update_every_steps
        if max_steps < 1 or max_steps % every:
            better = max(1, round(max_steps / every)) * every
            raise DataError(
                f"{max_steps} is no multiple of data.mixture.update_every_steps={every}: "
                f"the run would end between two updates. Use trainer.max_steps={better}, or another interval.",
                key="trainer.max_steps",
            )

    def check_data(self) -> None:
        """Refuse what cannot be read: data that is not whole, no text to validate on, or domains that differ.

        Raises:
            DataError: one of these, or a number that is out of its range.
        """
        if self.workers < 0:
            raise DataError(f"{self.workers}: use 0 or more processes.", key="data.workers")
        where = f"the data in {self.manifest.place}"
        check_same_domains(self.domains, self.proportions, "data.mixture.proportions", where)
        self.mixture.check_names(self.domains, where)
        store = self._store(self.split)
        store.check_documents() if self._apart else store.check_together()
        self._check_validation()
        _ = self.references
        self.validation_loader()  # which refuses what it cannot work with

    # What Lightning calls

    def setup(self, stage: str) -> None:
        """Open the manifest and check it against the settings."""
        self.check_data()

    def train_dataloader(self) -> MixtureLoader:
        """The micro-batches of this rank, from where a restored run stands."""
        assert self.trainer is not None
        return self.training_loader(
            steps=self.trainer.max_steps, rank=self.trainer.global_rank, world_size=self.trainer.world_size
        )

    def val_dataloader(self) -> ValidationLoader:
        """The validation batches of this rank."""
        assert self.trainer is not None
        return self.validation_loader(rank=self.trainer.global_rank, world_size=self.trainer.world_size)

    def training_loader(self, *, steps: int, rank: int = 0, world_size: int = 1) -> MixtureLoader:
        """The micro-batches of one rank in a run of ``steps`` optimizer steps."""
        self._loader = MixtureLoader(
            self._store(self.split),
            self.schedule,
            self._start_weights(),
            steps=steps,
            update_every_steps=self.mixture.update_every_steps,
            micro_batch=self.micro_batch,
            rank=rank,
            world_size=world_size,
            workers=self.workers,
            documents_apart=self._apart,
        )
        if self._restored is not None:
            self._check_restored(self._restored)
            self._loader.load_state_dict(self._restored["loader"])
            self._moving.load_state_dict(self._restored.get("rule", {}))
            self._updated_at = int(self._restored["updated_at"])
        return self._loader

    def validation_loader(self, *, rank: int = 0, world_size: int = 1) -> ValidationLoader:
        """The validation batches of one rank."""
        sizes = {"sequences": self.validation_sequences, "micro_batch": self.validation_micro_batch}
        return self._sampled("validation", rank=rank, world_size=world_size, **sizes)

    def training_sample(self, *, rank: int = 0, world_size: int = 1, **sizes: int) -> ValidationLoader:
        """A sample of each domain's training sequences, dealt to the ranks, apart from the order of training."""
        return self._sampled(self.split, rank=rank, world_size=world_size, **sizes)

    def _sampled(self, split: str, **sizes: int) -> ValidationLoader:
        return ValidationLoader(self._store(split), documents_apart=self._apart, **sizes)

    def _store(self, split: str) -> SequenceStore:
        return SequenceStore(self.directory, split, self.manifest, self.remote)

    def state_dict(self) -> dict[str, Any]:
        """Where the mixture stands, in plain types; empty before there is a training loader."""
        if self._loader is None:
            return dict(self._restored or {})
        known = {"data": self.manifest.fingerprint, "updated_at": self._updated_at}
        return {**known, "loader": self._loader.state_dict(), "rule": self._moving.state_dict()}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Keep a saved state for the training loader, which checks it: validation needs none of it."""
        self._restored = state_dict or None

    # How the mixture moves

    @property
    def weights(self) -> dict[str, float]:
        """The present mixture, by domain."""
        weights = self._start_weights() if self._loader is None else self._loader.state.weights
        return dict(zip(self.domains, weights, strict=True))

    @property
    def tokens_seen(self) -> dict[str, int]:
        """Tokens of the finished global batches, by domain."""
        length = self.manifest.sequence_length
        return {name: drawn * length for name, drawn in self.sequences_drawn.items()}

    @property
    def sequences_drawn(self) -> dict[str, int]:
        """Sequences of the finished global batches, by domain."""
        drawn = (0,) * len(self.domains) if self._loader is None else self._loader.state.drawn
        return dict(zip(self.domains, drawn, strict=True))

    @property
    def micro_batches_done(self) -> int:
        """Micro-batches that this process has been handed since the start of the run."""
        return 0 if self._loader is None else self._loader.micro_batches_done

    @property
    def epochs(self) -> dict[str, float]:
        """How often each domain has been read; 1.5 is once and a half."""
        sizes = self.manifest.chunk_sizes(self.split)
        return {name: drawn / max(1, sum(sizes[name])) for name, drawn in self.sequences_drawn.items()}

    @property
    def updated_at_step(self) -> int:
        """The optimizer step before which the mixture was last updated; -1 if it never was."""
        return self._updated_at

    @property
    def update_due(self) -> bool:
        """Whether the next step should not begin before a validation has moved the mixture.

        True at the boundaries of ``update_every_steps`` until ``update_mixture`` is called; so it is after a resume
        from a checkpoint that was taken before the validation of its step.
        """
        if self._loader is None or not self._loader.at_boundary:
            return False
        step = self._loader.state.batch
        return self._updated_at != step and (step > 0 or self.mixture.update_at_start)

    def update_mixture(self, losses: Mapping[str, float] | Tensor, agreed: Agreed = own) -> dict[str, float]:
        """Move the mixture by the domains' losses (nats per token), and give the new weights; only at a boundary.

        They are those of a validation, or of the training since the last update (``mixture.follows``).

        Raises:
            DataError: the loss of a domain that is drawn from is not finite, or a loss is of no known domain.
        """
        assert self._loader is not None, "the mixture moves while training"
        state = self._loader.state
        moved = self._moving.moved(state.weights, losses, step=state.batch, drawn=state.drawn, agreed=agreed)
        self._loader.set_weights(moved)
        self._updated_at = state.batch
        return self.weights

    @cached_property
    def _moving(self) -> MovingMixture:
        return MovingMixture(self.mixture, self.domains, self.references, self._start_weights())

    def _start_weights(self) -> list[float]:
        return [self.proportions[name] for name in self.domains]

    def _check_validation(self) -> None:
        for name, chunks in self.manifest.chunk_sizes("validation").items():
            if self.mixture.follows == "validation" and self.proportions[name] > 0 and not sum(chunks):
                raise DataError(
                    f"{self.mixture.rule!r}: domain {name!r} has no validation sequence, so nothing "
                    "tells the loss that its weight follows. Prepare more validation text of it, give it a proportion "
                    "of 0, or use data.mixture.rule=static.",
                    key="data.mixture.rule",
                )

    def _check_restored(self, state: Mapping[str, Any]) -> None:
        if state["data"] != self.manifest.fingerprint:
            raise DataError(
                f"{self.manifest.place!r} (fingerprint {self.manifest.fingerprint[:12]}) is not the data of "
                f"the checkpoint ({state['data'][:12]}): its place in the data would mean other text. "
                "Use the checkpoint's data, or start a new run without --ckpt_path.",
                key="data.directory",
            )
