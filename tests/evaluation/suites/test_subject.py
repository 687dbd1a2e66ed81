"""Models that are only measured: every type that the paper compares with, and what no memory holds."""

import pytest
import torch
from transformers import GPTNeoXConfig, LlamaConfig, OPTConfig

from shear_lit.commands.evaluate_suite import evaluate_suite
from shear_lit.evaluation.suites.processes import ALONE
from shear_lit.evaluation.suites.subject import subject_of
from shear_lit.models import memory
from shear_lit.models.huggingface import read_config
from shear_lit.models.memory import stored_parameters
from shear_lit.models.source_files import SourceError
from tests.evaluation.suites.questions import write_model

SMALL = dict(
    hidden_size=16, num_hidden_layers=2, num_attention_heads=2, vocab_size=300, bos_token_id=0, eos_token_id=1
)
CONFIGS = {
    "OPT": OPTConfig(
        **SMALL, ffn_dim=32, word_embed_proj_dim=16, max_position_embeddings=128, pad_token_id=1
    ),
    "Pythia": GPTNeoXConfig(**SMALL, intermediate_size=32, max_position_embeddings=128, rotary_pct=0.25),
    "INCITE": GPTNeoXConfig(
        **SMALL,
        intermediate_size=32,
        max_position_embeddings=128,
        rotary_pct=1.0,
        use_parallel_residual=False,
    ),
    "LLaMA": LlamaConfig(**SMALL, intermediate_size=32, max_position_embeddings=128),
}


def subject(model, **changes):
    given = dict(dtype="float32", device=torch.device("cpu"), batch_size=2, processes=ALONE, parameters=1)
    return subject_of(model, **given | changes)


@pytest.mark.parametrize("name", CONFIGS)
def test_models_that_the_paper_compares_with_are_asked(asked, tmp_path, name):
    model = write_model(tmp_path / name, CONFIGS[name])
    found = evaluate_suite(
        str(asked / "last-word.yaml"), model, questions=2, cache=str(tmp_path / "kept"), device="cpu"
    )
    assert found.exit_code == 0 and found.outcomes[0].questions == 2
    assert found.parameters == stored_parameters(model) > 1000


def test_dropout_of_a_model_that_is_only_measured_is_none_of_its_faults(tmp_path):
    model = write_model(tmp_path / "opt", CONFIGS["OPT"])
    assert read_config(model, for_training=False).dropout == 0.1
    with pytest.raises(SourceError, match=r"dropout=0\.1"):
        read_config(model)


def test_model_that_is_larger_than_the_memory_is_refused_before_its_weights_are_read(model, monkeypatch):
    monkeypatch.setattr(memory, "free_bytes", lambda device: 10_000)
    with pytest.raises(SourceError, match=r"^model\.source=.* takes .* are free on cpu"):
        subject(model, parameters=2501)
    subject(model, parameters=2500)


def test_fingerprint_is_of_weights_and_tokenizer(tmp_path):
    first = subject(write_model(tmp_path / "a")).fingerprint
    assert subject(write_model(tmp_path / "b")).fingerprint == first
    assert subject(write_model(tmp_path / "c", seed=1)).fingerprint != first
    (tmp_path / "b" / "special_tokens_map.json").write_text('{"eos_token": "</s>"}')
    assert subject(str(tmp_path / "b")).fingerprint != first
