"""The training text that units are ranked on: a sample of every domain."""

from collections.abc import Iterator

import torch

from shear_lit.data.prepared.manifest import Manifest
from shear_lit.data.serving.batch import IGNORED, PADDING_DOMAIN, model_inputs
from shear_lit.data.serving.remote import RemoteSettings, read_prepared
from shear_lit.data.serving.sampled import ValidationLoader
from shear_lit.data.serving.store import SequenceStore
from shear_lit.data.tokens.tokenizer import check_made_by
from shear_lit.models.huggingface import read_config
from shear_lit.models.text_check import check_text
from shear_lit.ranking.importance import Passage


class CalibrationText:
    """Passages for a device, which can be read again and again."""

    def __init__(self, loader: ValidationLoader, device: torch.device) -> None:
        self._loader, self._device = loader, device
        self.planned = loader.sequences
        """Sequences of the sample, over all processes."""
        self.sequences = 0
        """Those that counted when the text was last read."""
        self.tokens = 0
        """Their tokens that counted."""

    def __iter__(self) -> Iterator[Passage]:
        self.sequences = self.tokens = 0
        for batch in self._loader:
            inputs, real = model_inputs(batch), batch["domain"] != PADDING_DOMAIN
            counted = batch.get("loss_mask")
            if not real.all():
                counted = (torch.ones_like(inputs["labels"]).bool() if counted is None else counted) & real[
                    :, None
                ]
            # Of what only fills up nothing counts; and where nothing is predicted, there is no loss.
            counts = bool(real.any() and (inputs["labels"][:, 1:] != IGNORED).any())
            self.sequences += int(counts and real.sum())
            self.tokens += int(counts and (inputs["labels"].numel() if counted is None else counted.sum()))
            yield Passage(
                inputs={name: part.to(self._device) for name, part in inputs.items()},
                number=batch["micro_batch"] * len(real),
                counted=None if counted is None else counted.to(self._device),
                counts=counts,
            )


def open_calibration_text(
    directory: str,
    model: str,
    *,
    split: str,
    sequences_per_domain: int,
    sample: int,
    device: torch.device,
    cross_document_attention: bool,
    remote: RemoteSettings,
) -> tuple[CalibrationText, Manifest]:
    """A sample of the training text of prepared data for a model, of which only config and tokenizer are read.

    Raises:
        SourceError: the model cannot be used.
        TextError: the sequences are longer than the model allows, or hold tokens that it does not know.
        DataError: the directory is not whole, was made with another tokenizer than the model's, has no text in the
            split, or does not say where the documents begin that attention must not cross.
    """
    manifest = fitting_data(directory, model, remote)
    loader = ValidationLoader(
        SequenceStore(directory, split, manifest, remote),
        sequences=sequences_per_domain,
        micro_batch=1,
        sample_number=sample,
        documents_apart=not cross_document_attention,
    )
    return CalibrationText(loader, device), manifest


def fitting_data(directory: str, model: str, remote: RemoteSettings) -> Manifest:
    """Prepared data that was made for a model, of which only config and tokenizer are read.

    Raises:
        SourceError, TextError, DataError: as ``open_calibration_text``.
    """
    manifest = read_prepared(directory, remote)
    check_text(
        read_config(model),
        model=model,
        text=directory,
        vocabulary=manifest.tokenizer.vocabulary,
        sequence_length=manifest.sequence_length,
    )
    check_made_by(manifest, model)
    return manifest
