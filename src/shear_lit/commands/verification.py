"""A model in the clients that people use, compared with what transformers computes from it."""

import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path

from shear_lit.disk.names import expanded
from shear_lit.evaluation.clients.asking import (
    Answer,
    ClientError,
    ClientName,
    Job,
    ask,
    check_installed,
    installed,
)
from shear_lit.evaluation.clients.comparison import TOLERANCE, Expected, difference, first_other_token
from shear_lit.evaluation.clients.reference import (
    TEXT,
    Probe,
    expected_of,
    probe_of,
    unseen_window,
    with_short_window,
)
from shear_lit.evaluation.end_of_turn import ends_of_turns
from shear_lit.mistakes import Mistake
from shear_lit.models.companions import has_tokenizer
from shear_lit.models.huggingface import SourceError, read_config, source_fingerprint


class VerifyError(Mistake):
    """A directory that cannot be verified."""


@dataclass(frozen=True, kw_only=True)
class Verdict:
    """What became of one client."""

    client: ClientName
    """Its name."""
    version: str
    """Its version."""
    same: bool
    """Whether it computes what the reference does."""
    said: str
    """The verdict in words."""

    def __str__(self) -> str:
        return f"{self.client:<12} {self.version:<14} {self.said}"


@dataclass(frozen=True, kw_only=True)
class Verification:
    """What became of every client."""

    directory: str
    """The model."""
    reference: str
    """What it was compared with."""
    window: int | None
    """The sliding window that was shortened for the probe."""
    verdicts: tuple[Verdict, ...]
    """One for each client."""

    @property
    def exit_code(self) -> int:
        """1 if a client refuses the model or computes something else."""
        return int(not all(verdict.same for verdict in self.verdicts))

    def __str__(self) -> str:
        against = "" if self.reference == self.directory else f" against {self.reference}"
        window = f"; its sliding window of {self.window} is shortened for it" if self.window else ""
        return "\n".join([f"{self.directory}{against}, a probe in float32{window}", *map(str, self.verdicts)])


def verify_model(
    directory: str, *, client: ClientName | None, python: str | None, against: str | None
) -> Verification:
    """Ask the clients about a model; ``verify`` says what the arguments are."""
    _check_model(directory, "directory")
    if against is not None:
        _check_model(against, "against")
    directory, against = _place(directory), None if against is None else _place(against)
    reference = against or directory
    interpreter = python or sys.executable
    clients = _clients(client, interpreter)
    probe = probe_of(read_config(directory))
    text = TEXT if has_tokenizer(directory) and has_tokenizer(reference) else None
    ends = ends_of_turns(directory) if has_tokenizer(directory) else ()
    window = unseen_window(directory)
    with ExitStack() as stack:
        loaded, expected_in = directory, reference
        if window is not None:
            loaded = stack.enter_context(with_short_window(directory))
            expected_in = loaded if against is None else stack.enter_context(with_short_window(reference))
        expected = expected_of(expected_in, probe, text=text)
        found = [_asked(name, interpreter, loaded, probe, expected, text, ends) for name, _ in clients]
    if window is not None and not all(each.logits for each in found):
        whole = expected_of(reference, probe)
        found = [
            each
            if each.logits
            else each.with_window(window, _asked(name, interpreter, directory, probe, whole))
            for (name, _), each in zip(clients, found, strict=True)
        ]
    verdicts = tuple(
        _verdict(name, version, each) for (name, version), each in zip(clients, found, strict=True)
    )
    return Verification(directory=directory, reference=reference, window=window, verdicts=verdicts)


def _check_model(directory: str, key: str) -> None:
    """Refuse what is no directory of a model.

    Raises:
        VerifyError: it is none.
    """
    if not expanded(directory).is_dir():
        raise VerifyError(
            f"{key}={directory!r} is no directory: the Hugging Face directory of a model is expected, as "
            f"`shear-lit export` writes it. Correct the path."
        )
    try:
        source_fingerprint(directory)  # config and weights are there, and headers can be read
    except SourceError as error:
        error.key = key
        raise


def _place(directory: str) -> str:
    """Where it is, for links and for other processes."""
    return str(expanded(directory).resolve())


def _clients(client: ClientName | None, python: str) -> list[tuple[ClientName, str]]:
    """Those to ask, with their versions.

    Raises:
        ClientError: it is not installed there, or none is.
    """
    if client is not None:
        return [(client, check_installed(client, python))]
    found: list[tuple[ClientName, str]] = [
        (name, version) for name, (version, lacks) in installed(python).items() if lacks is None
    ]
    if not found:
        raise ClientError(
            f"python={python!r} has no client: transformers, vllm, xllamacpp, ctranslate2 or optimum is expected "
            f"there. Install one, or name the interpreter of an environment that has one."
        )
    return found


@dataclass(frozen=True, kw_only=True)
class _Found:
    """An answer that was compared while its files were there."""

    refusal: str | None = None
    same: bool = False
    said: str = ""
    logits: bool = True
    """Whether the logits are the same."""

    def with_window(self, window: int, whole: "_Found") -> "_Found":
        """Say also what was found with the window as it is, which the probe does not reach."""
        shown = f"refuses: {whole.refusal}" if whole.refusal else "same" if whole.same else "different, too"
        return replace(
            self, said=f"{self.said}; with its window of {window}, which the probe does not reach: {shown}"
        )


def _asked(
    client: ClientName,
    python: str,
    directory: str,
    probe: Probe,
    expected: Expected,
    text: str | None = None,
    ends: Sequence[int] = (),
) -> _Found:
    with tempfile.TemporaryDirectory(prefix="shear-lit-verify-") as scratch:
        job = Job(
            directory=directory,
            tokens=[probe.tokens],
            logits=str(Path(scratch) / "logits.npy"),
            greedy_from=probe.prompt,
            new_tokens=probe.new_tokens,
            text=text,
            ends=ends,
        )
        (answer,) = ask(client, python, [job])
        if answer.error is not None:
            return _Found(refusal=answer.error)
        findings = [*_findings(answer, expected), *_stops(answer, ends)]
    return _Found(
        same=all(same for same, _ in findings),
        said=", ".join(words for _, words in findings),
        logits=findings[0][0],
    )


def _findings(answer: Answer, expected: Expected) -> Iterator[tuple[bool, str]]:
    """Each thing that was compared: whether it is the same, and how that is said."""
    found = difference(answer, expected)
    yield (
        found.same,
        f"max |difference| = {found.figure:.2g} of the largest logit (at most {TOLERANCE:g}), most probable token the "
        f"same at {found.argmax} of {found.positions} positions",
    )
    if answer.greedy is not None:
        place, tied = first_other_token(answer.greedy, expected)
        count = len(expected.greedy or ())
        if place is None:
            yield True, f"{count} greedy tokens the same"
        elif tied:
            yield True, f"{place} greedy tokens the same, then two that are equal within the tolerance"
        else:
            yield False, f"greedy tokens other from number {place + 1} of {count} on"
    if answer.ids is not None and expected.ids is not None:
        yield (
            list(answer.ids) == list(expected.ids),
            f"token ids of a text {_ids_said(answer.ids, expected.ids)}",
        )


def _stops(answer: Answer, ends: Sequence[int]) -> Iterator[tuple[bool, str]]:
    """Whether generation stops where a turn ends, where the client tells."""
    if answer.stops is None or not ends:
        return
    missed = [str(token) for token in ends if token not in answer.stops]
    yield (
        not missed,
        f"DOES NOT STOP behind token {', '.join(missed)}, which ends a turn"
        if missed
        else "stops where a turn ends",
    )


def _ids_said(found: Sequence[int], expected: Sequence[int]) -> str:
    found, expected = list(found), list(expected)
    if found == expected:
        return "the same"
    if found[1:] == expected:
        return f"OTHERS: it begins with {found[0]}, and the reference does not"
    if found == expected[1:]:
        return f"OTHERS: the reference begins with {expected[0]}, and it does not"
    return "OTHERS"


def _verdict(client: ClientName, version: str, found: _Found) -> Verdict:
    said = (
        f"refuses: {found.refusal}"
        if found.refusal
        else f"{'same' if found.same else 'DIFFERENT'}: {found.said}"
    )
    return Verdict(client=client, version=version, same=found.same and not found.refusal, said=said)
