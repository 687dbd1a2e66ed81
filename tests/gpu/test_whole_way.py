"""The whole way of benchmarks/gpu.py at toy size, on a CPU: what make gpu does at full size on a device."""

import sys
from pathlib import Path

from tests.training.forks import run
from tests.without import hide_accelerate

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"
FIGURES = {
    ("tokens per second", "prune"),
    ("seconds", "prune"),
    ("peak memory, GiB", "prune"),
    ("seconds", "export"),
    ("parameters", "export"),
    ("tokens per second", "pretrain"),
    ("seconds", "pretrain"),
    ("peak memory, GiB", "pretrain"),
    ("largest difference of losses", "resume"),
    ("largest difference of losses", "validate"),
    ("tokens per second", "plain"),
    ("seconds", "plain"),
    ("peak memory, GiB", "plain"),
    ("gated step / plain step", "prune"),
    ("seconds of all", ""),
}


def go(work, strategies):
    """In a process of its own: what the script prints, in a plain install, and whether it minds other losses."""
    sys.path.insert(0, str(BENCHMARKS))
    import gpu

    hide_accelerate()
    figures = list(gpu.measure("toy", work, strategies))
    way = gpu.Way(gpu.SIZES["toy"], work / "inputs", work, strategies[0])
    try:
        way._difference("resume", {"even": 1.0, "odd": 1.0}, {"even": 1.0, "odd": 1.1})
    except gpu.BrokenOffError as error:
        return figures, str(error)
    return figures, ""


def test_random_model_goes_the_whole_way(tmp_path):
    ((figures, refusal),) = run(go, tmp_path / "log", work=tmp_path / "work", strategies=["fsdp2"])
    found = {(figure["figure"], figure.get("stage", "")): figure["value"] for figure in figures}
    assert found.keys() == FIGURES and all(value >= 0 for value in found.values())
    assert found["largest difference of losses", "resume"] == 0  # on a CPU, bit for bit
    assert not (tmp_path / "work" / "fsdp2").exists()
    assert refusal.startswith("resume: losses")
