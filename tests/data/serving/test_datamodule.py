"""The LightningDataModule: settings that fit together, and a mixture that a checkpoint carries."""

import json
import math
from dataclasses import replace

import pytest
import torch
from jsonargparse import ArgumentParser
from lightning import Callback, LightningModule, Trainer
from lightning.pytorch.callbacks import ModelCheckpoint

from shear_lit.data.errors import DataError
from shear_lit.data.order.mixture import MixtureSettings
from shear_lit.data.order.mixture_log import (
    MixtureChange,
    MixtureLog,
    read_mixture_log,
    write_mixture_log,
)
from shear_lit.data.order.references import References, write_references
from shear_lit.data.serving.datamodule import DomainData
from shear_lit.theory.mixture import update_weights

PROPORTIONS = {"a": 0.25, "b": 0.5, "c": 0.25}
LOSSES = {"a": 2.0, "b": 1.0, "c": 1.5}
STEPS, EVERY = 8, 2


def mixture(**changes):
    return MixtureSettings(
        **({"proportions": PROPORTIONS, "references": LOSSES, "update_every_steps": EVERY} | changes)
    )


def data(directory, settings=None, **changes):
    sizes = {"global_batch": 8, "micro_batch": 2, "validation_sequences": 6, "validation_micro_batch": 3}
    return DomainData(str(directory), settings or mixture(), **(sizes | changes))


def test_settings_that_fit_are_accepted(prepared):
    module = data(prepared)
    module.check(world_size=2, max_steps=100)
    module.setup("fit")
    assert module.domains == ("a", "b", "c") and module.weights == PROPORTIONS
    assert module.references.tolist() == [2.0, 1.0, 1.5]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"proportions": {"a": 0.5, "b": 0.4}}, r"proportions sum to 0\.9.*a: 0\.555556"),
        ({"proportions": {"a": 0.0}}, "sum to 0"),
        ({"proportions": {"a": 1.5, "b": -0.5}}, "finite and at least 0"),
        ({"proportions": {"a": math.nan}}, "finite and at least 0"),
        ({"proportions": {}}, "proportions"),
        ({"references": None}, r"references is missing.*rule=static"),
        ({"rule": "papre"}, "no rule"),
        ({"floor": 1.0}, r"floor=1\.0"),
        ({"rule": "static", "floor": 0.1}, "alone"),
        ({"rule": "odm", "floor": 0.1}, "alone"),
        ({"rule": "ado", "update_at_start": True}, "of which there are none at the start"),
        ({"update_every_steps": 0}, "update_every_steps=0"),
        ({"max_epochs": 0}, "max_epochs=0"),
        ({"max_epochs": {"a": 1, "b": -1}}, "max_epochs=.*more than 0"),
        ({"minimum": {"a": 1.5}}, r"minimum: a: 1\.5 is no weight"),
        ({"maximum": {"a": -0.1}}, r"maximum: a: -0\.1 is no weight"),
        ({"minimum": {"a": 0.3}, "maximum": {"a": 0.2}}, r"minimum: a: 0\.3 is more than"),
        ({"minimum": {"a": 0.5, "b": 0.4, "c": 0.3}}, r"smallest weights sum to 1\.2"),
        ({"minimum": {"a": 0.3}}, r"proportions: a: 0\.25 lies outside.*0\.3 to 1\.0"),
        ({"maximum": {"b": 0.4}}, r"proportions: b: 0\.5 lies outside.*0\.0 to 0\.4"),
        ({"largest_change": 0.0}, r"largest_change=0\.0"),
        ({"rule": "static", "largest_change": 0.1}, "no effect with rule 'static'"),
        ({"rule": "static", "minimum": {"a": 0.1}}, "no effect with rule 'static'"),
    ],
)
def test_settings_of_the_mixture_that_cannot_work_are_refused(changes, message):
    with pytest.raises(DataError, match=message):
        mixture(**changes)


@pytest.mark.parametrize(
    ("settings", "changes", "message"),
    [
        (
            {"proportions": {"a": 0.5, "x": 0.5}},
            {},
            r"data\.mixture\.proportions=.*lacks b, c;.*has x besides",
        ),
        ({"references": {"a": 1.0, "b": 1.0}}, {}, r"data\.mixture\.references=.*lacks c"),
        ({"update_every_steps": 7}, {}, r"max_steps=100 is no multiple.*=7.*max_steps=98"),
        ({"minimum": {"x": 0.0}}, {}, r"data\.mixture\.minimum=.* names x"),
        ({"maximum": {"x": 1.0}}, {}, r"data\.mixture\.maximum=.* names x"),
        ({"max_epochs": {"x": 1}}, {}, r"data\.mixture\.max_epochs=.* names x"),
        ({"proportions": "nowhere"}, {}, r"data\.mixture\.proportions='nowhere' cannot be read"),
        ({}, {"global_batch": 9}, r"data\.global_batch=9"),
        ({}, {"split": "nothing"}, r"data\.split='nothing'"),
        ({}, {"directory": "nowhere"}, r"data\.directory='nowhere'"),
    ],
)
def test_settings_that_do_not_fit_each_other_are_refused(prepared, settings, changes, message):
    directory = changes.pop("directory", prepared)
    with pytest.raises(DataError, match=message):
        data(directory, mixture(**settings), **changes).check(world_size=2, max_steps=100)


def test_references_are_read_from_their_file(prepared, tmp_path):
    path = tmp_path / "references.yaml"
    write_references(path, References(source="m", tokenizer="f" * 64, losses=LOSSES))
    assert data(prepared, mixture(references=str(path))).references.tolist() == [2.0, 1.0, 1.5]
    write_references(path, References(source="m", tokenizer="e" * 64, losses=LOSSES))
    with pytest.raises(DataError, match="two tokenizers"):
        data(prepared, mixture(references=str(path))).setup("fit")


def test_settings_read_from_yaml_and_flags_have_help(prepared, tmp_path, capsys):
    parser = ArgumentParser(exit_on_error=False)
    parser.add_argument("--config", action="config")
    parser.add_class_arguments(DomainData, "data")
    config = tmp_path / "config.yaml"
    config.write_text(
        f"data:\n  directory: {prepared}\n  mixture:\n    proportions: {{a: 0.5, b: 0.25, c: 0.25}}\n"
        "    references: {a: 1, b: 1, c: 1}\n    rule: release\n"
    )
    parsed = parser.parse_args(["--config", str(config), "--data.mixture.rule", "static", "--data.seed", "3"])
    module = parser.instantiate(parsed).data
    assert module.mixture.rule == "static" and module.seed == 3 and module.mixture.floor == "rule"
    assert "Sequences of one optimizer step" in parser.format_help()


@pytest.mark.parametrize(
    ("flag", "value"),
    [
        ("max_epochs=2", 2.0),
        ("max_epochs={a: 1.5, b: 2}", {"a": 1.5, "b": 2.0}),
        ("max_epochs=null", None),
        ("minimum={a: 0.1}", {"a": 0.1}),
        ("maximum={b: 0.6}", {"b": 0.6}),
        ("largest_change=0.05", 0.05),
    ],
)
def test_limits_are_read_from_flags_in_each_of_their_forms(prepared, flag, value):
    parser = ArgumentParser(exit_on_error=False)
    parser.add_class_arguments(DomainData, "data")
    flags = [f"--data.directory={prepared}", f"--data.mixture.proportions={PROPORTIONS}"]
    flags += [f"--data.mixture.references={LOSSES}", f"--data.mixture.{flag}"]
    module = parser.instantiate(parser.parse_args(flags)).data
    assert getattr(module.mixture, flag.partition("=")[0]) == value
    module.check(world_size=1, max_steps=50)


def test_update_follows_the_rule_of_the_paper(prepared):
    module = data(prepared)
    module.training_loader(steps=STEPS)
    weights = module.update_mixture({"a": 2.5, "b": 0.5, "c": 1.5})
    expected = update_weights(
        *(torch.tensor(v, dtype=torch.float64) for v in ([0.25, 0.5, 0.25], [2.5, 0.5, 1.5], [2.0, 1, 1.5]))
    )
    assert list(weights.values()) == pytest.approx(expected.tolist(), rel=1e-12) and weights == module.weights


def test_update_takes_a_tensor_a_missing_domain_and_a_weight_of_zero(prepared):
    settings = mixture(proportions={"a": 0.5, "b": 0.5, "c": 0.0})
    first, second = data(prepared, settings), data(prepared, settings)
    first.training_loader(steps=STEPS), second.training_loader(steps=STEPS)
    by_name = first.update_mixture({"a": 2.5})
    as_tensor = second.update_mixture(torch.tensor([2.5, 1.0, math.nan]))
    assert by_name == as_tensor and by_name["c"] == 0


def test_update_with_a_loss_that_is_not_finite_or_of_no_domain_is_refused(prepared):
    module = data(prepared)
    module.training_loader(steps=STEPS)
    with pytest.raises(DataError, match="domain 'b' is nan"):
        module.update_mixture({"b": math.nan})
    with pytest.raises(DataError, match="unknown domains: x"):
        module.update_mixture({"x": 1.0})
    assert module.weights == PROPORTIONS and module.updated_at_step == -1


def test_static_mixture_needs_no_references_and_stays(prepared):
    module = data(prepared, mixture(rule="static", references=None))
    module.training_loader(steps=STEPS)
    assert module.update_mixture(LOSSES) == PROPORTIONS


def test_a_run_may_begin_with_the_last_mixture_of_another(prepared, tmp_path):
    """One line of configuration, read as a string from YAML and flags."""
    final = {"a": 0.125, "b": 0.375, "c": 0.5}
    changes = (
        MixtureChange(step=0, weights=PROPORTIONS, losses=None),
        MixtureChange(step=2, weights=final, losses=LOSSES),
    )
    log = MixtureLog(domains=("a", "b", "c"), global_batch=8, sequence_length=4, updates=changes)
    write_mixture_log(tmp_path / "mixture.json", log)
    parser = ArgumentParser(exit_on_error=False)
    parser.add_class_arguments(DomainData, "data")
    flags = [f"--data.directory={prepared}", "--data.mixture.rule=static", "--data.global_batch=8"]
    flags.append(f"--data.mixture.proportions={tmp_path / 'mixture.json'}")
    module = parser.instantiate(parser.parse_args(flags)).data
    module.check(world_size=1, max_steps=50)
    assert module.weights == final
    module.training_loader(steps=STEPS)
    assert module.update_mixture(LOSSES) == final


def test_the_last_mixture_of_another_run_meets_the_bounds_of_this_one(prepared, tmp_path):
    log = MixtureLog(domains=("a", "b", "c"), global_batch=8, sequence_length=4)
    change = MixtureChange(step=0, weights=PROPORTIONS, losses=None)
    write_mixture_log(tmp_path / "mixture.json", log.followed_by(change))
    module = data(prepared, mixture(proportions=str(tmp_path), maximum={"b": 0.4}))
    with pytest.raises(DataError, match=r"b: 0\.5 lies outside"):
        module.check(world_size=2, max_steps=100)


def test_updates_stay_within_bounds_and_change(prepared):
    settings = mixture(maximum={"a": 0.4}, minimum={"c": 0.2}, largest_change=0.1)
    module = data(prepared, settings)
    module.training_loader(steps=STEPS)
    seen = [module.update_mixture({"a": 5.0, "b": 2.5, "c": 1.5}) for _ in range(3)]
    assert [weights["a"] for weights in seen] == pytest.approx([0.35, 0.4, 0.4])
    assert [weights["c"] for weights in seen] == pytest.approx([0.2, 0.2, 0.2], abs=0.01)
    assert all(sum(weights.values()) == pytest.approx(1) for weights in seen)


def without_text(module, name):
    """``module`` as if nothing of a domain had come through preparation."""
    record = module.manifest.domains[name]
    nothing = {split: replace(part, chunks=()) for split, part in record.splits.items()}
    domains = module.manifest.domains | {name: replace(record, splits=nothing)}
    module.manifest = replace(module.manifest, domains=domains)
    return module


def test_domain_without_text_is_legal_where_it_has_no_weight(prepared):
    """In training and in validation: nothing is drawn, measured or moved, and all else goes on."""
    module = without_text(data(prepared, mixture(proportions={"a": 0.5, "b": 0.0, "c": 0.5})), "b")
    module.check(world_size=2, max_steps=100)
    drawn = {int(domain) for batch in module.training_loader(steps=2) for domain in batch["domain"]}
    validated = {int(domain) for batch in module.validation_loader() for domain in batch["domain"]}
    assert drawn == {0, 2} and validated - {-1} == {0, 2}
    assert module.epochs["b"] == 0 == module.update_mixture(torch.tensor([2.5, math.nan, 1.0]))["b"]
    with pytest.raises(DataError, match=r"'b' has no validation sequence.*proportion of 0"):
        without_text(data(prepared), "b").check(world_size=2, max_steps=100)
    with pytest.raises(DataError, match=r"b: 0\.5\}: the domain has no sequence"):
        without_text(data(prepared, mixture(rule="static")), "b").check(world_size=2, max_steps=100)


def test_progress_is_told_by_domain(prepared):
    module = data(prepared)
    loader = iter(module.training_loader(steps=STEPS))
    assert module.sequences_drawn == {"a": 0, "b": 0, "c": 0}
    for _ in range(4):
        next(loader)
    assert module.sequences_drawn == {"a": 2, "b": 4, "c": 2} and module.tokens_seen["b"] == 16
    assert module.epochs["b"] == pytest.approx(0.1)


def test_state_of_a_run_is_small_however_many_updates_it_had(prepared):
    module = data(prepared)
    for _ in module.training_loader(steps=60):
        if module.update_due:
            module.update_mixture({"a": 2.01, "b": 1.02, "c": 1.5})
    assert module.updated_at_step == 60
    assert len(json.dumps(module.state_dict())) < 1024


def test_replaying_the_log_of_weights_gives_the_same_state(prepared, tmp_path):
    """Written, read and replayed: the log and the settings are all that the order of a run depends on."""
    module = data(prepared, mixture(max_epochs={"a": 1.5}))
    loader = module.training_loader(steps=20)
    log = MixtureLog(domains=module.domains, global_batch=8, sequence_length=4)
    log = log.followed_by(MixtureChange(step=0, weights=module.weights, losses=None))
    for _ in loader:
        if module.update_due:
            step = loader.state.batch
            module.update_mixture({"a": 2.0, "b": 1.0 + 0.05 * (step % 3), "c": 1.5 + 0.02 * step})
            log = log.followed_by(MixtureChange(step=step, weights=module.weights, losses=None))
    write_mixture_log(tmp_path / "mixture.json", log)

    log = read_mixture_log(tmp_path)
    changes = {change.step: [change.weights[name] for name in log.domains] for change in log.updates}
    plan = data(prepared, mixture(max_epochs={"a": 1.5})).schedule
    state = plan.start(changes[0])
    for step in range(20):
        state = plan.reweighted(state, changes[step]) if step in changes else state
        _, state = plan.next_batch(state)
    assert plan.reweighted(state, changes[20]) == loader.state
    assert loader.state.exhausted == (True, False, False)


def test_an_update_is_due_once_at_each_boundary(prepared):
    for at_start in (False, True):
        module = data(prepared, mixture(update_at_start=at_start))
        assert not module.update_due
        due = []
        loader = module.training_loader(steps=4)
        due.append(module.update_due)
        for _ in loader:
            due.append(module.update_due)
            if module.update_due:
                module.update_mixture(LOSSES)
                assert not module.update_due
        assert due == [at_start] + ([False] * 7 + [True]) * 2


def test_state_of_other_data_is_refused(prepared, tmp_path):
    first = data(prepared)
    first.training_loader(steps=STEPS)
    saved = first.state_dict() | {"data": "e" * 64}
    again = data(prepared)
    again.load_state_dict(saved)
    with pytest.raises(DataError, match=r"data\.directory=.*not the data of the checkpoint"):
        again.training_loader(steps=STEPS)


class Recorder(LightningModule):
    """Learns nothing; keeps what it was given."""

    def __init__(self):
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(1))
        self.seen = []

    def training_step(self, batch, index):
        self.seen += [(int(t[0]), int(t[1])) for t in batch["tokens"]]
        return self.weight.sum()

    def validation_step(self, batch, index):
        pass

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.1)


class MovesTheMixture(Callback):
    """What the training room's callback does, in short."""

    def on_train_start(self, trainer, module):
        if trainer.datamodule.update_due:
            self.on_validation_end(trainer, module)

    def on_validation_end(self, trainer, module):
        if not trainer.sanity_checking:
            step = trainer.global_step
            trainer.datamodule.update_mixture({"a": 2.0 + 0.2 * step, "b": 1.0, "c": 1.5 + 0.1 * (step % 3)})


class ForgetsTheUpdate(MovesTheMixture):
    """The broken twin: a checkpoint from before a validation loses that validation's update."""

    def on_train_start(self, trainer, module):
        pass


class Stops(Callback):
    def __init__(self, micro_batches):
        self.left = micro_batches

    def on_train_batch_end(self, trainer, *_):
        self.left -= 1
        if self.left == 0:
            raise KeyboardInterrupt


def fit(directory, folder, *, stop=None, resume=None, workers=0, moves=MovesTheMixture):
    model, module = Recorder(), data(directory, workers=workers)
    callbacks = [moves()]
    callbacks += [ModelCheckpoint(folder, filename="{step}", every_n_train_steps=1, save_top_k=-1)]
    callbacks += [Stops(stop)] if stop else []
    trainer = Trainer(
        accelerator="cpu",
        devices=1,
        max_steps=STEPS,
        accumulate_grad_batches=4,
        val_check_interval=EVERY * 4,
        check_val_every_n_epoch=None,
        num_sanity_val_steps=0,
        logger=False,
        callbacks=callbacks,
        use_distributed_sampler=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    try:
        trainer.fit(model, module, ckpt_path=resume)
    except (KeyboardInterrupt, SystemExit):
        assert stop
    return model.seen, module


@pytest.fixture(scope="module")
def uninterrupted(prepared, tmp_path_factory):
    return fit(prepared, tmp_path_factory.mktemp("whole"))


def test_a_run_of_lightning_sees_every_batch_once_and_moves_the_mixture(uninterrupted):
    seen, module = uninterrupted
    assert len(seen) == STEPS * 8 and module.updated_at_step == STEPS
    assert module.weights["a"] > 0.4


@pytest.mark.filterwarnings(
    "ignore:Checkpoint directory .* exists and is not empty"
)  # resuming in place is the point
@pytest.mark.parametrize("step", [1, 2, 3, 4, 6])
def test_a_run_of_lightning_resumes_exactly_at_and_off_boundaries(prepared, uninterrupted, tmp_path, step):
    """Checkpoints at even steps were written *before* the validation that moves the mixture."""
    expected, whole = uninterrupted
    fit(prepared, tmp_path, stop=step * 4 + 3)
    checkpoint = torch.load(tmp_path / f"step={step}.ckpt", weights_only=True)
    assert json.loads(json.dumps(checkpoint["DomainData"])) == checkpoint["DomainData"]
    seen, module = fit(prepared, tmp_path, resume=tmp_path / f"step={step}.ckpt", workers=step % 2)
    assert seen == expected[step * 8 :] and module.weights == whole.weights


@pytest.mark.filterwarnings(
    "ignore:Checkpoint directory .* exists and is not empty"
)  # resuming in place is the point
def test_a_resume_that_forgets_the_due_update_would_see_other_text(prepared, uninterrupted, tmp_path):
    fit(prepared, tmp_path, stop=19)
    seen, _ = fit(prepared, tmp_path, resume=tmp_path / "step=4.ckpt", moves=ForgetsTheUpdate)
    assert seen != uninterrupted[0][4 * 8 :]


@pytest.mark.parametrize("rule", ["paper", "odm"])
def test_ranks_have_the_mixture_of_the_first_though_a_loss_differs_in_its_last_bit(prepared, rule):
    """What two processes get from their own sums; without the agreement they part."""

    def moved(losses, agreed):
        each = data(prepared, mixture(rule=rule, **({} if rule == "paper" else {"references": None})))
        run = iter(each.training_loader(steps=STEPS))
        for _ in range(EVERY * 4):
            next(run)
        each.update_mixture(losses, agreed)
        return each.weights, each.state_dict()["rule"]

    first = {"a": 2.5, "b": 1.5, "c": 2.0}
    other = {name: math.nextafter(loss, 9 if name == "a" else -9) for name, loss in first.items()}
    told = []
    ours = moved(first, lambda value: told.append(value) or value)
    assert moved(other, lambda value: told[0]) == ours
    assert moved(other, lambda value: value) != ours
