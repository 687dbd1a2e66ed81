"""What the parts of one run agree on: settings, inputs, and the data that is added to; and which part one is."""

import hashlib
import json
import re
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from shear_lit.data.errors import DataError
from shear_lit.data.prepared.chunks import write_part
from shear_lit.data.prepared.manifest import Manifest
from shear_lit.data.preparing.job import Job
from shear_lit.data.text.sources import Source
from shear_lit.disk.records import read_values, record_of

# What changes no byte, and what a run that was stopped by it may change; inputs are compared file by file.
_MAY_DIFFER = ("output", "domains", "workers", "executor", "max_rejected_fraction", "work")
_MOST_PARTS = 100_000


@dataclass(frozen=True)
class PartNumber:
    """Which part of a stage is done here."""

    number: int = 1
    """Its number, from 1."""
    of: int = 1
    """All parts."""

    @classmethod
    def parsed(cls, text: str) -> "PartNumber":
        """What ``3/8`` says.

        Raises:
            DataError: it is no such number.
        """
        matched = re.fullmatch(r"(\d{1,9})/(\d{1,9})", text, re.ASCII)
        number, of = map(int, matched.groups()) if matched else (0, 0)
        if not 1 <= number <= of <= _MOST_PARTS:
            raise DataError(
                f"{text!r} is no part: parts of 8 are 1/8 to 8/8, as `sbatch --array=1-8` counts them, and there are "
                f"at most {_MOST_PARTS:,}. Correct it.",
                key="part",
            )
        return cls(number, of)


@dataclass(frozen=True)
class Plan:
    """What all stages and parts of a run have in common."""

    settings: dict[str, Any]
    """What the user asked for, and what makes the tokens."""
    inputs: dict[str, str]
    """A hash of the names and sizes of each domain's inputs."""
    before: str
    """The fingerprint of the data that is added to, if there is any."""

    def hash(self) -> str:
        """SHA-256 of it."""
        return hashlib.sha256(json.dumps(asdict(self), sort_keys=True).encode()).hexdigest()


def plan_of(job: Job, sources: Sequence[Source], before: Manifest | None) -> Plan:
    """The plan of a run."""
    settings = {key: value for key, value in asdict(job.settings).items() if key not in _MAY_DIFFER}
    settings["tokenizer"] = f"{job.tokenizer.name} ({job.tokenizer.fingerprint[:12]})"
    settings["decontaminate"] = "no evaluation tasks"
    if (made := job.decontamination) is not None:  # files of the same name may have changed
        names = ", ".join(task.name for task in made.tasks)
        digest = hashlib.sha256(json.dumps(asdict(made)).encode()).hexdigest()
        settings["decontaminate"] = f"{names} ({digest[:12]}, most_documents={made.most_documents})"
    if job.chat:
        settings["template_sha256"] = job.chat.sha256  # a file of the same name may have changed
    inputs: dict[str, list[Any]] = {}
    for source in sources:
        inputs.setdefault(source.domain, []).append(
            [source.name, source.kind, source.bytes, *([source.version] if source.version else [])]
        )
    hashes = {name: hashlib.sha256(json.dumps(own).encode()).hexdigest() for name, own in inputs.items()}
    plan = Plan(settings, hashes, before.fingerprint if before else "")
    return record_of(Plan, json.loads(json.dumps(asdict(plan))))  # as a file gives it


def write_plan(job: Job, plan: Plan) -> None:
    """Make ``plan`` that of the directory of the run."""
    write_part(job.plan, (json.dumps(asdict(plan)).encode(),))


def check_plan(job: Job, plan: Plan) -> None:
    """Refuse a part of another run than the one that is at work in the directory.

    Raises:
        DataError: it has other settings, inputs, or data to add to.
    """
    try:
        there = record_of(Plan, read_values(job.plan))
    except (OSError, ValueError) as error:
        raise _other(job, "output", job.settings.output, f"a plan that cannot be read ({error})") from error
    for key in sorted(plan.settings.keys() | there.settings.keys()):
        if (asked := plan.settings.get(key)) != (found := there.settings.get(key)):
            raise _other(job, key, asked, f"{found!r}")
    for name in sorted(plan.inputs.keys() | there.inputs.keys()):
        if plan.inputs.get(name) != there.inputs.get(name):
            what = "files of other names or sizes" if name in there.inputs else "no such domain"
            given = job.settings.domains.get(name, "absent")
            raise _other(job, f"domains.{name}", given, what)
    if plan.before != there.before:
        raise _other(job, "output", job.settings.output, "other data there")


def _other(job: Job, key: str, asked: object, found: str) -> DataError:
    return DataError(
        f"{asked!r}: other parts of this run were begun with {found}. Use the same for all parts and stages, or remove "
        f"{str(job.plan)!r} to begin anew: what was tokenised and still suits is used.",
        key=key,
    )
