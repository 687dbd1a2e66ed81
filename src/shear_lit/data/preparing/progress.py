"""How far a run is: a bar with the tokens per second and the time left, where somebody can see it."""

import time
from typing import Self

from tqdm import tqdm


class Progress:
    """The bar of one run."""

    def __init__(self, size: int) -> None:
        """Begin with ``size`` bytes of text to go."""
        self._bar = tqdm(
            total=size, desc="Tokenising", unit="B", unit_scale=True, smoothing=0.0, disable=None
        )
        self._start, self._tokens = time.monotonic(), 0
        self.skipped = 0
        """Pieces of work that were done before."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._bar.close()

    def skip(self, size: int) -> None:
        """Count a piece of ``size`` bytes that was done before: it says nothing of the speed."""
        self.skipped += 1
        if not self._bar.disable:
            self._bar.initial += size
        self._bar.update(size)

    def add(self, size: int, tokens: int) -> None:
        """Count a piece that has been done."""
        self._tokens += tokens
        rate = self._tokens / max(1e-9, time.monotonic() - self._start)
        self._bar.set_postfix_str(f"{rate / 1000:,.0f}k tokens/s", refresh=False)
        self._bar.update(size)
