"""Adapters: nothing else learns, processes and resumes agree, and an export computes what they add."""

import os

import pytest
import torch
from transformers import AutoModelForCausalLM

from shear_lit.commands.export import export
from shear_lit.models.adapters import (
    AdapterError,
    Lora,
    attach_adapters,
    check_adapters,
    linear_layers,
    merged,
)
from shear_lit.models.huggingface import read_config
from shear_lit.models.registry import tensor_sizes
from shear_lit.training.checkpoints import read_facts
from tests import tiny
from tests.toy_families import ONE_OF_EACH, model_of
from tests.training.compare import distances, same_order
from tests.training.masked import write_masked
from tests.training.test_resume import differences
from tests.training.test_tuning import APART, FSDP2, TOLERANCE, WHOLE, tuned

peft = pytest.importorskip("peft", reason="it attaches adapters: pip install shear-lit[lora]")
EVERY_FAMILY = os.environ.get("SHEAR_LIT_TUNE") == "all"
ADAPTERS = ("--model.lora.rank=2", "--model.lora.alpha=8", "--model.lora.dropout=0.2")


@pytest.fixture(scope="module")
def flags(toy, tmp_path_factory):
    """Of runs on one domain, as conversations often are."""
    data = write_masked(toy.data, tmp_path_factory.mktemp("single") / "data", domains=("wiki",))
    mixture = ("--data.mixture.proportions={wiki: 1}", "--data.mixture.references={wiki: 3}")
    return (f"--data.directory={data}", *mixture, APART, *ADAPTERS)


@pytest.fixture
def adapted(whole, flags):
    return whole("pretrain", *flags)


def test_nothing_but_adapters_learns(toy, adapted):
    _, (record,) = adapted
    before = AutoModelForCausalLM.from_pretrained(toy.source()).state_dict()
    names = record["parameters"].keys()
    assert {name.partition(".lora_")[0] for name in names if ".lora_" in name} == {
        f"model.{name}" for name in linear_layers(read_config(str(toy.source())))
    }
    for name, parameter in record["parameters"].items():
        if ".lora_" in name:
            assert bool(parameter.any()), name
        else:
            stock = name.removeprefix("model.").replace(".base_layer.", ".")
            assert torch.equal(parameter, before[stock]), name
    assert all(".lora_" in name for name in record["moments"])


@WHOLE
def test_two_processes_compute_what_one_does(toy, tmp_path, adapted, flags):
    """What adapters drop is the same wherever a micro-batch is computed."""
    several = tuned(toy, tmp_path, *flags, *FSDP2, processes=2)
    assert same_order(adapted[1], several)
    found = distances(adapted[1], several)
    assert max(found.values()) <= TOLERANCE, found


def dropping_by_lot():
    from contextlib import nullcontext

    from shear_lit.training import module

    module.drawn_by = lambda key, device: nullcontext()


@pytest.mark.parametrize(
    "sabotage", [None, pytest.param(dropping_by_lot, marks=WHOLE)], ids=["as it is", "twin"]
)
def test_run_goes_on_bitwise(toy, tmp_path, adapted, flags, sabotage):
    folder, uninterrupted = adapted
    checkpoint = folder / "checkpoints" / "step=000006.ckpt"
    resumed = tuned(toy, tmp_path, *flags, f"--ckpt_path={checkpoint}", sabotage=sabotage)
    assert bool(differences(uninterrupted[0], resumed[0], 6)) == (sabotage is not None)


def test_export_computes_what_adapters_do_beside_the_weights(toy, tmp_path, adapted):
    folder, (record,) = adapted
    checkpoint = folder / "checkpoints" / "step=000012.ckpt"
    export(checkpoint=str(checkpoint), output=str(tmp_path / "hf"))
    network = AutoModelForCausalLM.from_pretrained(toy.source())
    attach_adapters(network, Lora(rank=2, alpha=8, dropout=0.2), seed=0)
    state = {name.removeprefix("model."): tensor for name, tensor in record["parameters"].items()}
    network.load_state_dict({**state, "lm_head.weight": state["model.embed_tokens.weight"]})
    tokens = torch.randint(300, (2, 20), generator=torch.Generator().manual_seed(0))
    written = AutoModelForCausalLM.from_pretrained(tmp_path / "hf")
    with torch.inference_mode():
        attached, found = network.eval()(tokens).logits, written(tokens).logits
        plain = AutoModelForCausalLM.from_pretrained(toy.source())(tokens).logits
    scale = float(attached.abs().max())
    assert float((attached - found).abs().max()) <= 1e-5 * scale
    assert float((attached - plain).abs().max()) > 1e-3 * scale, "the adapters do nothing"
    assert read_facts(checkpoint).lora == {"rank": 2, "alpha": 8.0, "dropout": 0.2, "targets": "all"}
    assert "adapters of rank 2" in (tmp_path / "hf" / "README.md").read_text()


@pytest.mark.parametrize("form", ONE_OF_EACH if EVERY_FAMILY else ONE_OF_EACH[::3], ids=str)
def test_merged_weights_are_those_of_peft_in_every_family(form):
    lora, ids = Lora(rank=3, alpha=5), torch.arange(8)[None]
    network = model_of(form, dtype=torch.float32)
    attach_adapters(network, lora, seed=1)
    generator = torch.Generator().manual_seed(2)
    for name, parameter in network.named_parameters():
        if ".lora_B." in name:
            parameter.data.normal_(0, 0.1, generator=generator)
    attached = network(ids).logits.detach()
    found = merged({name: parameter.detach() for name, parameter in network.named_parameters()}, lora)
    for name in linear_layers(network.config):
        layer = network.get_submodule(name)
        layer.merge()
        assert torch.allclose(found[f"{name}.weight"], layer.base_layer.weight, rtol=0, atol=1e-6)
    assert found.keys() == tensor_sizes(network.config).keys()
    assert float((network(ids).logits.detach() - attached).abs().max()) <= 1e-5 * float(attached.abs().max())


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        (
            dict(targets=["q_proj", "head"]),
            r"model.lora.targets=.*'head' is no linear layer of the blocks, which are",
        ),
        (dict(targets=[]), "no layer would get an adapter"),
        (dict(dropout=1.0), "nothing would be left"),
    ],
)
def test_adapters_that_cannot_be_attached_are_refused(settings, words):
    with pytest.raises(AdapterError, match=words) as found:
        check_adapters(Lora(**settings), tiny.config())
    assert "\n" not in str(found.value)
