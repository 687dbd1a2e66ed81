"""Holding two watched runs against each other."""

from typing import Any

import torch


def batches(ranks: list[dict[str, Any]]) -> dict[tuple[int, int], dict[str, Any]]:
    """The micro-batches of all ranks, by (optimizer step, index within the global batch)."""
    merged: dict[tuple[int, int], dict[str, Any]] = {}
    for rank in ranks:
        assert not merged.keys() & rank["batches"].keys(), "a micro-batch was computed twice"
        merged |= rank["batches"]
    return merged


def difference(a: dict[str, Any], b: dict[str, Any]) -> float:
    """The largest difference of any two tensors (or numbers), relative to the largest entry of its tensor."""
    assert a.keys() == b.keys()
    worst = 0.0
    for name, one in a.items():
        first, second = (torch.as_tensor(value, dtype=torch.float64) for value in (one, b[name]))
        assert first.shape == second.shape, name
        scale = float(first.abs().max())
        worst = max(worst, float((first - second).abs().max()) / (scale or 1.0))
    return worst


def same_order(a: list[dict[str, Any]], b: list[dict[str, Any]]) -> bool:
    """Whether the runs drew the same sequences, of the same domains, at the same places."""
    first, second = batches(a), batches(b)
    return first.keys() == second.keys() and all(
        torch.equal(first[key][part], second[key][part]) for key in first for part in ("tokens", "domain")
    )


def distances(a: list[dict[str, Any]], b: list[dict[str, Any]]) -> dict[str, float]:
    """How far two runs that drew the same sequences are apart, by what is compared, each relative to its size."""
    first, second = batches(a), batches(b)
    return {
        "losses": difference(
            {str(key): batch["loss"] for key, batch in first.items()},
            {str(key): batch["loss"] for key, batch in second.items()},
        ),
        "gate values": max(difference(first[key]["gates"], second[key]["gates"]) for key in first),
        "parameters": difference(a[0]["parameters"], b[0]["parameters"]),
        "moments": difference(a[0]["moments"], b[0]["moments"]),
        "mixtures": max(
            difference(a[0]["mixtures"][step], b[0]["mixtures"][step]) for step in a[0]["mixtures"]
        ),
        "domain losses": difference(
            {str(step): losses for step, losses in a[0]["domain_losses"].items()},
            {str(step): losses for step, losses in b[0]["domain_losses"].items()},
        ),
    }
