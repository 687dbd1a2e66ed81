"""The memory of a repair is counted from shapes: beside the tensors that live while one runs."""

import weakref

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from transformers import LlamaConfig, LlamaForCausalLM

from shear_lit.models.choices import REPAIR_TOKENS
from shear_lit.models.generation import TOGETHER, generated
from shear_lit.models.registry import family_of
from shear_lit.pruning.carve import kept_units
from shear_lit.pruning.repair import memory, repair
from shear_lit.pruning.repair.memory import memory_of_generation, memory_of_repair
from shear_lit.ranking.importance import Passage
from shear_lit.theory.noise import keyed_uniform
from shear_lit.theory.shape import Axis, ModelShape
from tests.ranking.passages import device
from tests.toy_families import carved_of

LLAMA_7B = LlamaConfig(
    hidden_size=4096, intermediate_size=11008, num_hidden_layers=32, num_attention_heads=32, vocab_size=32000
)
SHEARED_2_7B = ModelShape(layers=32, hidden=2560, query_heads=20, kv_heads=20, intermediate=6912)


class LiveTensors(TorchDispatchMode):
    """Bytes of the storages that were made within it and still live, and the most that there were."""

    def __init__(self, *models):
        super().__init__()
        self.now = self.most = 0
        self.known = {part.untyped_storage()._cdata for model in models for part in model.parameters()}

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        out = function(*args, **(kwargs or {}))
        for tensor in tree_leaves(out):
            if isinstance(tensor, torch.Tensor):
                self.see(tensor.untyped_storage())
        return out

    def see(self, storage):
        key = storage._cdata
        if key in self.known or storage.nbytes() == 0:
            return
        self.known.add(key)
        self.now += storage.nbytes()
        self.most = max(self.most, self.now)
        weakref.finalize(storage, self.gone, key, storage.nbytes())

    def gone(self, key, size):
        self.known.discard(key)
        self.now -= size


@pytest.mark.parametrize("tied", [True, pytest.param(False, marks=pytest.mark.nightly)])
def test_memory_is_that_of_the_tensors_which_live(tied):
    config = LlamaConfig(
        hidden_size=256,
        intermediate_size=1024,
        num_hidden_layers=3,
        num_attention_heads=4,
        head_dim=64,
        vocab_size=3000,
        tie_word_embeddings=tied,
    )
    torch.manual_seed(0)
    model, family = LlamaForCausalLM(config).eval(), family_of(config)
    target = ModelShape(layers=2, hidden=192, query_heads=3, kv_heads=3, intermediate=768)
    gates = {
        axis: (scores.argsort().argsort() < units_kept(axis, target)).float()
        for axis, scores in keyed_uniform(family.shape, tuple(Axis), key=(1, 0, 0)).items()
    }
    small = carved_of(model, gates, dtype=torch.float32)
    ids = torch.randint(3, 3000, (32, 4, 64), generator=torch.Generator().manual_seed(1))
    passages = [
        Passage(inputs={"input_ids": rows, "labels": rows}, number=4 * at) for at, rows in enumerate(ids)
    ]
    weights = 4 * sum(part.numel() for network in (model, small) for part in network.parameters())
    with LiveTensors(model, small) as live:
        repair(
            model,
            small,
            family,
            family_of(small.config),
            kept_units(gates, family.shape),
            passages,
            device=device(),
        )
    counted = memory_of_repair(config, target, tokens=ids.numel(), batch_tokens=4 * 64)
    assert counted.device == 0
    assert counted.host == pytest.approx(weights + live.most, rel=0.1)


@pytest.mark.parametrize("layers, vocabulary", [(8, 300), (2, 20_000)], ids=["keys", "logits"])
def test_memory_of_generation_is_that_of_the_tensors_which_live(layers, vocabulary, monkeypatch):
    monkeypatch.setattr(memory, "GENERATED_LENGTH", 16)
    config = LlamaConfig(
        hidden_size=64,
        intermediate_size=64,
        num_hidden_layers=layers,
        num_attention_heads=4,
        head_dim=64,
        vocab_size=vocabulary,
    )
    model = LlamaForCausalLM(config).eval()
    writes = torch.arange(vocabulary) % 3 == 0
    with LiveTensors(model) as live:
        generated(
            model,
            TOGETHER,
            length=16,
            vocabulary=vocabulary,
            seed=0,
            device=torch.device("cpu"),
            writes=writes,
        )
    assert memory_of_generation(family_of(config), vocabulary) == pytest.approx(live.most, rel=0.1)


def units_kept(axis, target):
    return {
        Axis.LAYERS: target.layers,
        Axis.HIDDEN: target.hidden,
        Axis.KV_HEADS: target.kv_heads,
        Axis.QUERY_HEADS: target.query_heads // target.kv_heads,
        Axis.INTERMEDIATE: target.intermediate,
    }[axis]


def test_seven_billion_parameters_fit():
    whole = memory_of_repair(LLAMA_7B, SHEARED_2_7B, tokens=REPAIR_TOKENS)
    beside = memory_of_repair(LLAMA_7B, SHEARED_2_7B, tokens=REPAIR_TOKENS, on_cpu=False)
    assert whole.host <= 64e9 and beside.host <= 64e9 and beside.device <= 80e9
    assert beside.device < whole.host
