"""What a run says in lines of text: how it begins, a validation as a small table, the time left, the next command."""

import math
from collections.abc import Mapping

from shear_lit.reporting.durations import duration
from shear_lit.theory.shape import ModelShape

_NAME_WIDTH = 24


def beginning(
    source: str,
    before: ModelShape | None,
    after: ModelShape | None,
    *,
    steps: int,
    step_tokens: int,
    domains: int,
) -> str:
    """What a run is about to do; the shapes are those of a run that prunes."""
    whole = f"{steps:,} steps of {step_tokens:,} tokens, {domains} domain{'s' * (domains != 1)}"
    if before is None or after is None:
        return f"trains {source}\n  {whole}"
    old, new = before.to_dict(), after.to_dict()
    sizes = ", ".join(
        f"{name.replace('_', ' ')} {old[name]:,} to {new[name]:,}" for name in old if old[name] != new[name]
    )
    return f"prunes {source}\n  {sizes or 'nothing: the target is the source'}\n  {whole}"


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
    heads = ["loss", *(["reference"] if references else []), "change", "next share"]
    lines = [
        f"validation at step {step:,}",
        f"  {'domain':<{_NAME_WIDTH}}{''.join(f'{h:>12}' for h in heads)}",
    ]
    for name, loss in losses.items():
        cells = [_loss(loss), *([_loss(references[name])] if references else [])]
        cells += [f"{loss - earlier[name]:+.4f}" if name in earlier else "", f"{weights[name]:.1%}"]
        shown = name if len(name) < _NAME_WIDTH else f"{name[: _NAME_WIDTH - 2]}…"
        lines.append(f"  {shown:<{_NAME_WIDTH}}{''.join(f'{cell:>12}' for cell in cells)}")
    return "\n".join(lines)


def time_left(seconds: float) -> str:
    """The time that a run still needs, about."""
    return f"about {duration(seconds)} left"


def ending(run: str, checkpoint: str, *, prunes: bool) -> str:
    """Where a run is that has ended, and the commands that come next."""
    what = "cut it to its target" if prunes else "write it as a Hugging Face directory"
    return (
        f"The run has ended. Look at it:    shear-lit report {run}\n"
        f"{what + ':':<34}shear-lit export --checkpoint {checkpoint} --output MODEL"
    )


def _loss(loss: float) -> str:
    return f"{loss:.4f}" if math.isfinite(loss) else "none"
