"""The mixture follows the losses of each validation, and holds for the steps until the next."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM

from shear_lit.data.order.mixture import MixtureSettings
from shear_lit.data.order.mixture_log import read_mixture_log
from shear_lit.data.serving.datamodule import DomainData
from shear_lit.data.serving.remote import read_prepared
from shear_lit.theory.online_mixture import OdmState, Seen, odm_update
from shear_lit.training import checks
from shear_lit.training.errors import RunError
from tests.toy import DOMAINS, LENGTH
from tests.training.forks import run
from tests.training.runs import fit

REFERENCES = np.array([2.0, 2.5, 3.0])
START = np.array([0.5, 0.3, 0.2])
STATIC = ("--data.mixture.rule=static", "--data.mixture.references=null")


def weights(mixture):
    return np.array([mixture[domain] for domain in DOMAINS])


@pytest.mark.parametrize(("stage", "steps"), [("prune", [4, 8, 12]), ("pretrain", [0, 4, 8, 12])])
def test_mixture_moves_after_each_validation(whole, stage, steps):
    """w exp(max(0, loss - reference)), normalised (arXiv:2310.06694, algorithm 1); before step 0 where asked for."""
    (record,) = whole(stage)[1]
    assert list(record["mixtures"]) == steps
    before = START
    for step in steps:
        losses = record["domain_losses"][step].numpy()
        expected = before * np.exp(np.maximum(0, losses - REFERENCES))
        expected /= expected.sum()
        np.testing.assert_allclose(weights(record["mixtures"][step]), expected, rtol=1e-12)
        before = expected


@pytest.mark.parametrize(("stage", "flags"), [("prune", ()), ("pretrain", ()), ("pretrain", STATIC)])
def test_each_segment_is_drawn_with_the_mixture_before_it(whole, stage, flags):
    """What a domain was given differs from what it should have by less than one sequence at either end."""
    (record,) = whole(stage, *flags)[1]
    mixture = record["mixtures"].get(0, dict(zip(DOMAINS, START, strict=True)))
    for start in (0, 4, 8):
        mixture = record["mixtures"].get(start, mixture)
        drawn = np.zeros(3)
        for (step, _), batch in record["batches"].items():
            if start <= step < start + 4:
                drawn += np.bincount(batch["domain"].numpy(), minlength=3)
        assert drawn.sum() == 32
        assert (np.abs(drawn - 32 * weights(mixture)) < 2).all()


@pytest.mark.parametrize("stage", ["prune", "pretrain"])
def test_log_of_a_run_holds_each_mixture_and_the_losses_it_followed(whole, stage):
    folder, (record,) = whole(stage)
    log = read_mixture_log(folder)
    assert (log.domains, log.global_batch, log.sequence_length) == (DOMAINS, 8, LENGTH)
    assert [change.step for change in log.updates] == [0, 4, 8, 12]
    if stage == "prune":
        assert log.updates[0].losses is None and log.updates[0].weights == dict(
            zip(DOMAINS, START, strict=True)
        )
    for change in log.updates[stage == "prune" :]:
        assert change.weights == record["mixtures"][change.step]
        assert list(change.losses.values()) == record["domain_losses"][change.step].tolist()


def test_run_begins_with_the_last_mixture_of_another_in_one_line(toy, whole, tmp_path):
    folder, _ = whole("prune")
    flags = [*STATIC, f"--data.mixture.proportions={folder}", "--trainer.max_steps=4"]
    (record,) = run(fit, tmp_path / "log", arguments=[*toy.arguments("pretrain", tmp_path / "run"), *flags])
    final = read_mixture_log(folder).final_weights
    assert final != dict(zip(DOMAINS, START, strict=True))
    assert all(mixture == final for mixture in record["mixtures"].values()) and 4 in record["mixtures"]


def test_log_goes_back_with_a_resume_and_keeps_what_followed(toy, tmp_path):
    """A second attempt from step 4 on, with other references, beside the first one's log."""
    arguments = toy.arguments("pretrain", tmp_path / "run")
    run(fit, tmp_path / "first", arguments=[*arguments, "--trainer.max_steps=8"])
    before = read_mixture_log(tmp_path / "run")
    checkpoint = tmp_path / "run" / "checkpoints" / "step=000006.ckpt"
    flags = [f"--ckpt_path={checkpoint}", "--data.mixture.references={code: 0.5, law: 2.5, wiki: 3.0}"]
    (record,) = run(fit, tmp_path / "second", arguments=[*arguments, *flags])
    after = read_mixture_log(tmp_path / "run")
    assert after.up_to(4, 4) == before.up_to(4, 4) and [change.step for change in after.updates] == [
        0,
        4,
        8,
        12,
    ]
    assert after.updates[2].weights == record["mixtures"][8] != before.updates[2].weights
    assert read_mixture_log(tmp_path / "run" / "mixture-2.json") == before


def test_static_mixture_stays(whole):
    (record,) = whole("pretrain", *STATIC)[1]
    for mixture in record["mixtures"].values():
        np.testing.assert_array_equal(weights(mixture), START)


BY_TRAINING = (
    "--data.mixture.references=null",
    "--data.mixture.update_at_start=false",
    "--data.mixture.update_every_steps=2",
)


def followed(folder):
    return {change.step: (change.losses, change.weights) for change in read_mixture_log(folder).updates}


def losses_of_source(toy, record, first, last):
    """Of each domain, over the micro-batches of some steps, by transformers on the source."""
    model = AutoModelForCausalLM.from_pretrained(toy.source(), dtype=torch.float64)
    sums, counts = np.zeros(3), np.zeros(3)
    for (step, _), batch in record["batches"].items():
        if first <= step < last:
            for tokens, domain in zip(batch["tokens"], batch["domain"].tolist(), strict=True):
                with torch.no_grad():
                    loss = model(tokens[None], labels=tokens[None]).loss
                sums[domain] += float(loss) * (len(tokens) - 1)
                counts[domain] += len(tokens) - 1
    return sums / counts


@pytest.mark.parametrize(
    "strategy",
    [pytest.param((), marks=pytest.mark.nightly), ("--trainer.strategy=ddp",)],
    ids=["one process", "two"],
)
def test_bandit_follows_the_losses_of_training(toy, tmp_path, strategy):
    """Weights that hardly learn have the source's losses; a run that is resumed between two moves ends alike."""
    flags = [*BY_TRAINING, "--data.mixture.rule=odm", "--model.optimizer.weights_learning_rate=1e-12"]
    flags += [*strategy, "--checkpoint.every_steps=3", "--checkpoint.keep=-1"]
    flags += ["--trainer.devices=2"] if strategy else []
    arguments = [*toy.arguments("pretrain", tmp_path / "run"), *flags]
    records = run(fit, tmp_path / "log", arguments=arguments, processes=2 if strategy else 1)
    log = followed(tmp_path / "run")
    batches = {key: value for record in records for key, value in record["batches"].items()}
    weights, state = torch.tensor(START), OdmState(rewards=(0.0,) * 3)
    for step in range(2, 13, 2):
        losses, found = log[step]
        expected = losses_of_source(toy, {"batches": batches}, step - 2, step)
        np.testing.assert_allclose(list(losses.values()), expected, rtol=1e-5)
        seen = Seen(
            losses=torch.tensor(list(losses.values()), dtype=torch.float64),
            shares=torch.zeros(3, dtype=torch.float64),
            step=step,
            sequences=0,
        )
        weights, state = odm_update(weights, state, seen)
        np.testing.assert_allclose(list(found.values()), weights.numpy(), rtol=1e-12)

    again = [*arguments, f"--ckpt_path={tmp_path / 'run' / 'checkpoints' / 'step=000003.ckpt'}"]
    again[again.index(f"--trainer.default_root_dir={tmp_path / 'run'}")] = (
        f"--trainer.default_root_dir={tmp_path / 'again'}"
    )
    run(fit, tmp_path / "log-again", arguments=again, processes=2 if strategy else 1)
    resumed = followed(tmp_path / "again")
    assert {step: log[step] for step in range(4, 13, 2)} == {step: resumed[step] for step in range(4, 13, 2)}


@pytest.mark.nightly
def test_laws_of_losses_move_the_mixture_when_there_are_enough(toy, tmp_path):
    flags = [*BY_TRAINING, "--data.mixture.rule=ado", "--data.mixture.update_every_steps=1"]
    (record,) = run(fit, tmp_path / "log", arguments=[*toy.arguments("pretrain", tmp_path / "run"), *flags])
    log = followed(tmp_path / "run")
    assert all(log[step][1] == log[0][1] for step in range(1, 10)) and log[10][1] != log[0][1] != log[12][1]
    assert len(record["data"]["rule"]["points"]) == 12


def losses_that_differ_between_processes():
    """As sums may, but by more than the last bit."""
    move = DomainData.update_mixture

    def with_own(self, losses, *agreed):
        return move(self, losses * (1 + 0.01 * self.trainer.global_rank), *agreed)

    DomainData.update_mixture = with_own


def test_all_processes_have_the_mixture_of_the_first(toy, tmp_path):
    """Where they part, they draw other sequences, and a global batch has some twice."""
    arguments = [*toy.arguments("pretrain", tmp_path / "run"), "--trainer.max_steps=4"]
    arguments += ["--trainer.strategy=ddp", "--trainer.devices=2", "--data.mixture.update_at_start=true"]
    first, other = run(
        fit,
        tmp_path / "log",
        arguments=arguments,
        processes=2,
        sabotage=losses_that_differ_between_processes,
    )
    assert first["mixtures"] == other["mixtures"] and len(first["mixtures"]) > 1
    assert len({tuple(mixture.values()) for mixture in first["mixtures"].values()}) > 1


def test_global_batch_may_change_at_a_resume(toy, tmp_path):
    """From 8 to 16 sequences: said, written down, kept by a further resume, and met by the batches."""
    folder = tmp_path / "run"
    arguments = [
        *toy.arguments("pretrain", folder),
        "--checkpoint.every_steps=2",
        "--checkpoint.keep=-1",
        *STATIC,
    ]
    run(fit, tmp_path / "first", arguments=[*arguments, "--trainer.max_steps=8"])
    wider = [*arguments, "--data.global_batch=16"]
    (record,) = run(
        fit,
        tmp_path / "second",
        arguments=[*wider, f"--ckpt_path={folder / 'checkpoints' / 'step=000006.ckpt'}"],
    )
    assert "data.global_batch is 16 from step 6 on, and was 8" in (tmp_path / "second" / "0.log").read_text()
    counts = {step: 0 for step, _ in record["batches"]}
    for (step, _), batch in record["batches"].items():
        counts[step] += len(batch["domain"])
    assert counts == dict.fromkeys(range(6, 12), 16)
    drawn = np.array([record["data"]["loader"]["drawn"]]).ravel()
    assert drawn.sum() == 6 * 8 + 6 * 16 and (np.abs(drawn - drawn.sum() * START) < 2).all()
    run(
        fit,
        tmp_path / "third",
        arguments=[*wider, f"--ckpt_path={folder / 'checkpoints' / 'step=000010.ckpt'}"],
    )
    log = read_mixture_log(folder)
    assert (log.global_batch, log.present_batch) == (8, 16)
    assert [(change.step, change.global_batch) for change in log.updates if change.global_batch] == [(6, 16)]


def test_caps_count_what_was_read_in_batches_of_another_size(toy):
    """Six steps of 8 and six of 16 are 144 sequences, where twelve of 16 would be 192."""
    sizes = read_prepared(str(toy.data)).chunk_sizes("pretrain")
    proportions = dict(zip(DOMAINS, START.tolist(), strict=True))

    def data(sequences):
        cap = (sequences + 3) / sum(
            map(sum, sizes.values())
        )  # of each domain, a part of a sequence is not read
        mixture = MixtureSettings(
            proportions=proportions, rule="static", max_epochs=cap, update_every_steps=2
        )
        return DomainData(str(toy.data), mixture, split="pretrain", global_batch=16)

    facts = SimpleNamespace(step=6, tokens=48 * LENGTH)
    checks._check_epochs(data(144), 12, facts)
    with pytest.raises(RunError, match=r"trainer\.max_steps=12.*Use trainer\.max_steps=8"):
        checks._check_epochs(data(144), 12, None)
    with pytest.raises(RunError, match=r"trainer\.max_steps=14.*Use trainer\.max_steps=12"):
        checks._check_epochs(data(144), 14, facts)
