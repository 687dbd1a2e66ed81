"""What only a CUDA device can show: `make gpu` runs this where there is one."""

import re

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM

from shear_lit.commands.compare import compare
from shear_lit.commands.export import export
from shear_lit.commands.rank import rank
from shear_lit.theory.shape import ModelShape
from tests.toy import DOMAINS
from tests.training.compare import batches
from tests.training.forks import run
from tests.training.runs import fit
from tests.without import hide_accelerate

pytestmark = pytest.mark.gpu

CUDA = "--trainer.accelerator=cuda"
MIXED = "--trainer.precision=bf16-mixed"
FSDP2 = "--trainer.strategy=fsdp2"
ORDERED = ["--model.pruning.initial_gap=3", "--model.pruning.initial_log_alpha=4.605170185988092"]
SHORT = ["--trainer.max_steps=1", "--data.mixture.update_every_steps=1", "--model.optimizer.warmup_steps=0"]
TINY_RATIO = 1e-3
"""Of losses in float32: kernels add in other orders, and matrices of a toy have at most 300 columns."""
ROUNDING = 0.02
"""Of losses in bfloat16, whose relative spacing is 1/128; as between bfloat16 and float32 on a CPU."""


def started(toy, folder, stage, *flags):
    arguments = [*toy.arguments(stage, folder / "run"), *flags]
    (record,) = run(fit, folder / "log", arguments=arguments, sabotage=hide_accelerate)
    return record


def one_step(toy, folder, stage, *flags):
    short = [*SHORT, *(["--model.pruning.sparsity_warmup_steps=0", *ORDERED] if stage == "prune" else [])]
    return started(toy, folder, stage, *short, *flags)


@pytest.mark.parametrize("strategy", [(), (FSDP2,)], ids=["single device", "fsdp2"])
@pytest.mark.parametrize("stage", ["prune", "pretrain", "beside a teacher"])
@pytest.mark.parametrize(("precision", "most"), [("32-true", TINY_RATIO), ("bf16-mixed", ROUNDING)])
def test_step_on_cuda_is_that_on_the_cpu(toy, tmp_path, strategy, stage, precision, most):
    """Also without accelerate, and with gates that are ordered first: by what the losses of all micro-batches are."""
    flags = [*strategy, f"--trainer.precision={precision}"]
    if stage == "beside a teacher":
        stage, teacher = "pretrain", f"--model.distillation.teacher={toy.source('mha-untied')}"
        flags += [teacher, "--model.distillation.language_weight=0.5"]
    here = one_step(toy, tmp_path / "cpu", stage, *flags)
    there = one_step(toy, tmp_path / "cuda", stage, *flags, CUDA)
    expected, found = batches([here]), batches([there])
    assert expected.keys() == found.keys()
    for key, batch in expected.items():
        assert torch.equal(batch["tokens"], found[key]["tokens"].cpu())
        assert found[key]["loss"] == pytest.approx(batch["loss"], rel=most)
    assert set(there["dtypes"].values()) == {torch.float32}
    assert {parameter.device.type for parameter in there["parameters"].values()} == {"cuda"}
    for step, losses in here["domain_losses"].items():
        torch.testing.assert_close(there["domain_losses"][step], losses, rtol=most, atol=0)


def test_run_on_fsdp2_is_validated_and_exported(toy, tmp_path):
    record = started(toy, tmp_path, "prune", CUDA, FSDP2, MIXED)
    last = tmp_path / "run" / "checkpoints" / "step=000012"
    arguments = ["validate", *toy.arguments("prune", tmp_path / "run")[1:], CUDA, FSDP2, MIXED]
    run(fit, tmp_path / "validate", arguments=[*arguments, f"--ckpt_path={last}"], sabotage=hide_accelerate)
    said = (tmp_path / "validate" / "0.log").read_text()
    for domain, loss in zip(DOMAINS, record["domain_losses"][12].tolist(), strict=True):
        found = re.search(rf"^{domain} +([\d.]+) nats per token,", said, re.MULTILINE)
        assert found is not None and float(found[1]) == pytest.approx(loss, abs=1e-3), said

    export(str(last), str(tmp_path / "out"))
    tokens = torch.arange(2, 22)[None]
    logits = {}
    for device in ("cpu", "cuda"):
        model = AutoModelForCausalLM.from_pretrained(tmp_path / "out", dtype=torch.float32).to(device)
        with torch.no_grad():
            logits[device] = model(tokens.to(device)).logits.cpu()
    scale = float(logits["cpu"].abs().max())
    torch.testing.assert_close(logits["cuda"], logits["cpu"], rtol=0, atol=TINY_RATIO * scale)


def test_units_are_ranked_on_cuda_as_on_the_cpu(toy, tmp_path):
    scores = {}
    for device in ("cpu", "cuda"):
        file = tmp_path / f"{device}.safetensors"
        rank(str(toy.source()), str(file), data=str(toy.data), device=device)
        scores[device] = load_file(file)
    for name, expected in scores["cpu"].items():
        # Squares of gradients: twice the relative error of a gradient.
        torch.testing.assert_close(
            scores["cuda"][name], expected, rtol=0, atol=2 * TINY_RATIO * float(expected.abs().max())
        )


def test_cut_is_repaired_on_cuda_as_on_the_cpu(toy, tmp_path):
    """On the same text: what a source generates is drawn by the device, and another device draws otherwise."""
    rank(str(toy.source()), str(tmp_path / "scores.safetensors"), data=str(toy.data), device="cpu")
    logits, tokens = {}, torch.arange(2, 22)[None]
    for device in ("cpu", "cuda"):
        export(
            gates=str(tmp_path / "scores.safetensors"),
            target=ModelShape(layers=2, hidden=24, query_heads=4, kv_heads=2, intermediate=32),
            repair=str(toy.data),
            repair_tokens=400,
            repair_generated_fraction=0.0,
            device=device,
            output=str(tmp_path / device),
        )
        model = AutoModelForCausalLM.from_pretrained(tmp_path / device, dtype=torch.float32)
        with torch.no_grad():
            logits[device] = model(tokens).logits
    scale = float(logits["cpu"].abs().max())
    torch.testing.assert_close(logits["cuda"], logits["cpu"], rtol=0, atol=TINY_RATIO * scale)


def test_peak_of_a_comparison_is_that_of_one_model_with_its_cache(toy, tmp_path):
    """Both models are on the device at once; of each, its weights and what its own passes took are counted."""
    models = [str(toy.source()), str(toy.source("mha-untied"))]
    found = compare(models, device="cuda", cache=str(tmp_path))
    for model in found.models:
        assert model.speeds.peak_bytes > model.size.weight_bytes
    assert "peak while it is timed" in str(found)
