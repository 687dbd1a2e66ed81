"""All ranks stop at the same place, also when one of them alone was told to."""

from typing import Any

import torch
import torch.distributed as dist


class Agreement:
    """The largest number that any rank has said, known to all at the same call.

    What is said at one call is known at the next: the reduction runs over gloo, on the hosts, while they compute, so
    that no step waits for it. All ranks must call it equally often.
    """

    def __init__(self, world_size: int) -> None:
        self._group: Any = dist.new_group(backend="gloo") if world_size > 1 else None
        self._said: torch.Tensor | None = None
        self._work: Any = None

    def of(self, number: int) -> int:
        """Say ``number``, and give what all agree on; with one process, the number itself."""
        if self._group is None:
            return number
        agreed = 0
        if self._work is not None:
            assert self._said is not None
            self._work.wait()
            agreed = int(self._said)
        self._said = torch.tensor(number)
        self._work = dist.all_reduce(self._said, op=dist.ReduceOp.MAX, group=self._group, async_op=True)
        return agreed
