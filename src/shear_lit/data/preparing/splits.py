"""Which split a document belongs to: a range of the places that hashes name, frozen when a domain is first prepared."""

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass

import numpy as np
from numpy.typing import NDArray

from shear_lit.data.errors import DataError
from shear_lit.data.prepared.manifest import SPLITS, Bounds
from shear_lit.data.text.documents import PLACES, place_of
from shear_lit.ranges import CountFrom0, Fraction


@dataclass(frozen=True, kw_only=True)
class SplitShares:
    """The fraction of the documents that each split gets; they sum to 1.

    A document's split follows from a hash of its text with case folded and white space collapsed, so that the
    fractions are met on average. Splits that are sized in tokens come first: what they leave is shared by the others
    in proportion to these fractions.
    """

    prune: Fraction = 0.2
    """Fraction for stage 1, learning what to keep."""
    pretrain: Fraction = 0.75
    """Fraction for stage 2, continued pre-training."""
    validation: Fraction = 0.05
    """Fraction held out for the losses that move the mixture."""

    def __post_init__(self) -> None:
        shares = asdict(self)
        if not all(0 <= share <= 1 for share in shares.values()) or abs(sum(shares.values()) - 1) > 1e-6:
            raise DataError(
                f"{shares} sum to {sum(shares.values()):g}: each must be 0 to 1 and the sum must be 1. "
                "Correct one of them; 0 leaves a split out.",
                key="shares",
            )

    def split_of(self, text: str) -> str:
        """The split of the document ``text`` where all splits are sized by their shares."""
        bounds = split_bounds(self, SplitTokens(), lambda *_: 0.0)
        place = min(place_of(text), _LAST)
        return next(name for name, (low, high) in bounds.items() if low <= place < high)


@dataclass(frozen=True, kw_only=True)
class SplitTokens:
    """Tokens of each domain that a split gets, at least, instead of a share; 0: its share decides.

    With all splits sized in tokens, what is left of the text is not used; the manifest counts it.
    """

    prune: CountFrom0 = 0
    """Tokens per domain for stage 1."""
    pretrain: CountFrom0 = 0
    """Tokens per domain for stage 2."""
    validation: CountFrom0 = 0
    """Tokens per domain held out; the paper's is 2 million."""

    def __post_init__(self) -> None:
        for name, tokens in asdict(self).items():
            if tokens < 0:
                raise DataError(
                    f"{tokens}: a split has 0 or more tokens. Correct it; 0 sizes it by its share.",
                    key=f"tokens.{name}",
                )


_LAST = float(
    np.nextafter(1.0, 0.0)
)  # rounding may call the very last places 1, which no split's range includes


def split_bounds(
    shares: SplitShares, tokens: SplitTokens, place_below: Callable[[str, float, int], float]
) -> Bounds:
    """The places of every split that gets any.

    Args:
        shares: Fractions of what the splits sized in tokens leave.
        tokens: Tokens of these.
        place_below: Given a split, a place and a number of tokens, the place from which up to the first one there are
            at least so many tokens.
    """
    bounds: Bounds = {}
    top = 1.0
    for split in reversed(SPLITS):
        if wanted := getattr(tokens, split):
            low = place_below(split, top, wanted)
            bounds[split], top = (low, top), low
    return _in_order(_shared(shares, [s for s in SPLITS if s not in bounds], top) | bounds)


def splits_of(bounds: Mapping[str, tuple[float, float]], places: NDArray[np.uint64]) -> NDArray[np.int8]:
    """The index in ``bounds`` of the split of each place; -1 where no split wants it."""
    fractions = np.minimum(places.astype(np.float64) / PLACES, _LAST)
    found = np.full(len(places), -1, dtype=np.int8)
    for index, (low, high) in enumerate(bounds.values()):
        found[(fractions >= low) & (fractions < high)] = index
    return found


def _shared(shares: SplitShares, splits: list[str], top: float) -> Bounds:
    wanted = {name: getattr(shares, name) for name in splits if getattr(shares, name) > 0}
    bounds, lower, running = {}, 0.0, 0.0
    for name, share in wanted.items():
        running += share
        last = name == list(wanted)[-1]  # rounding must not leave places between the last split and the top
        upper = top if last else top * running / sum(wanted.values())
        bounds[name], lower = (lower, upper), upper
    return bounds


def _in_order(bounds: Bounds) -> Bounds:
    return {split: bounds[split] for split in SPLITS if split in bounds}
