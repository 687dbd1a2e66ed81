"""What a run says in lines of text: how it begins, a validation as a small table, the time left, the next command."""

import math
import textwrap
from collections.abc import Mapping

from shear_lit.progress import duration, time_left
from shear_lit.theory.shape import ModelShape

_WIDTH, _NAME_WIDTH = 79, 24
_WORTH_SAYING_SECONDS = 5.0


def beginning(
    source: str,
    before: ModelShape | None,
    after: ModelShape | None,
    *,
    steps: int,
    step_tokens: int,
    domains: int,
    seconds: float = 0.0,
    processes: int = 1,
) -> str:
    """What a run is about to do; the shapes are those of a run that prunes.

    ``seconds`` are what its matrix products take; where they are few, nothing is said of time.
    """
    whole = f"{steps:,} steps of {step_tokens:,} tokens, {domains} domain{'s' * (domains != 1)}"
    if seconds >= _WORTH_SAYING_SECONDS:
        on = f" on {processes} processes" if processes > 1 else ""
        whole += f"\n  at least {duration(seconds)}{on}, by what its matrix products alone take here"
    if before is None or after is None:
        return f"trains {source}\n  {whole}"
    old, new = before.to_dict(), after.to_dict()
    sizes = ", ".join(
        f"{name.replace('_', ' ')} {old[name]:,} to {new[name]:,}" for name in old if old[name] != new[name]
    )
    sizes = textwrap.fill(
        sizes or "nothing: the target is the source", _WIDTH, initial_indent="  ", subsequent_indent="  "
    )
    return f"prunes {source}\n{sizes}\n  {whole}"


def going_on(step: int, steps: int, seconds: float) -> str:
    """What a run that was resumed is about to do; ``seconds`` are what is left, 0 where it is not known."""
    left = f", {time_left(seconds)} if it is as fast as before" if seconds > 0 else ""
    return f"goes on after step {step:,} of {steps:,}{left}"


def validation_title(step: int) -> str:
    """What stands above the losses of a validation."""
    return f"validation at step {step:,}"


def validation_rows(
    losses: Mapping[str, float],
    references: Mapping[str, float],
    weights: Mapping[str, float],
    earlier: Mapping[str, float],
) -> tuple[tuple[str, ...], tuple[tuple[str, ...], ...]]:
    """The heads and rows of ``validation_table``."""
    heads = ("domain", "loss", *(["reference"] if references else []), "change", "next share")
    rows = []
    for name, loss in losses.items():
        cells = [_loss(loss), *([_loss(references[name])] if references else [])]
        change = f"{loss - earlier[name]:+.4f}" if name in earlier else ""
        rows.append((name, *cells, change, f"{weights[name]:.1%}"))
    return heads, tuple(rows)


def validation_table(
    step: int,
    losses: Mapping[str, float],
    references: Mapping[str, float],
    weights: Mapping[str, float],
    earlier: Mapping[str, float],
) -> str:
    """The losses of a validation, in nats per token, and the mixture that follows from them.

    ``earlier`` are the losses of the validation before; the change is empty where there was none.
    """
    (domain, *heads), rows = validation_rows(losses, references, weights, earlier)
    lines = [
        validation_title(step),
        f"  {domain:<{_NAME_WIDTH}}{''.join(f'{head:>12}' for head in heads)}",
    ]
    for name, *cells in rows:
        shown = name if len(name) < _NAME_WIDTH else f"{name[: _NAME_WIDTH - 2]}…"
        lines.append(f"  {shown:<{_NAME_WIDTH}}{''.join(f'{cell:>12}' for cell in cells)}")
    return "\n".join(lines)


def ending(run: str, checkpoint: str, *, prunes: bool) -> str:
    """Where a run is that has ended, and the commands that come next."""
    what = "cut it to its target" if prunes else "write it as a Hugging Face directory"
    commands = {
        "The run has ended. Look at it:": f"shear-lit report {run}",
        f"{what}:": f"shear-lit export --checkpoint {checkpoint} --output MODEL",
    }
    width = max(map(len, commands))
    return "\n".join(f"{label:<{width}}  {command}" for label, command in commands.items())


def _loss(loss: float) -> str:
    return f"{loss:.4f}" if math.isfinite(loss) else "none"
