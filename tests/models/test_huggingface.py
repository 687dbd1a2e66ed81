"""Hugging Face directories in and out: nothing made up, nothing unsafe, nothing half-written."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM

from shear_lit.models import directories, source_files, writing
from shear_lit.models.companions import licence_files, source_licence
from shear_lit.models.directories import DirectoryError, new_directory
from shear_lit.models.huggingface import (
    SourceError,
    build_model,
    config_of,
    read_config,
    read_model,
    source_fingerprint,
)
from shear_lit.models.verification import VerificationError, check_same_model, check_tokens, logits_of
from shear_lit.models.writing import write_model
from tests import tiny
from tests.toy_families import FORMS, model_of
from tests.toy_models import VOCABULARY
from tests.without import hide_accelerate


@pytest.fixture
def source(tmp_path):
    tiny.write_source(tmp_path / "source", tiny.config())
    return tmp_path / "source"


def parameters(network):
    return {name: parameter.detach() for name, parameter in network.named_parameters()}


def write(directory, source, **changes):
    network = AutoModelForCausalLM.from_pretrained(source)
    arguments = dict(companions_of=str(source), dtype=torch.float32) | changes
    write_model(directory, network.config, parameters(network), **arguments)
    return network


# In


def test_model_read_is_the_model_written(source):
    network, stock = (
        read_model(str(source), dtype=torch.float32),
        AutoModelForCausalLM.from_pretrained(source),
    )
    check_same_model(network, stock, tiny.VOCABULARY, what="read")


@pytest.mark.parametrize("device", ["meta", "cpu:0"])
def test_model_is_read_on_the_cpu_in_the_context_of_another_device(source, device, monkeypatch):
    """Without accelerate, which transformers asks for there."""
    hide_accelerate(monkeypatch.setattr)
    with torch.device(device):
        network = read_model(str(source), dtype=torch.float32)
    assert {tensor.device.type for tensor in (*network.parameters(), *network.buffers())} == {"cpu"}
    stock = AutoModelForCausalLM.from_pretrained(source)
    check_same_model(network, stock, tiny.VOCABULARY, what="read")


@pytest.mark.parametrize("attention", ["eager", "sdpa"])
def test_attention_and_dtype_are_those_asked_for(source, attention):
    network = read_model(str(source), dtype=torch.bfloat16, attention=attention)
    assert (network.dtype, network.config._attn_implementation) == (torch.bfloat16, attention)


def test_model_type_without_sdpa_computes_with_eager_where_sdpa_is_asked_for(tmp_path):
    """Gemma 2, which caps its attention scores."""
    form = next(form for form in FORMS if form.family == "gemma2")
    model_of(form, dtype=torch.float32).save_pretrained(tmp_path)
    network = read_model(str(tmp_path), dtype=torch.float32)
    assert network.config._attn_implementation == "eager"
    built = build_model(network.config, parameters(network), dtype=torch.float32)
    check_same_model(built, network, VOCABULARY, what="built")


def test_attention_is_not_that_of_the_model_which_the_config_came_from(source):
    original = read_model(str(source), dtype=torch.float32, attention="eager")
    built = build_model(original.config, parameters(original), dtype=torch.float32)
    assert built.config._attn_implementation == "sdpa"
    assert original.config._attn_implementation == "eager"


def test_old_names_of_gpt_neox_checkpoints_are_read(tmp_path):
    """As Pythia's are stored: another name for the head, and buffers that no model has any more."""
    form = next(form for form in FORMS if form.family == "gpt_neox" and not form.tied)
    network = model_of(form, dtype=torch.float32)
    network.save_pretrained(tmp_path)
    tensors = load_file(tmp_path / "model.safetensors")
    head = next(name for name in ("lm_head.weight", "embed_out.weight") if name in tensors)
    tensors["embed_out.weight"] = tensors.pop(head)
    tensors["gpt_neox.layers.0.attention.bias"] = torch.ones(1, 1, 4, 4, dtype=torch.bool)
    tensors["gpt_neox.layers.0.attention.masked_bias"] = torch.tensor(-1e9)
    tensors["gpt_neox.layers.0.attention.rotary_emb.inv_freq"] = torch.ones(2)
    save_file(tensors, tmp_path / "model.safetensors", {"format": "pt"})
    check_same_model(read_model(str(tmp_path), dtype=torch.float32), network, VOCABULARY, what="read")


def test_config_survives_its_entries(source):
    config = read_config(str(source))
    assert config_of(json.loads(json.dumps(config.to_dict()))).to_dict() == config.to_dict()


@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_built_model_computes_what_the_original_does(tmp_path, tied, dtype):
    """Rotary buffers included: they are in no file, and float32 in every dtype."""
    tiny.write_source(tmp_path / "m", tiny.config(tied=tied))
    original = AutoModelForCausalLM.from_pretrained(tmp_path / "m", dtype=dtype)
    built = build_model(original.config, parameters(original), dtype=dtype)
    check_same_model(built, original, tiny.VOCABULARY, what="built")
    assert built.model.rotary_emb.inv_freq.dtype == torch.float32


def test_built_model_copies_no_tensor_of_its_dtype(source):
    original = AutoModelForCausalLM.from_pretrained(source)
    built = build_model(original.config, parameters(original), dtype=torch.float32)
    addresses = {name: tensor.data_ptr() for name, tensor in parameters(original).items()}
    assert {name: tensor.data_ptr() for name, tensor in parameters(built).items()} == addresses


@pytest.mark.parametrize("change", ["missing", "unknown", "of another size"])
def test_tensors_that_are_not_those_of_the_config_are_refused(source, change):
    original = AutoModelForCausalLM.from_pretrained(source)
    tensors = parameters(original)
    if change == "missing":
        del tensors["model.norm.weight"]
    else:
        tensors["model.norm.weight" if change == "of another size" else "extra"] = torch.zeros(3)
    with pytest.raises(ValueError, match=change):
        build_model(original.config, tensors, dtype=torch.float32)


def test_directory_without_config_is_refused(source):
    (source / "config.json").unlink()
    with pytest.raises(SourceError, match=r"no config\.json"):
        read_config(str(source))


def test_directory_without_weights_is_refused(source):
    (source / "model.safetensors").unlink()
    with pytest.raises(SourceError, match="safetensors files only"):
        read_model(str(source), dtype=torch.float32)


def test_pickled_weights_are_refused(source):
    (source / "model.safetensors").rename(source / "pytorch_model.bin")
    with pytest.raises(SourceError, match="can run code"):
        read_model(str(source), dtype=torch.float32)


def test_path_that_is_no_directory_is_refused(tmp_path):
    with pytest.raises(SourceError, match="is no directory"):
        read_config(str(tmp_path / "nowhere"))


def test_hub_name_without_network_or_cache_is_refused(tmp_path, monkeypatch):
    def absent(*args, **kwargs):
        raise FileNotFoundError("no\nnetwork")

    monkeypatch.setattr(source_files, "snapshot_download", absent)
    with pytest.raises(SourceError, match=r"the hub did not give it \(no network\)") as refused:
        read_config("nobody/nothing")
    assert "\n" not in str(refused.value)


def test_hub_name_is_read_from_where_the_hub_put_it(source, monkeypatch):
    asked = []
    monkeypatch.setattr(
        source_files,
        "snapshot_download",
        lambda name, **options: (asked.append((name, options)), str(source))[1],
    )
    assert read_config("some/model").hidden_size == 32
    ((name, options),) = asked
    assert name == "some/model" and "config.json" in options["allow_patterns"]
    assert not any("safetensors" in pattern for pattern in options["allow_patterns"])


def test_model_type_that_transformers_does_not_know_is_refused(source):
    """Such a config may name code to run, which is never run."""
    entries = json.loads((source / "config.json").read_text())
    entries |= {"model_type": "custom", "auto_map": {"AutoConfig": "modeling_custom.Config"}}
    (source / "config.json").write_text(json.dumps(entries))
    with pytest.raises(SourceError, match="never run"):
        read_config(str(source))


def test_missing_weight_is_refused_and_not_made_up(source):
    weights = load_file(source / "model.safetensors")
    del weights["model.norm.weight"]
    save_file(weights, source / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(SourceError, match=r"missing keys: model\.norm\.weight"):
        read_model(str(source), dtype=torch.float32)


def test_truncated_weights_are_refused(source):
    path = source / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(SourceError, match="damaged"):
        read_model(str(source), dtype=torch.float32)


# Identity


def test_fingerprint_is_of_the_content_and_not_of_the_place(source, tmp_path):
    shutil.copytree(source, tmp_path / "copy")
    assert source_fingerprint(str(source)) == source_fingerprint(str(tmp_path / "copy"))


@pytest.mark.parametrize("name", ["model.embed_tokens.weight", "model.layers.2.mlp.down_proj.weight"])
def test_fingerprint_changes_with_any_tensor(source, name):
    before = source_fingerprint(str(source))
    weights = load_file(source / "model.safetensors")
    weights[name] += 1e-3
    save_file(weights, source / "model.safetensors", metadata={"format": "pt"})
    assert source_fingerprint(str(source)) != before


def test_fingerprint_changes_with_the_config(source):
    before = source_fingerprint(str(source))
    entries = json.loads((source / "config.json").read_text())
    (source / "config.json").write_text(json.dumps(entries | {"rms_norm_eps": 1e-5}))
    assert source_fingerprint(str(source)) != before


def test_licence_is_what_the_sources_card_says(source):
    assert source_licence(str(source)) == {"license": "apache-2.0"}
    assert licence_files(str(source)) == ["LICENSE"]
    (source / "README.md").write_text("# no front matter\n")
    assert source_licence(str(source)) == {}


# Out


def test_written_directory_is_whole(source, tmp_path):
    network = write(tmp_path / "out", source, extra_files={"note.txt": "hello", "data.raw": b"\0"})
    loaded = AutoModelForCausalLM.from_pretrained(tmp_path / "out")
    check_same_model(loaded, network, tiny.VOCABULARY, what="written")
    names = {path.name for path in (tmp_path / "out").iterdir()}
    assert names >= {
        "model.safetensors",
        "config.json",
        "generation_config.json",
        "tokenizer.json",
        "LICENSE",
    }
    assert names >= {"note.txt", "data.raw", "chat_template.jinja"}
    assert "modeling_custom.py" not in names
    assert len({path.stat().st_mode for path in (tmp_path / "out").iterdir()}) == 1
    assert not (tmp_path / "out.partial").exists()


def test_large_model_is_written_in_several_files(source, tmp_path, monkeypatch):
    monkeypatch.setattr(writing, "_SHARD_SIZE", "20KB")
    network = write(tmp_path / "out", source)
    assert len(list((tmp_path / "out").glob("model-*.safetensors"))) > 1
    check_same_model(
        read_model(str(tmp_path / "out"), dtype=torch.float32), network, tiny.VOCABULARY, what="sharded"
    )
    before = source_fingerprint(str(tmp_path / "out"))
    next((tmp_path / "out").glob("model-*.safetensors")).unlink()
    with pytest.raises(SourceError, match="lacks model-0"):
        read_model(str(tmp_path / "out"), dtype=torch.float32)
    with pytest.raises(SourceError, match="lacks model-0"):
        assert source_fingerprint(str(tmp_path / "out")) != before


def test_logits_beyond_the_dtype_are_refused(source, tmp_path):
    network = AutoModelForCausalLM.from_pretrained(source)
    with torch.no_grad():
        network.model.norm.weight.mul_(1e6)
    with pytest.raises(VerificationError, match="not finite in float16"):
        write_model(
            tmp_path / "out",
            network.config,
            parameters(network),
            companions_of=str(source),
            dtype=torch.float16,
        )
    assert not (tmp_path / "out").exists() and not (tmp_path / "out.partial").exists()


def test_interrupted_block_leaves_nothing(tmp_path):
    with pytest.raises(KeyboardInterrupt), new_directory(tmp_path / "deep" / "out") as partial:
        (partial / "half").write_text("x")
        raise KeyboardInterrupt
    assert list((tmp_path / "deep").iterdir()) == []


def test_file_in_the_way_is_refused(tmp_path):
    (tmp_path / "out").write_text("mine")
    with pytest.raises(DirectoryError, match="is a file"), new_directory(tmp_path / "out"):
        pass
    assert (tmp_path / "out").read_text() == "mine"


def test_current_directory_is_taken_if_it_is_empty(tmp_path, monkeypatch):
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    with new_directory(Path()) as partial:
        (partial / "file").write_text("x")
    assert [path.name for path in tmp_path.rglob("*")] == ["here", "file"]


def test_mount_point_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(Path, "is_mount", lambda path: path == tmp_path / "out")
    with pytest.raises(DirectoryError, match="inside it"), new_directory(tmp_path / "out"):
        pass
    assert list(tmp_path.iterdir()) == []


def test_disk_without_room_is_refused(tmp_path, monkeypatch):
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(directories.shutil, "disk_usage", lambda _: usage._replace(free=10**9))
    with new_directory(tmp_path / "fits", needed_bytes=9 * 10**8):
        pass
    with (
        pytest.raises(DirectoryError, match=r"1\.00 GB are free"),
        new_directory(tmp_path / "out", needed_bytes=10**9),
    ):
        pass
    assert not (tmp_path / "out").exists()


def test_logits_are_those_of_evaluation_and_leave_the_mode_alone(source):
    network = read_model(str(source), dtype=torch.float32).train()
    network.config.attention_dropout = 0.5
    tokens = check_tokens(tiny.VOCABULARY)
    assert torch.equal(tokens, check_tokens(tiny.VOCABULARY))
    assert torch.equal(logits_of(network, tokens), logits_of(network, tokens))
    assert network.training
