"""Tuning on data of which not every token is predicted: the same on several processes, and after a resume."""

import os

import pytest
import torch
from transformers import AutoModelForCausalLM

from shear_lit.data.order.permutation import sample
from shear_lit.data.serving.store import SequenceStore
from shear_lit.training import module
from tests.training.compare import distances, same_order
from tests.training.forks import run
from tests.training.masked import write_masked
from tests.training.runs import fit
from tests.training.test_resume import differences

TOLERANCE = 1e-5
FSDP2 = ("--trainer.strategy=fsdp2", "--trainer.devices=2")
WHOLE = pytest.mark.skipif(os.environ.get("SHEAR_LIT_TUNE") != "all", reason="make tune runs it")
"""What takes too long for every time that tests are run."""
APART = "--data.cross_document_attention=false"


@pytest.fixture(scope="module")
def masked(toy, tmp_path_factory):
    """The flag that names the data."""
    return f"--data.directory={write_masked(toy.data, tmp_path_factory.mktemp('masked') / 'data')}"


def tuned(toy, tmp_path, *flags, processes=1, **options):
    arguments = [*toy.arguments("pretrain", tmp_path / "run"), *flags]
    return run(fit, tmp_path / "log", processes=processes, arguments=arguments, **options)


def test_two_processes_compute_what_one_does_where_tokens_are_masked(toy, tmp_path, whole, masked):
    """Micro-batches predict different numbers of tokens: the objective is that of the global batch."""
    _, one = whole("pretrain", masked, APART)
    several = tuned(toy, tmp_path, masked, APART, *FSDP2, processes=2)
    assert same_order(one, several)
    found = distances(one, several)
    assert max(found.values()) <= TOLERANCE, found


def counting_for_itself():
    """Divide by what the process's own micro-batches predict."""
    module.ShearingModule.sum_over_ranks = lambda self, total: total * self.trainer.world_size


@WHOLE
def test_twin_that_counts_its_own_tokens_alone_is_seen(toy, tmp_path, whole, masked):
    _, one = whole("pretrain", masked, APART)
    several = tuned(toy, tmp_path, masked, APART, *FSDP2, processes=2, sabotage=counting_for_itself)
    assert max(distances(one, several).values()) > TOLERANCE


def test_validation_is_of_the_tokens_that_are_predicted(toy, whole, masked):
    """The last loss by domain is that of the weights at the end, on unmasked tokens alone."""
    _, (record,) = whole("pretrain", masked, APART)
    network = AutoModelForCausalLM.from_pretrained(toy.source())
    state = {name.removeprefix("model."): tensor for name, tensor in record["parameters"].items()}
    network.load_state_dict({**state, "lm_head.weight": state["model.embed_tokens.weight"]})
    store = SequenceStore(masked.partition("=")[2], "validation")
    sums, counts = torch.zeros(3), torch.zeros(3)
    for domain, name in enumerate(store.domains):
        keys = [(domain, int(number)) for number in sample(name, store.chunk_sizes[name], 6)]
        batch = store.read(keys, documents_apart=True)
        with torch.inference_mode():
            logits = network(batch["tokens"], position_ids=batch["positions"], use_cache=False).logits[:, :-1]
        wanted = (batch["loss_mask"] & (batch["positions"] > 0))[:, 1:]
        losses = torch.nn.functional.cross_entropy(logits.mT, batch["tokens"][:, 1:], reduction="none")
        sums[domain], counts[domain] = losses[wanted].sum(), wanted.sum()
    torch.testing.assert_close(record["domain_losses"][12].float(), sums / counts, rtol=1e-5, atol=1e-5)


@WHOLE
def test_tuning_goes_on_bitwise(toy, tmp_path, whole, masked):
    folder, uninterrupted = whole("pretrain", masked, APART)
    checkpoint = folder / "checkpoints" / "step=000006.ckpt"
    resumed = tuned(toy, tmp_path, masked, APART, f"--ckpt_path={checkpoint}")
    assert differences(uninterrupted[0], resumed[0], 6) == []
