"""What a source may be: every mistake is one line with its key and its repair, before any weight is read."""

import json
import math
import os
import shutil
import struct
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from shear_lit.models import huggingface, weight_files
from shear_lit.models.companions import copy_companions, licence_files, source_licence
from shear_lit.models.huggingface import read_config, read_model, source_fingerprint, tensor_names
from shear_lit.models.source_files import SourceError
from tests import tiny

WEIGHTS, INDEX = "model.safetensors", "model.safetensors.index.json"
POINTER = b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 5\n"


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """Kept as it is; tests work on copies."""
    place = tmp_path_factory.mktemp("whole")
    tiny.write_source(place / "tied", tiny.config())
    tiny.write_source(place / "untied", tiny.config(tied=False))
    return place


@pytest.fixture
def source(whole, tmp_path):
    shutil.copytree(whole / "tied", tmp_path / "source")
    return tmp_path / "source"


@pytest.fixture(autouse=True)
def no_weights_are_read(monkeypatch):
    """Whatever is refused is refused before."""

    def fail(*_, **__):
        pytest.fail("weights were read")

    monkeypatch.setattr(huggingface.AutoModelForCausalLM, "from_pretrained", fail)


DOORS = {
    "read_config": lambda source: read_config(source),
    "read_model": lambda source: read_model(source, dtype=torch.float32),
    "source_fingerprint": lambda source: source_fingerprint(source),
}


def refusal(source: Path, *words: str, doors=tuple(DOORS)) -> str:
    """The one line that every door answers with."""
    said = set()
    for door in doors:
        with pytest.raises(SourceError) as error:
            DOORS[door](str(source))
        said.add(str(error.value))
        assert error.value.key == "model.source"
    (message,) = said
    assert message.startswith(f"model.source={str(source)!r}") and "\n" not in message
    for word in words:
        assert word in message, message
    return message


def change(source: Path, name: str = "config.json", **entries) -> None:
    path = source / name
    present = json.loads(path.read_text()) if path.exists() else {}
    path.write_text(json.dumps({**present, **entries}))


def restore(source: Path, **tensors: torch.Tensor | None) -> None:
    """Write the weights with some of them changed, or without them."""
    stored = {**load_file(source / WEIGHTS), **tensors}
    save_file(
        {name: tensor for name, tensor in stored.items() if tensor is not None},
        source / WEIGHTS,
        {"format": "pt"},
    )


def shard(source: Path) -> dict[str, str]:
    """The same weights in two files, with an index; the single file stays."""
    tensors = load_file(source / WEIGHTS)
    half = len(tensors) // 2
    files = {name: f"model-{1 + (at >= half)}.safetensors" for at, name in enumerate(sorted(tensors))}
    for file in set(files.values()):
        save_file({name: tensors[name] for name in tensors if files[name] == file}, source / file)
    (source / INDEX).write_text(json.dumps({"metadata": {}, "weight_map": files}))
    return files


# What it says of itself


def test_whole_source_passes_all_doors(source):
    assert read_config(str(source)).name_or_path == str(source)
    assert len(source_fingerprint(str(source))) == 64


def test_tied_head_that_is_another_matrix_is_refused(source):
    embedding = load_file(source / WEIGHTS)["model.embed_tokens.weight"]
    restore(source, **{"lm_head.weight": embedding.clone()})
    assert "lm_head.weight" in tensor_names(str(source)) and read_config(str(source))
    other = embedding.clone()
    other[-1, -1] += 1
    restore(source, **{"lm_head.weight": other})
    refusal(source, "lm_head.weight", "another matrix", '"tie_word_embeddings": false')


def test_tied_head_is_refused_by_the_default_of_the_class(source):
    """Gemma's classes tie where the config says nothing, LLaMA's do not."""
    path = source / "config.json"
    entries = json.loads(path.read_text())
    entries.pop("tie_word_embeddings")
    path.write_text(json.dumps(entries))
    refusal(source, "missing keys: lm_head.weight", '"tie_word_embeddings": true')
    other = load_file(source / WEIGHTS)["model.embed_tokens.weight"] + 1
    restore(source, **{"lm_head.weight": other})
    assert read_config(str(source)).tie_word_embeddings is False
    path.write_text(json.dumps({**entries, "model_type": "gemma2", "head_dim": 8}))
    refusal(source, "another matrix")


def test_tied_head_is_compared_across_files_and_piece_by_piece(source, monkeypatch):
    monkeypatch.setattr(weight_files, "_PIECE", 100)
    restore(source, **{"lm_head.weight": load_file(source / WEIGHTS)["model.embed_tokens.weight"].clone()})
    files = shard(source)
    (source / WEIGHTS).unlink()
    read_config(str(source))
    name = files["lm_head.weight"]
    tensors = load_file(source / name)
    tensors["lm_head.weight"][-1, -1] += 1
    save_file(tensors, source / name)
    refusal(source, "another matrix")


@pytest.mark.parametrize(
    "method", ["gptq", "awq", "bitsandbytes", "compressed-tensors", "fp8", "mxfp4", "torchao"]
)
def test_quantised_model_is_refused_by_name_before_anything_is_built(source, monkeypatch, method):
    monkeypatch.setattr(huggingface.AutoConfig, "from_pretrained", lambda *_, **__: pytest.fail("built"))
    change(source, quantization_config={"quant_method": method, "bits": 4})
    refusal(source, f"quant_method='{method}'", "before it was quantised")


@pytest.mark.parametrize(
    ("entries", "words"),
    [
        ({"pad_token_id": 50}, ["pad_token_id=50", "0 to 49"]),
        ({"eos_token_id": [2, 99]}, ["eos_token_id=[2, 99]", "0 to 49"]),
        ({"bos_token_id": -1}, ["bos_token_id=-1", "0 to 49"]),
        ({"attention_dropout": 0.1}, ["attention_dropout=0.1", '"attention_dropout": 0.0']),
        ({"num_hidden_layers": 10**9}, ["num_hidden_layers=1000000000", "from 1 to 1,000"]),
        ({"num_hidden_layers": 900}, ["num_hidden_layers=900", "of 3 blocks"]),
        ({"num_hidden_layers": 2}, ["num_hidden_layers=2", "of 3 blocks"]),
        ({"hidden_size": 10**12}, ["hidden_size=1000000000000", "whole number"]),
        ({"hidden_size": 64}, ["hidden_size=64", "model.embed_tokens.weight has the size [50, 32]"]),
        ({"vocab_size": 0}, ["vocab_size=0", "whole number"]),
        ({"intermediate_size": "48"}, ["intermediate_size='48'", "whole number"]),
        ({"num_attention_heads": -4}, ["num_attention_heads=-4", "whole number"]),
        ({"num_key_value_heads": 3}, ["num_key_value_heads=3", "num_attention_heads=4"]),
        ({"rms_norm_eps": math.nan}, ["rms_norm_eps=nan", "finite number"]),
        ({"rms_norm_eps": 1e400}, ["rms_norm_eps=inf", "finite number"]),
        ({"rms_norm_eps": -1e-6}, ["rms_norm_eps=-1e-06", "[0, 1)"]),
        ({"rope_parameters": {"rope_type": "default", "rope_theta": "x"}}, ["rope_theta='x'", "positive"]),
        ({"rope_parameters": {"rope_type": 5, "rope_theta": 1e4}}, ["rope_type=5"]),
        ({"partial_rotary_factor": 10**12}, ["partial_rotary_factor", "(0, 1]"]),
        ({"num_labels": 10**12}, ["num_labels", "at most"]),
        ({"text_config": {"n_layer": 10**12}}, ["n_layer", "blocks"]),
        ({"tie_word_embeddings": "yes"}, ["tie_word_embeddings='yes'", "true or false"]),
        ({"transformers_weights": "../other.safetensors"}, ["transformers_weights", "remove that entry"]),
        ({"return_dict": False}, ["return_dict=False", "must be true"]),
        ({"dtype": "x"}, ["its config.json cannot be read", "correct it"]),
        ({"model_type": None}, ["has no model_type"]),
        ({"model_type": "custom"}, ["code from a model's repository is never run"]),
    ],
    ids=str,
)
def test_value_that_no_model_has_is_refused_with_its_repair(source, entries, words):
    change(source, **entries)
    refusal(source, *words)


@pytest.mark.parametrize(
    ("kind", "name"), [("gpt_neox", "hidden_dropout"), ("phi3", "resid_pdrop"), ("phi3", "embd_pdrop")]
)
def test_dropout_of_any_family_is_refused_and_what_has_no_effect_is_not(tmp_path, kind, name):
    (tmp_path / "source").mkdir()
    change(tmp_path / "source", model_type=kind, pad_token_id=0, classifier_dropout=0.1, other_dropout=0.1)
    read_config(str(tmp_path / "source"))
    change(tmp_path / "source", **{name: 0.1})
    refusal(tmp_path / "source", f'"{name}": 0.0', doors=["read_config"])


def test_attention_that_a_config_names_is_not_fetched(source):
    change(source, attn_implementation="somebody/kernel")
    assert read_config(str(source))._attn_implementation is None
    entries = json.loads((source / "config.json").read_text())
    assert huggingface.config_of(entries)._attn_implementation is None


def test_null_where_a_class_takes_it_is_taken(source):
    change(source, eos_token_id=None, pad_token_id=None, num_key_value_heads=2, quantization_config=None)
    read_config(str(source))


# Its files


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"{", ["config.json is no JSON"]),
        (b"[1]", ["config.json holds no object"]),
        (b'{"model_type": "llama", "model_type": "llama"}', ["'model_type' is there twice"]),
        (b"[" * 100_000, ["config.json is no JSON", "nested too deeply"]),
        (POINTER, ["config.json is a pointer of Git LFS", "git lfs pull"]),
        (b"\xff\xfe", ["config.json is no JSON"]),
    ],
    ids=lambda part: str(part)[:20],
)
def test_damaged_config_is_refused(source, content, words):
    (source / "config.json").write_bytes(content)
    refusal(source, *words)


@pytest.mark.parametrize("name", ["config.json", "generation_config.json", "tokenizer_config.json"])
def test_small_file_of_a_large_size_is_refused(source, name):
    with (source / name).open("wb") as file:
        file.truncate(65 * 1024**2)
    refusal(source, name, "bytes, and such a file has at most")


def test_pipe_in_the_place_of_the_config_is_refused(source):
    (source / "config.json").unlink()
    os.mkfifo(source / "config.json")
    refusal(source, "a pipe or a device")


@pytest.mark.parametrize(
    "name", ["generation_config.json", "tokenizer_config.json", "tokenizer.json", WEIGHTS]
)
def test_pointer_in_the_place_of_any_file_is_refused(source, name):
    (source / name).write_bytes(POINTER)
    refusal(source, f"its {name} is a pointer of Git LFS")


def test_adapter_is_refused(source):
    (source / "adapter_config.json").write_text('{"base_model_name_or_path": "somebody/model"}')
    refusal(source, "adapter_config.json", "Merge them")


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("pytorch_model.bin", ["can run code", "Convert it"]),
        ("model.gguf", ["rounded numbers"]),
        ("tf_model.h5", ["TensorFlow"]),
    ],
)
def test_weights_of_other_kinds_are_refused_by_every_door(source, name, words):
    (source / WEIGHTS).rename(source / name)
    refusal(source, "safetensors files only", *words)
    with pytest.raises(SourceError, match="safetensors files only"):
        tensor_names(str(source))


def test_config_alone_is_read_and_its_weights_are_missed(source):
    (source / WEIGHTS).unlink()
    assert read_config(str(source)) and tensor_names(str(source)) == frozenset()
    refusal(source, f"lacks {WEIGHTS}", "Copy the whole model", doors=["read_model", "source_fingerprint"])


def header(source: Path, entries: object, *, length: int | None = None, data: bytes = b"\0" * 8) -> None:
    content = entries if isinstance(entries, bytes) else json.dumps(entries).encode()
    (source / WEIGHTS).write_bytes(struct.pack("<Q", length or len(content)) + content + data)


def entry(start: int, end: int, shape: list | None = None, dtype: str = "F32") -> dict:
    return {"dtype": dtype, "shape": shape or [(end - start) // 4], "data_offsets": [start, end]}


@pytest.mark.parametrize(
    ("entries", "word"),
    [
        ({"a": entry(0, 8), "b": entry(4, 8)}, "overlaps"),
        ({"a": entry(4, 8)}, "gap"),
        ({"a": entry(0, 4)}, "tensors end at byte"),
        ({"a": entry(0, 16)}, "tensors end at byte"),
        ({"a": entry(0, 8, [10**9, 10**9])}, "are not those of F32"),
        ({"a": entry(0, 8, [-2])}, "does not say what 'a' is"),
        ({"a": entry(8, 0, [2])}, "are not those of F32"),
        ({"a": {"dtype": "F32", "shape": [2]}}, "does not say what 'a' is"),
        ({"a": 5}, "does not say what 'a' is"),
        ({"__metadata__": {}}, "no tensor"),
        ([1], "no JSON object"),
        (b"{...", "its model.safetensors cannot be read"),
        (b"\xff" * 20, "its model.safetensors cannot be read"),
    ],
    ids=str,
)
def test_header_that_does_not_fit_its_file_is_refused(source, entries, word):
    header(source, entries)
    refusal(source, word, "Get the file again")


@pytest.mark.parametrize("length", [1000, 2**31, 2**63])
def test_header_that_is_longer_than_the_file_is_refused_without_being_read(source, length):
    header(source, {"a": entry(0, 8)}, length=length)
    refusal(source, f"its header is said to have {length:,} bytes")


def test_header_of_a_large_size_is_refused_without_being_read(source):
    header(source, {"a": entry(0, 8)}, length=2**31)
    with (source / WEIGHTS).open("r+b") as file:
        file.truncate(2**31 + 100)  # a hole: no disk is taken
    refusal(source, "its header has 2,147,483,648 bytes, and one has at most")


@pytest.mark.parametrize(("content", "word"), [(b"", "it is empty"), (b"12345", "it has 5 bytes")])
def test_weights_file_without_content_is_refused(source, content, word):
    (source / WEIGHTS).write_bytes(content)
    refusal(source, word)


@pytest.mark.parametrize("dtype", [torch.int8, torch.float8_e4m3fn, torch.int32])
def test_weights_of_rounded_numbers_are_refused_and_old_masks_are_not(source, dtype):
    restore(source, **{"model.layers.0.attention.bias": torch.ones(2, 2, dtype=torch.bool)})
    read_config(str(source))
    restore(source, **{"model.layers.0.mlp.up_proj.weight": torch.zeros(48, 32).to(dtype)})
    refusal(source, "model.layers.0.mlp.up_proj.weight", "is stored as", "before it was quantised")


# Its index


def test_weights_in_one_file_and_in_several_are_refused(source):
    shard(source)
    refusal(source, "twice", f"Remove {WEIGHTS}, or {INDEX}")
    (source / WEIGHTS).unlink()
    read_config(str(source))


def test_index_of_the_single_file_is_no_second_set(source):
    names = load_file(source / WEIGHTS)
    (source / INDEX).write_text(json.dumps({"weight_map": dict.fromkeys(names, WEIGHTS)}))
    assert read_config(str(source)) and tensor_names(str(source)) == names.keys()


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("{", [INDEX, "is no JSON"]),
        ("{}", [INDEX, "no weight_map"]),
        ('{"weight_map": {}}', [INDEX, "no weight_map"]),
        ('{"weight_map": [1]}', [INDEX, "no weight_map"]),
        ('{"weight_map": {"a": 5}}', ["names 5"]),
        ('{"weight_map": {"a": "../secret.safetensors"}}', ["names '../secret.safetensors'"]),
        ('{"weight_map": {"a": "/etc/x.safetensors"}}', ["names '/etc/x.safetensors'"]),
        ('{"weight_map": {"a": "pytorch_model.bin"}}', ["names 'pytorch_model.bin'"]),
        ('{"weight_map": {"a": "absent.safetensors"}}', ["lacks absent.safetensors"]),
        (POINTER.decode(), ["pointer of Git LFS"]),
    ],
    ids=str,
)
def test_damaged_index_is_refused(source, content, words):
    (source / WEIGHTS).rename(source / "other.safetensors")
    (source / INDEX).write_text(content)
    refusal(source, *words)
    with pytest.raises(SourceError):
        tensor_names(str(source))


def test_index_that_names_another_file_for_a_tensor_is_refused(source):
    files = shard(source)
    (source / WEIGHTS).unlink()
    wrong = {**files, "model.norm.weight": "model-1.safetensors"}
    assert files["model.norm.weight"] == "model-2.safetensors"
    (source / INDEX).write_text(json.dumps({"weight_map": wrong}))
    refusal(source, "model.norm.weight would be in model-1.safetensors")


def test_tensor_in_two_files_is_refused(source):
    shard(source)
    (source / WEIGHTS).unlink()
    first = load_file(source / "model-1.safetensors")
    save_file({**first, "model.norm.weight": torch.ones(32)}, source / "model-1.safetensors")
    refusal(source, "model.norm.weight twice")


# Where its files lie


@pytest.mark.parametrize(
    "name", ["config.json", WEIGHTS, "tokenizer.json", "LICENSE", "generation_config.json"]
)
def test_link_out_of_the_directory_is_refused(source, tmp_path, name):
    (source / name).rename(tmp_path / "outside")
    (source / name).symlink_to(tmp_path / "outside")
    refusal(source, f"its {name} is a link that leads out")


def test_shard_that_is_a_link_out_of_the_directory_is_refused(source, tmp_path):
    shard(source)
    (source / WEIGHTS).unlink()
    (source / "model-2.safetensors").rename(tmp_path / "model-2.safetensors")
    (source / "model-2.safetensors").symlink_to(tmp_path / "model-2.safetensors")
    refusal(source, "model-2.safetensors is a link")
    with pytest.raises(SourceError, match=r"model-2\.safetensors is a link"):
        tensor_names(str(source))


def test_links_in_a_circle_are_refused(source):
    (source / "LICENSE").unlink()
    (source / "LICENSE").symlink_to("LICENSE")
    refusal(source, "LICENSE is a link")


def test_directory_itself_may_be_a_link_and_files_may_be_links_within_it(source, tmp_path):
    (source / "NOTICE").symlink_to("LICENSE")
    (tmp_path / "link").symlink_to(source)
    assert source_fingerprint(str(tmp_path / "link")) == source_fingerprint(str(source))


def snapshot(source: Path, cache: Path, *, shared: bool) -> Path:
    """The source as a hub's cache holds it: links to blobs, which newer clients share between repositories."""
    repository = cache / "models--some--model"
    blobs, place = repository / "blobs", repository / "snapshots" / "0123"
    blobs.mkdir(parents=True)
    place.mkdir(parents=True)
    for path in source.iterdir():
        blob = blobs / f"hash-of-{path.name}"
        if shared:
            (cache / "blobs").mkdir(exist_ok=True)
            shutil.copyfile(path, cache / "blobs" / blob.name)
            blob.symlink_to(Path("../../blobs") / blob.name)
        else:
            shutil.copyfile(path, blob)
        (place / path.name).symlink_to(Path("../../blobs") / blob.name)
    return place


def test_snapshot_of_a_hub_cache_is_read_through_its_links(source, tmp_path):
    place = snapshot(source, tmp_path / "cache", shared=False)
    assert source_fingerprint(str(place)) == source_fingerprint(str(source))
    (place / "NOTICE").symlink_to(source / "LICENSE")
    refusal(place, "NOTICE is a link")


def test_blobs_that_a_whole_cache_shares_are_read_where_it_says_that_it_does(source, tmp_path):
    place = snapshot(source, tmp_path / "cache", shared=True)
    refusal(place, "is a link that leads out")
    (tmp_path / "cache" / "blobs" / ".huggingface-shared-blobs").write_text("1")
    assert source_fingerprint(str(place)) == source_fingerprint(str(source))


@pytest.mark.parametrize("name", ["LICENSE", "tokenizer.model", "additional_chat_templates/x.jinja"])
def test_link_out_of_the_directory_is_not_copied_into_an_export(source, tmp_path, name):
    (tmp_path / "secret").write_text("secret")
    (tmp_path / "out").mkdir()
    (source / name).parent.mkdir(exist_ok=True)
    (source / name).unlink(missing_ok=True)
    (source / name).symlink_to(tmp_path / "secret")
    with pytest.raises(SourceError, match="is a link that leads out"):
        copy_companions(str(source), tmp_path / "out")
    assert not any("secret" in path.read_text() for path in (tmp_path / "out").rglob("*") if path.is_file())


def test_folder_of_templates_that_is_a_link_is_not_copied(source, tmp_path):
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere" / "x.jinja").write_text("secret")
    (source / "additional_chat_templates").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "out").mkdir()
    with pytest.raises(SourceError, match=r"additional_chat_templates/x\.jinja is a link"):
        copy_companions(str(source), tmp_path / "out")


def test_no_code_is_copied_whatever_it_is_called(source, tmp_path):
    for name in ("tokenizer.py", "LICENSE.PY", "chat_template.py"):
        (source / name).write_text("print()")
    (tmp_path / "out").mkdir()
    copy_companions(str(source), tmp_path / "out")
    assert not [path for path in (tmp_path / "out").iterdir() if path.suffix.lower() == ".py"]
    assert licence_files(str(source)) == ["LICENSE"]


@pytest.mark.parametrize(
    ("card", "licence"),
    [
        ("license: [mit, apache-2.0]", {"license": "mit, apache-2.0"}),
        ("a: &a [x, x]\nlicense: [*a, *a]", {}),
        ("license: {a: b}", {}),
        ("license: " + "[" * 5000, {}),
    ],
    ids=lambda part: str(part)[:20],
)
def test_odd_card_gives_no_licence(source, card, licence):
    (source / "README.md").write_text(f"---\n{card}\n---\n")
    assert source_licence(str(source)) == licence


def test_card_that_is_a_link_out_of_the_directory_is_not_read(source, tmp_path):
    (source / "README.md").rename(tmp_path / "README.md")
    (source / "README.md").symlink_to(tmp_path / "README.md")
    assert source_licence(str(source)) == {}


def test_names_from_files_leave_the_message_one_line_that_can_be_printed(source):
    shard(source)
    (source / WEIGHTS).unlink()
    files = json.loads((source / INDEX).read_text())["weight_map"]
    (source / INDEX).write_text(json.dumps({"weight_map": {"a\n\u2028b": next(iter(files.values()))}}))
    assert refusal(source, "would be in").isprintable()


# What it is called


@pytest.mark.parametrize("name", ["", "\0", "x" * 5000, "~nobody-of-this-name/x", "./nowhere", "a/b/c"])
def test_name_that_is_no_directory_is_refused(name):
    with pytest.raises(SourceError) as error:
        read_config(name)
    message = str(error.value)
    assert message.startswith("model.source=") and "Correct the" in message


@pytest.mark.parametrize(
    "name",
    [WEIGHTS, "generation_config.json", "tokenizer.json", "tokenizer_config.json", "LICENSE", "README.md"],
)
def test_pipe_in_the_place_of_any_file_is_refused(source, tmp_path, name):
    (source / name).unlink(missing_ok=True)
    os.mkfifo(source / name)
    refusal(source, f"its {name} is a pipe or a device")


@pytest.mark.parametrize("name", ["tokenizer.json", "LICENSE", "vocab.json"])
def test_terabyte_beside_the_weights_is_refused_and_not_copied(source, tmp_path, name):
    with (source / name).open("ab") as file:
        file.truncate(10**12)  # a hole
    refusal(source, f"its {name} has 1,000,000,000,000 bytes")
    (tmp_path / "out").mkdir()
    with pytest.raises(SourceError, match="such a file has at most"):
        copy_companions(str(source), tmp_path / "out")
    assert not (tmp_path / "out" / name).exists()
