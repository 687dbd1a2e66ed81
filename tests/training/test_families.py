"""Families whose gates do more than LLaMA's: sharded over two processes they train as in one, and are exported."""

import pytest
import torch
from transformers import AutoModelForCausalLM, MistralForCausalLM, MixtralConfig

from shear_lit import cli
from shear_lit.commands.export import export
from shear_lit.models.companions import copy_companions
from shear_lit.models.family import FamilyError
from shear_lit.models.registry import family_of
from shear_lit.training.module import ShearingModule
from tests.toy_families import ONE_OF_EACH, model_of
from tests.training.compare import distances
from tests.training.forks import run
from tests.training.runs import fit

FORMS = [
    pytest.param(form, marks=[] if form.family == "gpt_neox" else [pytest.mark.nightly])
    for form in ONE_OF_EACH
    if form.family in ("olmo2", "gemma3_text", "gpt_neox")
]
TOLERANCE = 1e-5
SPREAD = ("--trainer.strategy=fsdp2", "--trainer.devices=2")
CHECKPOINTING = "--model.gradient_checkpointing=true"


@pytest.mark.parametrize("form", FORMS, ids=str)
def test_two_processes_compute_what_one_does_and_the_target_comes_out(form, toy, tmp_path):
    """The model that is cut out of the shards is a stock one of exactly the target.

    Activation checkpointing is on but for GPT-NeoX, whose norms are computed again by themselves.
    """
    source = tmp_path / "source"
    model_of(form, dtype=torch.float32, vocab_size=300).save_pretrained(source)
    copy_companions(str(toy.source()), source)
    target = {f"--model.pruning.target.{axis}={size}" for axis, size in form.target.to_dict().items()}

    def train(name, *flags):
        arguments = toy.arguments("prune", tmp_path / name)
        arguments += [f"--model.source={source}", *target, "--trainer.max_steps=4", *flags]
        processes = 2 if flags else 1
        return run(fit, tmp_path / f"{name}-log", processes=processes, arguments=arguments)

    checkpointing = () if form.family == "gpt_neox" else (CHECKPOINTING,)
    one, several = train("one"), train("several", *SPREAD, *checkpointing)
    found = distances(one, several)
    assert max(found.values()) <= TOLERANCE, found
    (checkpoint,) = (tmp_path / "several" / "checkpoints").glob("step=*4")
    export(str(checkpoint), str(tmp_path / "hf"))
    small = AutoModelForCausalLM.from_pretrained(tmp_path / "hf", trust_remote_code=False)
    assert family_of(small.config).shape == form.target
    assert type(small).__name__ == AutoModelForCausalLM.from_pretrained(source).__class__.__name__


def test_llama_trained_towards_a_shape_of_mistral_comes_out_as_mistral(toy, tmp_path, capsys):
    """Its hidden size is none of llama's; stage 2 and an evaluation would read what stock transformers reads here."""
    flags = ["--model.pruning.target.hidden=25", "--model.pruning.write_as=mistral", "--trainer.max_steps=4"]
    with pytest.raises(SystemExit):
        cli.main([*toy.arguments("prune", tmp_path / "refused"), flags[0]])
    assert "or write the model as mistral" in capsys.readouterr().err
    cli.main([*toy.arguments("prune", tmp_path / "run"), *flags])
    result = export(str(tmp_path / "run" / "checkpoints" / "step=000004.ckpt"), str(tmp_path / "hf"))
    assert result.gated_difference <= 1e-5
    small = AutoModelForCausalLM.from_pretrained(tmp_path / "hf", trust_remote_code=False)
    assert isinstance(small, MistralForCausalLM) and small.config.hidden_size == 25


def test_model_without_a_table_is_refused_before_any_weight_is_read(tmp_path):
    """There are none."""
    MixtralConfig().save_pretrained(tmp_path)
    with pytest.raises(FamilyError, match="num_local_experts=8"):
        ShearingModule(str(tmp_path))
