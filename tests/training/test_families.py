"""Families whose gates do more than LLaMA's: sharded over two processes with checkpointing, they train as in one."""

import pytest
import torch

from shear_lit.models.huggingface import copy_companions
from tests.toy_families import ONE_OF_EACH, model_of
from tests.training.compare import distances
from tests.training.forks import run
from tests.training.runs import fit

FORMS = [form for form in ONE_OF_EACH if form.family in ("olmo2", "gemma3_text", "gpt_neox")]
TOLERANCE = 1e-5
SPREAD = ("--trainer.strategy=fsdp2", "--trainer.devices=2", "--model.gradient_checkpointing=true")


@pytest.mark.parametrize("form", FORMS, ids=str)
def test_two_processes_compute_what_one_does(form, toy, tmp_path):
    source = tmp_path / "source"
    model_of(form, dtype=torch.float32, vocab_size=300).save_pretrained(source)
    copy_companions(str(toy.source()), source)
    target = {f"--model.pruning.target.{axis}={size}" for axis, size in form.target.to_dict().items()}

    def train(name, *flags):
        arguments = toy.arguments("prune", tmp_path / name)
        arguments += [f"--model.source={source}", *target, "--trainer.max_steps=2", *flags]
        processes = 2 if flags else 1
        return run(fit, tmp_path / f"{name}-log", processes=processes, arguments=arguments)

    one, several = train("one"), train("several", *SPREAD)
    found = distances(one, several)
    assert max(found.values()) <= TOLERANCE, found
