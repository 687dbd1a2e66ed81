"""Reference losses by domain, on disk: what the losses of a good model of the target's size would be."""

import math
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path
from typing import Any

import yaml

from shear_lit.data.errors import DataError
from shear_lit.data.prepared.manifest import TokenizerRecord, check_same_domains, is_domain_name
from shear_lit.disk.names import expanded
from shear_lit.disk.reading import read_yaml
from shear_lit.disk.records import record_of, shown
from shear_lit.disk.writing import write_file

FORMAT = 1
"""The version of the file that this package writes."""

_KEY = "data.mixture.references"
_MOST_BYTES = 1 << 20  # some ten thousand domains


@dataclass(frozen=True, kw_only=True)
class References:
    """Reference losses and where they come from."""

    losses: dict[str, float]
    """Nats per token, by domain."""
    source: str = ""
    """The model, or the fit, that they come from."""
    tokenizer: str = ""
    """Fingerprint of the tokenizer of the text they were measured on; empty if it is not known."""
    cross_document_attention: bool | None = None
    """Whether attention crossed documents when they were measured; none if it is not known."""
    errors: dict[str, float] = field(default_factory=dict)
    """Standard errors of the losses, by domain; empty if they are not known."""

    def for_domains(self, domains: tuple[str, ...], where: str) -> list[float]:
        """The losses in the order of ``domains``, those of ``where``.

        Raises:
            DataError: they are for other domains, or one is no finite number.
        """
        check_same_domains(domains, self.losses, _KEY, where)
        for name, loss in self.losses.items():
            if not (math.isfinite(loss) and loss >= 0):
                raise DataError(
                    f"{{{name}: {loss}}}: the loss of {name!r} is {loss}: nats per token are finite and at least "
                    "0. Measure it again with `shear-lit reference measure`, or correct the number.",
                    key=_KEY,
                )
        return [float(self.losses[name]) for name in domains]

    def within_error(self, losses: Mapping[str, float], errors: Mapping[str, float]) -> tuple[str, ...]:
        """The domains whose distance to their reference has a 95 % interval that holds 0.

        ``errors`` are the standard errors of ``losses``. Both count: reference and validation are of other documents.
        One that is not a number is not known, and that of the reference counts alone.
        """
        known = [name for name in losses if name in self.errors]
        squares = {name: 0.0 if math.isnan(error) else error**2 for name, error in errors.items()}
        return tuple(
            name
            for name in known
            if abs(losses[name] - self.losses[name])
            <= 1.96 * math.sqrt(self.errors[name] ** 2 + squares.get(name, 0.0))
        )

    def check_tokenizer(
        self, made_by: TokenizerRecord, is_same: Callable[[TokenizerRecord, str], bool]
    ) -> None:
        """Refuse losses per token of another tokenizer; ``is_same`` says whether a fingerprint is that of ``made_by``.

        Raises:
            DataError: the fingerprint of theirs is known and is of another.
        """
        if self.tokenizer and not is_same(made_by, self.tokenizer):
            raise DataError(
                f"{self.source!r}: the losses were measured with tokenizer {self.tokenizer[:12]!r}, the data was made "
                f"by tokenizer {made_by.fingerprint[:12]}: losses per token of two tokenizers cannot be compared. "
                "Run `shear-lit reference measure` on this data.",
                key=_KEY,
            )

    def check_attention(self, *, cross_document: bool) -> None:
        """Refuse losses of documents that were read otherwise.

        Raises:
            DataError: it is known whether attention crossed documents, and it differs.
        """
        if self.cross_document_attention not in (None, cross_document):
            said, wanted = (str(value).lower() for value in (self.cross_document_attention, cross_document))
            raise DataError(
                f"{self.source!r}: the losses were measured with cross_document_attention={said}, and the run has "
                f"data.cross_document_attention={wanted}: losses of documents read alone and together cannot be "
                f"compared. Run `shear-lit reference measure --cross_document_attention {wanted}`, "
                "or change the run's key.",
                key=_KEY,
            )


def write_references(path: str | Path, references: References) -> None:
    """Write a references file, wholly or not at all."""
    content = yaml.safe_dump({"format": FORMAT, **asdict(references)}, sort_keys=False, allow_unicode=True)
    write_file(expanded(path), content)


def read_references(path: str | Path) -> References:
    """Read a references file.

    Raises:
        DataError: there is none, or it is not of the format that ``write_references`` writes.
    """
    try:
        content = read_yaml(expanded(path), limit=_MOST_BYTES)
    except OSError as error:
        raise DataError(
            f"{str(path)!r} cannot be read ({error.strerror or error}): a file of reference losses is expected there. "
            "Correct the path, or make it with `shear-lit reference measure`.",
            key=_KEY,
        ) from error
    except ValueError as error:
        raise _malformed(path, f"it is no YAML ({error})") from error
    return _references_of(path, content)


def _references_of(path: str | Path, content: Any) -> References:
    if not isinstance(content, Mapping) or content.get("format") != FORMAT:
        raise _malformed(path, f"the key `format: {FORMAT}` is missing")
    known = {field.name: content[field.name] for field in fields(References) if field.name in content}
    try:
        found = record_of(References, known)
    except ValueError as error:
        raise _malformed(path, str(error)) from error
    if not found.losses or not all(is_domain_name(name) for name in found.losses):
        raise _malformed(path, f"`losses` is {shown(found.losses)}: nats per token by domain are expected")
    if found.errors and found.errors.keys() != found.losses.keys():
        raise _malformed(
            path, f"`errors` is {shown(found.errors)}: one for each domain, or none, is expected"
        )
    return replace(found, losses={name: float(loss) for name, loss in found.losses.items()})


def _malformed(path: str | Path, what: str) -> DataError:
    return DataError(
        f"{str(path)!r}: {what}: it is no file of reference losses. "
        "Make it with `shear-lit reference measure`, or write "
        "`{format: 1, source: ..., tokenizer: '', losses: {domain: nats}}`.",
        key=_KEY,
    )
