"""One process and several compute the same, whatever shards the model."""

import pytest

from shear_lit.pruning import game
from shear_lit.pruning.gates import Gates
from shear_lit.training import module
from tests.training.compare import batches, distances, same_order
from tests.training.forks import run
from tests.training.runs import fit

TOLERANCE = 1e-5
STEPS, MICRO_BATCHES = 12, 4
SPREAD = {
    "fsdp2-1": (1, ["--trainer.strategy=fsdp2"]),
    "fsdp2-2": (2, ["--trainer.strategy=fsdp2", "--trainer.devices=2"]),
    "ddp-2": (2, ["--trainer.strategy=ddp", "--trainer.devices=2"]),
}


def spread_run(toy, tmp_path, name, stage, source, **options):
    processes, flags = SPREAD[name]
    arguments = [*toy.arguments(stage, tmp_path / "run", source=source), *flags]
    return run(fit, tmp_path / "log", processes=processes, arguments=arguments, **options)


CASES = [
    ("fsdp2-2", "prune", "gqa-tied"),
    pytest.param("fsdp2-2", "prune", "mha-untied", marks=pytest.mark.nightly),
    pytest.param("fsdp2-2", "pretrain", "gqa-tied", marks=pytest.mark.nightly),
    pytest.param("fsdp2-1", "prune", "gqa-tied", marks=pytest.mark.nightly),
    pytest.param("ddp-2", "prune", "gqa-tied", marks=pytest.mark.nightly),
    ("ddp-2", "pretrain", "mha-untied"),
]


@pytest.mark.parametrize(("name", "stage", "source"), CASES, ids=lambda part: part)
def test_several_processes_compute_what_one_does(toy, tmp_path, whole, name, stage, source):
    """Clipping and accumulation are on; 12 steps, three validations that move the mixture."""
    _, one = whole(stage, source=source)
    several = spread_run(toy, tmp_path, name, stage, source)
    assert len(batches(one)) == STEPS * MICRO_BATCHES
    assert same_order(one, several)
    found = distances(one, several)
    assert max(found.values()) <= TOLERANCE, found
    if stage == "prune":
        moved = one[0]["mixtures"]
        assert len({tuple(weights.values()) for weights in moved.values()}) == len(moved) == 3


def test_several_processes_rank_units_as_one_does(toy, tmp_path, whole):
    """Importance is measured before the first step, on calibration sequences that the processes share out."""
    ranked = [
        "--model.pruning.initial_log_alpha=4.605170185988092",
        "--model.pruning.initial_gap=2.0",
        "--model.pruning.calibration_sequences=8",
    ]
    _, one = whole("prune", *ranked)
    arguments = [*toy.arguments("prune", tmp_path / "run"), *SPREAD["fsdp2-2"][1], *ranked]
    several = run(fit, tmp_path / "log", processes=2, arguments=arguments)
    starts = {float(value) for rows in one[0]["gates_after"][1].values() for value in rows.unique()}
    assert len(starts) > 1
    found = distances(one, several)
    assert max(found.values()) <= TOLERANCE, found


def noise_without_micro_batch():
    """Key the gates' noise by what a rank counts by itself, instead of the global batch."""
    keyed = game.keyed_uniform
    game.keyed_uniform = lambda shape, axes, *, key: keyed(shape, axes, key=(key[0], key[1], 0))


def gates_of_each_rank_for_itself():
    """Leave the gates out of the sharding: nobody averages their gradients, and no norm is taken of such a mixture."""
    module.ShearingModule.configure_gradient_clipping = lambda self, *args, **options: None
    shard = module.shard
    module.shard = lambda blocks, model, small, mesh, **options: shard(
        blocks, model, [each for each in small if not isinstance(each, Gates)], mesh, **options
    )


@pytest.mark.parametrize(
    "broken",
    [noise_without_micro_batch, gates_of_each_rank_for_itself],
)
@pytest.mark.nightly
def test_broken_spreading_would_be_seen(toy, tmp_path, whole, broken):
    """Clipping is off, because it refuses parameters of which some are sharded and some are not."""
    unclipped = "--trainer.gradient_clip_val=null"
    arguments = [*toy.arguments("prune", tmp_path / "run"), *SPREAD["fsdp2-2"][1], unclipped]
    several = run(fit, tmp_path / "log", processes=2, arguments=arguments, sabotage=broken)
    found = distances(whole("prune", unclipped)[1], several)
    assert max(found.values()) > 100 * TOLERANCE
