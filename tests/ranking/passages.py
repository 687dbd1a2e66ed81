"""Text for rankings as tests have it: batches of token ids, a passage each row."""

import torch

from shear_lit.ranking.importance import Passage


def passages(batches, masks=None):
    """The rows of token ids, of which a mask says which tokens count."""
    rows = [row for ids in batches for row in ids]
    found = []
    for number, row in enumerate(rows):
        labels, counted = row[None], None
        if masks is not None:
            counted = masks[number][None]
            labels = labels.masked_fill(~counted, -100)
        counts = counted is None or bool(counted.any())
        found.append(
            Passage(
                inputs={"input_ids": row[None], "labels": labels},
                number=number,
                counted=counted,
                counts=counts,
            )
        )
    return found


def whole(sums):
    """The sums over all of the text."""
    return next(sums.each())


def device():
    return torch.device("cpu")
