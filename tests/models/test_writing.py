"""What is written: the source's names, the source's tokenizer, a config that says everything, and no other weights."""

import json
import shutil

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, AutoTokenizer

from shear_lit.models import writing
from shear_lit.models.companions import readable_tokenizer_config
from shear_lit.models.config_file import config_entries
from shear_lit.models.huggingface import read_model, tensor_names
from shear_lit.models.registry import carved_config, family_of, tensor_sizes
from shear_lit.models.verification import check_same_model
from shear_lit.models.writing import WEIGHT_SUFFIXES, stored_tensors, write_model
from shear_lit.pruning.carve import carve, kept_units
from tests import tiny
from tests.toy_families import FORMS, KEPT_LAYERS, LAYERS, ONE_OF_EACH, model_of
from tests.toy_models import VOCABULARY

BEFORE = json.dumps(
    {"tokenizer_class": "TokenizersBackend", "extra_special_tokens": ["<x>"], "eos_token": "</s>"}
)


def write_source(directory, form, *, bare=False, head_twice=False):
    """A source as it is published: gpt_neox with the head's old name; ``bare``: names without the model's prefix."""
    network = model_of(form, dtype=torch.float32)
    network.save_pretrained(directory)
    file = directory / "model.safetensors"
    tensors = {
        "embed_out.weight" if name == "lm_head.weight" and form.family == "gpt_neox" else name: tensor
        for name, tensor in load_file(file).items()
    }
    if head_twice:
        embedding = f"{family_of(network.config).embedding}.weight"
        tensors["embed_out.weight" if form.family == "gpt_neox" else "lm_head.weight"] = tensors[
            embedding
        ].clone()
    if bare:
        prefix = "gpt_neox." if form.family == "gpt_neox" else "model."
        tensors = {name.removeprefix(prefix): tensor for name, tensor in tensors.items()}
    save_file(tensors, file, metadata={"format": "pt"})
    return network


def cut(source, output, form):
    """The source cut on all axes and written."""
    network = read_model(str(source), dtype=torch.float32)
    family, values = family_of(network.config), form.gates(dtype=torch.float32)
    kept = kept_units(values, family.shape)
    small = carved_config(network.config, kept.shape, kept_layers=kept.layers.tolist())
    tensors = carve(dict(network.named_parameters()), family, values)
    write_model(output, small, tensors, companions_of=str(source), dtype=torch.float32)


def names_without_blocks_that_went(names):
    """The names of a source's tensors with the numbers that the kept blocks get."""
    kept = {f"layers.{old}.": f"layers.{new}." for new, old in enumerate(KEPT_LAYERS)}
    gone = [f"layers.{block}." for block in range(LAYERS) if block not in KEPT_LAYERS]
    found = set()
    for name in names:
        if any(part in name for part in gone):
            continue
        old = next((part for part in kept if part in name), None)
        found.add(name if old is None else name.replace(old, kept[old]))
    return found


def published_names(form, *, bare, head_twice=False):
    """The names in files of a form, by the definition."""
    names = set(tensor_sizes(form.config()))
    if head_twice:
        names.add("lm_head.weight")
    if form.family == "gpt_neox":
        names = {"embed_out.weight" if name == "lm_head.weight" else name for name in names}
    prefix = "gpt_neox." if form.family == "gpt_neox" else "model."
    return {name.removeprefix(prefix) for name in names} if bare else names


@pytest.mark.parametrize("bare", [False, True], ids=["prefix", "bare"])
@pytest.mark.parametrize("form", FORMS, ids=str)
def test_names_are_those_of_the_source(form, bare):
    family = family_of(form.config())
    small = family.carved_sizes(tensor_sizes(form.config()), form.target)
    for head_twice in (False, True) if form.tied else (False,):
        source = published_names(form, bare=bare, head_twice=head_twice)
        carved = {name: torch.empty(1) for name in small}
        stored = stored_tensors(carved, family, frozenset(source))
        assert stored.keys() == names_without_blocks_that_went(source)


@pytest.mark.parametrize("bare", [False, True], ids=["prefix", "bare"])
@pytest.mark.parametrize("form", ONE_OF_EACH, ids=str)
def test_names_in_the_files_are_those_of_the_sources_files(tmp_path, form, bare):
    write_source(tmp_path / "source", form, bare=bare)
    cut(tmp_path / "source", tmp_path / "out", form)
    source, out = tensor_names(str(tmp_path / "source")), tensor_names(str(tmp_path / "out"))
    assert source == published_names(form, bare=bare)
    assert out == names_without_blocks_that_went(source)


@pytest.mark.parametrize(
    "form", [form for form in ONE_OF_EACH if form.family in ("gpt_neox", "llama")], ids=str
)
def test_names_that_are_not_kept_are_found(tmp_path, monkeypatch, form):
    """The twin: names of the live model, as the installed transformers has them."""
    write_source(tmp_path / "source", form, bare=True)
    monkeypatch.setattr(writing, "stored_tensors", lambda parameters, family, names: dict(parameters))
    cut(tmp_path / "source", tmp_path / "out", form)
    source = tensor_names(str(tmp_path / "source"))
    assert tensor_names(str(tmp_path / "out")) != names_without_blocks_that_went(source)


@pytest.mark.parametrize("family", ["llama", "gpt_neox", "gemma2"])
def test_tied_head_is_stored_twice_where_the_source_does_so(tmp_path, family):
    form = next(form for form in FORMS if form.family == family and form.tied)
    write_source(tmp_path / "source", form, head_twice=True)
    cut(tmp_path / "source", tmp_path / "out", form)
    out = load_file(tmp_path / "out" / "model.safetensors")
    assert set(out) == names_without_blocks_that_went(tensor_names(str(tmp_path / "source")))
    head = next(tensor for name, tensor in out.items() if "lm_head" in name or "embed_out" in name)
    embedding = next(tensor for name, tensor in out.items() if "embed_tokens" in name or "embed_in" in name)
    assert torch.equal(head, embedding)


def test_published_names_are_taken_where_the_source_has_no_weights_here():
    form = next(form for form in FORMS if form.family == "gpt_neox" and not form.tied)
    network = model_of(form, dtype=torch.float32)
    stored = stored_tensors(dict(network.named_parameters()), family_of(network.config), frozenset())
    assert "embed_out.weight" in stored and "lm_head.weight" not in stored


@pytest.mark.parametrize("form", ONE_OF_EACH, ids=str)
def test_config_says_everything_and_reads_back(tmp_path, form):
    """Each entry that the source states is there, with its value or that of the cut, under both names of the dtype."""
    write_source(tmp_path / "source", form)
    cut(tmp_path / "source", tmp_path / "out", form)
    source = json.loads((tmp_path / "source" / "config.json").read_text())
    entries = json.loads((tmp_path / "out" / "config.json").read_text())
    assert {name for name in source if not name.startswith("_")} <= entries.keys()
    assert entries["dtype"] == entries["torch_dtype"] == "float32"
    assert not {"_name_or_path", "auto_map", "quantization_config"} & entries.keys()
    written, original = read_model(str(tmp_path / "out"), dtype=torch.float32), form.config()
    small = carved_config(original, family_of(written.config).shape, kept_layers=list(KEPT_LAYERS))
    expected = config_entries(small, dtype="float32") | {"architectures": [type(written).__name__]}
    assert config_entries(written.config, dtype="float32") == expected


def test_period_that_the_kept_blocks_do_not_have_is_stated_as_null(tmp_path):
    form = next(form for form in FORMS if form.family == "gemma3_text")
    config = form.config(sliding_window_pattern=2, layer_types=None)
    shape = family_of(config).shape
    small = carved_config(config, form.target, kept_layers=[1, 3])
    assert shape.layers == 4 and config_entries(small, dtype="float32")["sliding_window_pattern"] is None
    kept = carved_config(config, form.target, kept_layers=[2, 3])
    assert config_entries(kept, dtype="float32")["sliding_window_pattern"] == 2


# Companions


def write_whole(tmp_path, **changes):
    """The tiny source that lies there, written as it is."""
    network = read_model(str(tmp_path / "source"), dtype=torch.float32)
    parameters = {name: parameter.detach() for name, parameter in network.named_parameters()}
    arguments = dict(companions_of=str(tmp_path / "source"), dtype=torch.float32) | changes
    write_model(tmp_path / "out", network.config, parameters, **arguments)


def with_tokenizer(tmp_path, content):
    tiny.write_source(tmp_path / "source", tiny.config())
    (tmp_path / "source" / "tokenizer_config.json").write_text(content)
    write_whole(tmp_path)
    return tmp_path / "source", tmp_path / "out"


TOKENIZER_FILES = ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja", "generation_config.json")


def test_tokenizer_files_are_copied_byte_for_byte(tmp_path):
    odd = '{"tokenizer_class":\t"PreTrainedTokenizerFast", "unk_token": "<unk>",\r\n "odd": "\\u00e9é"}\n'
    source, out = with_tokenizer(tmp_path, odd)
    for name in TOKENIZER_FILES:
        assert (source / name).read_bytes() == (out / name).read_bytes(), name


def test_tokenizer_that_earlier_versions_refuse_is_named_as_they_know_it(tmp_path):
    source, out = with_tokenizer(tmp_path, BEFORE)
    entries = json.loads((out / "tokenizer_config.json").read_text())
    assert entries == {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "additional_special_tokens": ["<x>"],
        "eos_token": "</s>",
    }
    assert (source / "tokenizer.json").read_bytes() == (out / "tokenizer.json").read_bytes()
    ours, theirs = AutoTokenizer.from_pretrained(out), AutoTokenizer.from_pretrained(source)
    text = "w3 w5 <x> </s>"
    assert ours(text).input_ids == theirs(text).input_ids
    assert ours.all_special_tokens == theirs.all_special_tokens


def test_readable_tokenizer_config_is_left_as_it_is():
    entries = {"tokenizer_class": "LlamaTokenizer", "additional_special_tokens": ["<x>"]}
    assert readable_tokenizer_config(entries) == entries
    assert readable_tokenizer_config(json.loads(BEFORE)) != json.loads(BEFORE)


@pytest.mark.parametrize("file", [True, False], ids=["file", "config"])
def test_generation_settings_survive(tmp_path, file):
    """Those of generation_config.json, and of a source that states them in config.json alone."""
    tiny.write_source(tmp_path / "source", tiny.config())
    if not file:
        (tmp_path / "source" / "generation_config.json").unlink()
        path = tmp_path / "source" / "config.json"
        path.write_text(json.dumps({**json.loads(path.read_text()), "temperature": 0.6, "do_sample": True}))
    write_whole(tmp_path)
    settings = AutoModelForCausalLM.from_pretrained(tmp_path / "out").generation_config
    if file:
        assert (settings.eos_token_id, settings.max_length) == (7, 33)
    else:
        assert (settings.temperature, settings.do_sample) == (0.6, True)
    assert "temperature" not in json.loads((tmp_path / "out" / "config.json").read_text())


LEGACY = {
    **{"do_sample": True, "temperature": 0.7, "top_p": 0.9, "top_k": 40, "max_length": 48, "min_length": 2},
    **{"repetition_penalty": 1.1, "num_beams": 2, "no_repeat_ngram_size": 3, "length_penalty": 0.8},
    **{"early_stopping": True, "bad_words_ids": [[5, 6]], "suppress_tokens": [9], "num_return_sequences": 1},
    **{"bos_token_id": 1, "eos_token_id": [2, 3], "pad_token_id": 4},
}


def test_generation_settings_of_an_old_config_survive_whole(tmp_path):
    """Such as transformers 4 wrote them: all in config.json, and no other file."""
    tiny.write_source(tmp_path / "source", tiny.config())
    (tmp_path / "source" / "generation_config.json").unlink()
    path = tmp_path / "source" / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **LEGACY}))
    write_whole(tmp_path)
    assert json.loads((tmp_path / "out" / "generation_config.json").read_text()) == LEGACY
    model = AutoModelForCausalLM.from_pretrained(tmp_path / "out")
    assert {name: getattr(model.generation_config, name) for name in LEGACY} == LEGACY


def test_weights_alone_end_as_weights_do(tmp_path):
    tiny.write_source(tmp_path / "source", tiny.config())
    for suffix in WEIGHT_SUFFIXES:
        with pytest.raises(AssertionError, match="taken for weights"):
            write_whole(tmp_path, extra_files={f"gates{suffix}": b""})
    assert not (tmp_path / "out").exists()


def test_head_of_a_gpt_neox_model_has_the_name_that_all_versions_read(tmp_path):
    form = next(form for form in FORMS if form.family == "gpt_neox" and not form.tied)
    network = write_source(tmp_path / "source", form)
    cut(tmp_path / "source", tmp_path / "out", form)
    assert "embed_out.weight" in load_file(tmp_path / "out" / "model.safetensors")
    shutil.rmtree(tmp_path / "out")
    parameters = {name: parameter.detach() for name, parameter in network.named_parameters()}
    write_model(
        tmp_path / "out",
        network.config,
        parameters,
        companions_of=str(tmp_path / "source"),
        dtype=torch.float32,
    )
    check_same_model(
        read_model(str(tmp_path / "out"), dtype=torch.float32), network, VOCABULARY, what="whole"
    )


def test_config_leaves_out_what_speaks_of_other_files_and_of_generating():
    """Transformers 5 refuses to save a model whose config says how to generate."""
    config = next(form for form in FORMS if form.family == "llama").config()
    for name in ("auto_map", "temperature", "do_sample", "_name_or_path"):
        setattr(config, name, "x")
    config.quantization_config = {"quant_method": "x"}
    config.mine = 7  # an entry that somebody added stays
    entries = config_entries(config, dtype="bfloat16")
    assert (
        not {"auto_map", "quantization_config", "temperature", "do_sample", "_name_or_path"} & entries.keys()
    )
    assert (entries["mine"], entries["torch_dtype"]) == (7, "bfloat16")
    assert "id2label" not in entries and "return_dict" not in entries  # what every config has
