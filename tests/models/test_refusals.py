"""Models that no table describes are refused by name, before any weight is read, with what to do instead."""

from pathlib import Path

import pytest
import torch
from transformers import (
    Gemma3Config,
    Gemma3ForConditionalGeneration,
    Gemma3TextConfig,
    GPT2Config,
    LlamaConfig,
    Mistral3Config,
    MixtralConfig,
    OlmoeConfig,
    Qwen2MoeConfig,
    Qwen3MoeConfig,
    SiglipVisionConfig,
)

from shear_lit.models.family import FamilyError
from shear_lit.models.huggingface import read_model
from shear_lit.models.registry import FAMILIES, family_of
from tests.toy_families import FORMS
from tests.toy_models import toy_config, toy_ids


def refusal(config) -> str:
    with pytest.raises(FamilyError) as error:
        family_of(config)
    message = str(error.value)
    assert error.value.key == "model.source" and message.startswith("model.source=")
    return message


def test_model_type_without_a_table_is_refused_with_the_list_and_the_page():
    message = refusal(GPT2Config())
    assert "model_type='gpt2'" in message
    assert "no family table" in message
    assert all(family in message for family in FAMILIES)
    assert "docs/adding_a_family.md" in message


@pytest.mark.parametrize(
    ("config", "option"),
    [
        (MixtralConfig(), "num_local_experts=8"),
        (Qwen2MoeConfig(), "num_experts=60"),
        (Qwen3MoeConfig(), "_experts=128"),
        (OlmoeConfig(), "num_experts=64"),
        (LlamaConfig(num_local_experts=4), "num_local_experts=4"),
    ],
    ids=["mixtral", "qwen2_moe", "qwen3_moe", "olmoe", "llama"],
)
def test_mixture_of_experts_is_refused_by_the_option_that_makes_it_one(config, option):
    message = refusal(config)
    assert f"model_type={config.model_type!r}" in message and option in message
    assert "only dense models" in message


@pytest.mark.parametrize(
    ("config", "text"),
    [(Gemma3Config(), "gemma3_text"), (Mistral3Config(), "mistral")],
    ids=["gemma3", "mistral3"],
)
def test_multi_modal_model_is_refused_and_its_language_model_named(config, text):
    message = refusal(config)
    assert f"model_type={config.model_type!r}" in message and "vision_config" in message
    assert f"its language model (model_type={text!r})" in message
    assert "docs/adding_a_family.md" in message


@pytest.mark.parametrize("architecture", ["LlamaForSequenceClassification", "LlamaModel"])
def test_architecture_that_is_no_language_model_is_refused(architecture):
    message = refusal(toy_config(architectures=[architecture]))
    assert f"architectures=['{architecture}']" in message
    assert "ForCausalLM" in message and "llama language model" in message


def test_attention_that_looks_ahead_is_refused():
    message = refusal(Gemma3TextConfig(use_bidirectional_attention=True))
    assert "use_bidirectional_attention=True" in message and "causal" in message


def test_list_with_an_entry_per_block_that_the_table_does_not_know_is_refused():
    """It would go on describing blocks that are gone."""
    message = refusal(toy_config(window_of_block=[1, 2, 3, 4]))
    assert "window_of_block=[1, 2, 3, 4]" in message and "per_layer" in message
    family_of(toy_config(window_of_block=[1, 2, 3]))
    family_of(toy_config(eos_token_id=[1, 2, 3, 4]))


def test_language_model_of_a_multi_modal_one_is_saved_as_the_page_shows(tmp_path, monkeypatch):
    """The page's own lines, run on a tiny Gemma 3 with a vision tower."""
    page = (Path(__file__).parents[2] / "docs" / "adding_a_family.md").read_text()
    lines = page.partition("```python\nfrom transformers import AutoModelForImageTextToText")[2]
    lines = "from transformers import AutoModelForImageTextToText" + lines.partition("```")[0]
    form = next(form for form in FORMS if form.family == "gemma3_text")
    tower = SiglipVisionConfig(
        **dict(hidden_size=16, intermediate_size=16, num_hidden_layers=1, num_attention_heads=2),
        **dict(image_size=28, patch_size=14),
    )
    config = Gemma3Config(
        text_config=form.config(final_logit_softcapping=None), vision_config=tower, mm_tokens_per_image=4
    )
    torch.manual_seed(0)
    whole = Gemma3ForConditionalGeneration(config).eval()
    monkeypatch.chdir(tmp_path)
    whole.save_pretrained("gemma-3-4b-it")
    exec(lines, {})
    text = read_model("gemma-3-4b-text", dtype=torch.float32)
    assert family_of(text.config).model_type == "gemma3_text"
    with torch.no_grad():
        assert torch.equal(text(toy_ids()).logits, whole(toy_ids()).logits)
