"""The harness's own class of models, whose requests several processes share."""

import logging
from collections.abc import Callable, Hashable, Sequence
from typing import Any, TypeVar

import torch
from lm_eval.models.huggingface import HFLM
from transformers import PreTrainedModel

from shear_lit.evaluation.suites.processes import ALONE, Processes

_log = logging.getLogger(__name__)
Answer = TypeVar("Answer")


class SharedModel(HFLM):
    """A model that is loaded in every process, each of which answers a part of the requests, and knows all answers.

    To the harness each process is alone: all build the same requests, with the same examples, and compute the same
    figures. The batches are those of one process, dealt out whole, so that no figure depends on how many there are.
    """

    def __init__(
        self, model: PreTrainedModel, tokenizer: Any, *, batch_size: int, processes: Processes = ALONE
    ) -> None:
        super().__init__(pretrained=model, tokenizer=tokenizer, batch_size=batch_size)
        self.processes = processes
        self.answered = 0
        """Requests that this process has answered."""

    def _loglikelihood_tokens(
        self,
        requests: Any,
        disable_tqdm: bool = False,  # noqa: FBT001, FBT002  (the harness's signature)
        override_bs: int | None = None,
    ) -> list[Any]:
        answer = super()._loglikelihood_tokens

        def answer_some(some: list[Any]) -> list[Any]:
            return answer(some, disable_tqdm or not self.processes.first, override_bs)

        # Requests that differ in a single last token are answered by one forward pass.
        units = _grouped(requests, lambda request: (*request[1], *request[2][:-1]))
        return self._shared(requests, [_by_length(requests, units)], answer_some)

    def generate_until(self, requests: Any, disable_tqdm: bool = False) -> list[str]:  # noqa: FBT001, FBT002
        """The texts that the model writes after each request."""
        answer = super().generate_until

        def answer_some(some: list[Any]) -> list[Any]:
            return answer(some, disable_tqdm or not self.processes.first)

        lengths = {request.args[0]: -len(self.tok_encode(request.args[0])) for request in requests}
        alike = _grouped(requests, lambda request: repr(sorted(request.args[1].items())))
        order = [
            [
                [index]
                for index in sorted(group, key=lambda i: (lengths[requests[i].args[0]], requests[i].args[0]))
            ]
            for group in alike
        ]
        return self._shared(requests, order, answer_some)

    def _shared(
        self,
        requests: Sequence[Any],
        order: list[list[list[int]]],
        answer: Callable[[list[Any]], list[Answer]],
    ) -> list[Answer]:
        """All answers; a batch that does not fit into memory is halved on every process, and begun again.

        ``order``: of those that may share a batch, the requests of each row of it, in the order of the batches.
        """
        while True:
            mine = self._own_part(order)
            found, fits = self._tried([requests[index] for index in mine], answer)
            everywhere = self.processes.gather((fits, dict(zip(mine, found, strict=True)) if fits else {}))
            if all(each for each, _ in everywhere):
                self.answered += len(mine)
                answers = {index: one for _, part in everywhere for index, one in part.items()}
                return [answers[index] for index in range(len(requests))]
            self.batch_size_per_gpu //= 2
            _log.info("out of memory: going on with batches of %d", self.batch_size_per_gpu)

    def _tried(
        self, some: list[Any], answer: Callable[[list[Any]], list[Answer]]
    ) -> tuple[list[Answer], bool]:
        if not some:
            return [], True
        try:
            return answer(some), True
        except torch.OutOfMemoryError:
            if self.batch_size_per_gpu == 1:
                raise
            torch.cuda.empty_cache()
            return [], False

    def _own_part(self, order: list[list[list[int]]]) -> list[int]:
        """The requests of every batch that falls to this process."""
        size, rank, count = self.batch_size_per_gpu, self.processes.rank, self.processes.size
        batches = [rows[start : start + size] for rows in order for start in range(0, len(rows), size)]
        return sorted(index for batch in batches[rank::count] for row in batch for index in row)


def _grouped(requests: Sequence[Any], key: Callable[[Any], Hashable]) -> list[list[int]]:
    found: dict[Hashable, list[int]] = {}
    for index, request in enumerate(requests):
        found.setdefault(key(request), []).append(index)
    return list(found.values())


def _by_length(requests: Sequence[Any], units: list[list[int]]) -> list[list[int]]:
    """Rows from the longest to the shortest, as the harness makes batches of them."""

    def length(unit: list[int]) -> tuple[int, tuple[int, ...]]:
        _, context, continuation = requests[max(unit, key=lambda index: len(requests[index][2]))]
        return -len(context) - len(continuation), (*context, *continuation)

    return sorted(units, key=length)
