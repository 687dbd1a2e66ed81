"""What happens between two optimizer steps, in which order, and that what is written there is of one moment."""

import torch
from safetensors.torch import load_file

from shear_lit.data.order.mixture_log import read_mixture_log
from shear_lit.training import boundary, module, starting
from tests.training.forks import run
from tests.training.runs import fit
from tests.training.stops import same

ORDERED = [
    "--model.pruning.constraint=exact",
    "--model.pruning.initial_gap=3",
    "--model.pruning.initial_log_alpha=4.605170185988092",
    "--data.mixture.update_at_start=true",
]
PARTS = ("order_gates", "validate", "move_mixture", "write_gates_and_mixture", "save", "stop_if_told")


def fit_and_note(arguments):
    """A run, and the parts of each boundary in the order in which they came."""
    came = []
    for part in PARTS:
        own = getattr(boundary.Boundary, f"_{part}")

        def noted(self, *given, own=own, part=part):
            came.append((self.trainer.global_step, part))
            return own(self, *given)

        setattr(boundary.Boundary, f"_{part}", noted)
    write = boundary.RunLog.report

    def report(self, *, validated):
        came.append((self._trainer.global_step, "log"))
        write(self, validated=validated)

    boundary.RunLog.report = report
    return {**fit(arguments), "came": came}


def test_boundary_is_in_the_order_of_its_list(toy, tmp_path):
    """At step 4 all of it is due; at step 2 nothing is validated; at step 3 nothing is due at all."""
    arguments = [*toy.arguments("prune", tmp_path / "run"), *ORDERED, "--trainer.max_steps=4"]
    (record,) = run(fit_and_note, tmp_path / "log", arguments=arguments)
    by_step = {step: [part for at, part in record["came"] if at == step] for step in range(5)}
    assert by_step[0] == [part for part in (*PARTS[:4], "log", "stop_if_told")]
    assert by_step[2] == ["order_gates", "log", "save", "stop_if_told"]
    assert by_step[3] == ["order_gates", "stop_if_told"]
    assert by_step[4] == [*PARTS[:4], "log", "save", "stop_if_told"]


def ordering_after_the_validation():
    boundary.Boundary._order_gates = lambda self: None
    move = boundary.Boundary._move_mixture

    def late(self):
        followed = move(self)
        if self.trainer.global_step == 0:
            starting.order_gates(self.module, self.module.pruning)
        return followed

    boundary.Boundary._move_mixture = late


def losses_of_the_first_cut(toy, folder, sabotage=None):
    """What the first mixture followed, with the gates that were in force then, and those that were written."""
    arguments = [*toy.arguments("prune", folder / "run"), *ORDERED, "--trainer.max_steps=4"]
    run(fit, folder / "log", arguments=arguments, sabotage=sabotage)
    gates = load_file(folder / "run" / "gates" / "step=000000.safetensors")
    return read_mixture_log(folder / "run").updates[0].losses, gates


def test_first_mixture_follows_the_cut_that_training_begins_with(toy, tmp_path):
    """Gates that start in order are ordered before the validation at the start, and are what is written of step 0."""
    losses, gates = losses_of_the_first_cut(toy, tmp_path / "a")
    late, _ = losses_of_the_first_cut(toy, tmp_path / "b", ordering_after_the_validation)
    assert all(
        len(rows.unique()) > 1
        for name, rows in gates.items()
        if name.endswith("log_alpha") or "." not in name
    )
    assert losses != late


def test_checkpoint_of_a_boundary_holds_the_mixture_that_it_moved_to(whole):
    folder, (record,) = whole("prune")
    state = torch.load(folder / "checkpoints" / "step=000004.ckpt", weights_only=True)["DomainData"]
    assert state["updated_at"] == 4
    assert state["loader"]["weights"] == list(record["mixtures"][4].values())


def stop_within_a_step():
    """What a callback like Lightning's Timer does: it ends the run after any micro-batch."""
    train = module.ShearingModule.training_step

    def step(self, batch, index):
        if self.trainer.global_step == 4 and batch["micro_batch"] == 1:
            self.trainer.should_stop = True
        return train(self, batch, index)

    module.ShearingModule.training_step = step


def test_run_that_a_callback_ends_within_a_step_finishes_it_and_goes_on(toy, tmp_path, whole):
    arguments = [*toy.arguments("pretrain", tmp_path / "run"), "--ckpt_path=auto"]
    (stopped,) = run(fit, tmp_path / "stopped", arguments=arguments, sabotage=stop_within_a_step)
    assert len(stopped["batches"]) == 5 * 4
    (again,) = run(fit, tmp_path / "again", arguments=arguments)
    (uninterrupted,) = whole("pretrain")[1]
    assert all(same(again[part], uninterrupted[part]) for part in ("parameters", "moments", "data"))
