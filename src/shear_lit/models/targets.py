"""Ways to say what a model should become: an exact shape, a number of parameters, a share of the cost, a known name."""

import logging
import math
from dataclasses import dataclass

from transformers import PretrainedConfig

from shear_lit.models.proposals import Measure, Proposal, SizeModel, propose
from shear_lit.models.registry import family_of
from shear_lit.theory.shape import Axis, ModelShape, ShapeError, TargetShape

PRESETS: dict[str, ModelShape] = {
    "sheared-llama-2.7b": ModelShape(layers=32, hidden=2560, query_heads=20, kv_heads=20, intermediate=6912),
    "sheared-llama-1.3b": ModelShape(layers=24, hidden=2048, query_heads=16, kv_heads=16, intermediate=5504),
    "sheared-llama-370m": ModelShape(layers=24, hidden=1024, query_heads=8, kv_heads=8, intermediate=2816),
}
"""The shapes that were published (arXiv:2310.06694, table 8, and the authors' repository)."""

KERNEL_MULTIPLE = 8
"""Sizes of which GPUs' matrix units take whole rows: 16 bytes, which is 8 entries of bfloat16."""

_log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class TargetRequest:
    """What a user says of the model that should remain: exactly one of four ways.

    Raises:
        ShapeError: none or several are given, or one is out of range.
    """

    shape: TargetShape | None = None
    """Its shape, or the sizes of the axes that change."""
    parameters: float | None = None
    """Its parameters."""
    flops_fraction: float | None = None
    """Its multiplications per token, as a share of the source's."""
    preset: str | None = None
    """The name of a published shape."""
    key: str = "target"
    """What the user knows it by, for messages."""

    def __post_init__(self) -> None:
        ways = {
            self.key: self.shape,
            f"{self.key}_parameters": self.parameters,
            f"{self.key}_flops_fraction": self.flops_fraction,
            f"{self.key}_preset": self.preset,
        }
        given = [name for name, value in ways.items() if value is not None]
        if len(given) != 1:
            found = f"{' and '.join(given)} are given" if given else f"no {self.key} is given"
            raise ShapeError(
                f"{found}: exactly one of {', '.join(ways)} says what the model should become. "
                f"{'Keep' if given else 'Add'} one."
            )
        if self.preset is not None and self.preset not in PRESETS:
            raise ShapeError(
                f"{self.preset!r} is no known shape. Use {', '.join(PRESETS)}.", key=f"{self.key}_preset"
            )
        if self.parameters is not None and not (self.parameters > 0 and math.isfinite(self.parameters)):
            raise ShapeError(
                f"{self.parameters} is no number of parameters. Use a positive number, such as 1.3e9.",
                key=f"{self.key}_parameters",
            )
        if self.flops_fraction is not None and not 0 < self.flops_fraction < 1:
            raise ShapeError(
                f"{self.flops_fraction} is no share of the source's cost. Use a number between 0 and 1, such as 0.5.",
                key=f"{self.key}_flops_fraction",
            )

    def resolve(self, config: PretrainedConfig, axes: tuple[Axis, ...] = tuple(Axis)) -> ModelShape:
        """The shape that is meant, which only ``axes`` may shrink; a proposal is logged with its runners-up.

        Raises:
            ShapeError: no shape comes close, and the error says what can be reached; or the sizes of the axes that are
                named do not go with those that are not.
        """
        if self.shape is not None:
            return self.shape.completed(family_of(config).shape)
        if self.preset is not None:
            return PRESETS[self.preset]
        best, *others = self.proposals(config, axes)
        key, given = self._asked()
        lines = [f"{key}={given:g}: the best-balanced shape is", f"  {best}", "runners-up:"]
        _log.info("\n".join([*lines, *(f"  {other}" for other in others)]))
        return best.shape

    def proposals(
        self, config: PretrainedConfig, axes: tuple[Axis, ...] = tuple(Axis), count: int = 5
    ) -> list[Proposal]:
        """Shapes of the asked-for size, best first.

        Raises:
            ShapeError: there is none; the error says what can be reached.
        """
        sizes = SizeModel(config)
        measure = Measure.PARAMETERS if self.parameters is not None else Measure.FLOPS
        whole = sizes.of(family_of(config).shape, measure)
        asked = self.parameters if self.parameters is not None else (self.flops_fraction or 0.0) * whole
        key, given = self._asked()
        return propose(sizes, asked, measure=measure, axes=axes, key=key, given=given, count=count)

    def _asked(self) -> tuple[str, float]:
        """The key and the value of a size."""
        if self.parameters is not None:
            return f"{self.key}_parameters", self.parameters
        assert self.flops_fraction is not None, "a size is asked for"
        return f"{self.key}_flops_fraction", self.flops_fraction


def kernel_warnings(target: ModelShape) -> list[str]:
    """What is odd about a shape for the matrix kernels of GPUs."""
    return [
        f"target {name}={size} is no multiple of {KERNEL_MULTIPLE}: matrix kernels of GPUs compute rows of 16 bytes, "
        f"and others in parts. {name}={size - size % KERNEL_MULTIPLE or KERNEL_MULTIPLE} or "
        f"{size - size % KERNEL_MULTIPLE + KERNEL_MULTIPLE} would not."
        for name, size in (("hidden", target.hidden), ("intermediate", target.intermediate))
        if size % KERNEL_MULTIPLE
    ]
