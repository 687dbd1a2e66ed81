"""What devices and precisions ask of a run, shown on a CPU: tests marked gpu are in tests/gpu."""

import pytest
import torch
from lightning.pytorch.strategies import SingleDeviceStrategy
from transformers import AttentionInterface, PreTrainedModel
from transformers.integrations.sdpa_attention import sdpa_attention_forward

from shear_lit.training import starting
from shear_lit.training.module import ShearingModule
from tests.training.forks import run
from tests.training.runs import fit
from tests.without import hide_accelerate

ORDERED = [
    "--model.pruning.initial_gap=3",
    "--model.pruning.initial_log_alpha=4.605170185988092",
    "--model.pruning.calibration_sequences=8",
    "--trainer.max_steps=1",
    "--data.mixture.update_every_steps=1",
    "--model.optimizer.warmup_steps=0",
    "--model.pruning.sparsity_warmup_steps=0",
    "--trainer.logger=false",
]
MIXED = "--trainer.precision=bf16-mixed"


def on_a_device():
    """Let Lightning build models in the context of a device that is none of torch's default, without accelerate."""
    hide_accelerate()
    SingleDeviceStrategy.tensor_init_context = lambda self, empty_init=None: torch.device("cpu:0")


def test_weights_are_read_in_the_context_of_a_device_without_accelerate(toy, tmp_path):
    """What Lightning does where the device is a GPU; the package depends on no accelerate."""
    (record,) = run(
        fit,
        tmp_path / "log",
        arguments=[*toy.arguments("prune", tmp_path / "run"), *ORDERED],
        sabotage=on_a_device,
    )
    assert record["batches"]


def watch_inference_mode():
    """Keep whether a validation ran in inference mode."""
    validate = ShearingModule.validation_step

    def watched(self, batch, batch_index):
        assert not torch.is_inference_mode_enabled(), "inference mode"
        assert not torch.is_grad_enabled(), "gradients"
        return validate(self, batch, batch_index)

    ShearingModule.validation_step = watched


def test_validate_makes_no_inference_tensors(toy, tmp_path):
    """Under FSDP2 in one process on a GPU it would fail: of weights gathered so, no later pass knows the version."""
    arguments = ["validate", *toy.arguments("prune", tmp_path / "run")[1:]]
    run(fit, tmp_path / "log", arguments=arguments, sabotage=watch_inference_mode)


def keep_importance():
    """Keep what gates are ordered by."""
    measured = starting.measured_importance

    def kept(module, pruning):
        importance = measured(module, pruning)
        module.seen = {axis.value: values.clone() for axis, values in importance.items()}
        return importance

    starting.measured_importance = kept


def flash_attention():
    """A flash attention as far as a CPU can have it: it has no float32, to which only autocast gives another type."""
    keep_importance()

    def computed(layer, query, *arguments, **options):
        if query.dtype == torch.float32 and not torch.is_autocast_enabled("cpu"):
            raise RuntimeError("FlashAttention only support fp16 and bf16 data type")
        return sdpa_attention_forward(layer, query, *arguments, **options)

    AttentionInterface.register("flash_attention_2", computed)
    PreTrainedModel._flash_attn_can_dispatch = lambda *arguments, **options: True
    PreTrainedModel._check_and_adjust_attn_implementation = lambda self, name, *others, **options: name


def importance_of(toy, folder, *flags, sabotage=keep_importance):
    arguments = [*toy.arguments("prune", folder / "run"), *ORDERED, *flags]
    (record,) = run(fit, folder / "log", arguments=arguments, sabotage=sabotage)
    return record["seen"]


@pytest.fixture(scope="module")
def in_float32(toy, tmp_path_factory):
    """The importance that a run in float32 measures."""
    return importance_of(toy, tmp_path_factory.mktemp("float32"))


@pytest.mark.parametrize(
    ("flags", "sabotage"),
    [((), keep_importance), (("--model.attention=flash_attention_2",), flash_attention)],
    ids=["sdpa", "flash_attention_2"],
)
def test_gates_are_ordered_in_float32_whatever_the_precision(toy, tmp_path, in_float32, flags, sabotage):
    found = importance_of(toy, tmp_path, MIXED, *flags, sabotage=sabotage)
    assert found.keys() == in_float32.keys()
    for axis, expected in in_float32.items():
        assert found[axis].dtype == torch.float32
        assert torch.equal(found[axis], expected), axis


def test_sharded_gates_are_ordered_in_bfloat16_where_weights_are_gathered_so(toy, tmp_path, in_float32):
    """FSDP2 gathers weights in one type for all passes; scores differ by rounding, and sums of them are float32."""
    found = importance_of(toy, tmp_path, MIXED, "--trainer.strategy=fsdp2")
    for axis, expected in in_float32.items():
        assert found[axis].dtype == torch.float32
        # A gradient in bfloat16 has 8 bits; the sum of squares of several is off by a few of the last.
        torch.testing.assert_close(found[axis], expected, rtol=0, atol=0.05 * float(expected.max()))
