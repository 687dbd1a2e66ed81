"""The module: what checkpointing and lower precision leave as it is."""

import pytest
import torch

from shear_lit.training.module import ShearingModule
from tests.training.compare import batches, difference, distances, same_order
from tests.training.forks import run
from tests.training.runs import fit

FSDP2 = ("--trainer.strategy=fsdp2", "--trainer.devices=2")


@pytest.mark.parametrize(
    ("processes", "flags"),
    [(1, ()), pytest.param(2, FSDP2, marks=pytest.mark.nightly)],
    ids=["one process", "fsdp2 on two"],
)
def test_gradient_checkpointing_changes_nothing(toy, tmp_path, whole, processes, flags):
    arguments = [*toy.arguments("prune", tmp_path / "run"), "--model.gradient_checkpointing=true", *flags]
    again = run(fit, tmp_path / "log", processes=processes, arguments=arguments)
    _, one = whole("prune")
    assert same_order(one, again)
    found = distances(one, again)
    assert max(found.values()) <= 1e-5, found


def watch_the_dtype():
    """Keep the dtype that a block computes in."""
    build = ShearingModule.configure_model

    def build_watched(self):
        build(self)
        self.seen = set()
        block = self.model.get_submodule("model.layers.0.mlp.down_proj")
        block.register_forward_hook(lambda module, inputs, output: self.seen.add(output.dtype))

    ShearingModule.configure_model = build_watched


@pytest.mark.parametrize(
    ("processes", "flags"),
    [(1, ()), pytest.param(2, FSDP2, marks=pytest.mark.nightly)],
    ids=["one process", "fsdp2 on two"],
)
def test_bfloat16_leaves_gates_and_multipliers_alone(toy, tmp_path, whole, processes, flags):
    """Blocks compute in bfloat16, whose relative spacing is 1/128; all that is kept is float32."""
    arguments = [*toy.arguments("prune", tmp_path / "run"), "--trainer.precision=bf16-mixed", *flags]
    mixed = run(fit, tmp_path / "log", processes=processes, arguments=arguments, sabotage=watch_the_dtype)
    assert mixed[0]["seen"] == {torch.bfloat16}
    assert set(mixed[0]["dtypes"].values()) == {torch.float32}
    assert {value.dtype for value in mixed[0]["moments"].values()} == {torch.float32}
    one = batches(whole("prune")[1])
    for key, batch in batches(mixed).items():
        assert {gates.dtype for gates in batch["gates"].values()} == {torch.float32}
        assert batch["loss"] == pytest.approx(one[key]["loss"], rel=0.02)
    # The first step's noise meets gates that no gradient has moved yet.
    assert difference(batches(mixed)[0, 0]["gates"], one[0, 0]["gates"]) == 0
    assert any(batch["loss"] != one[key]["loss"] for key, batch in batches(mixed).items())
