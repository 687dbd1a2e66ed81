"""Every file in configs/data/ prepares text that lies as it says."""

import gzip
import json
from pathlib import Path

import pytest
import yaml

from shear_lit import cli
from shear_lit.data.prepared.reading import read_manifest
from tests.toy import CONFIGS

FILES = sorted((CONFIGS / "data").glob("*.yaml"))


def lines(name, count=400):
    return "".join(json.dumps(record(name, n)) + "\n" for n in range(count)).encode()


def record(name, number):
    """Text, and a conversation beside it."""
    text = f"{name} says {number} and then {number * number}"
    return {"text": text, "instruction": f"{name}?", "output": text}


def write(path, name):
    """Some text of the kind that the name of the file tells."""
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix == ".gz":
        path.write_bytes(gzip.compress(lines(name)))
    elif path.suffix == ".zst":
        path.write_bytes(pytest.importorskip("zstandard").compress(lines(name)))
    elif path.suffix == ".parquet":
        arrow = pytest.importorskip("pyarrow")
        from pyarrow import parquet

        parquet.write_table(
            arrow.Table.from_pylist([json.loads(line) for line in lines(name).splitlines()]), path
        )
    elif path.suffix == ".jsonl":
        path.write_bytes(lines(name))
    else:
        path.write_text(f"a document of {name}")


@pytest.fixture
def laid_out(tmp_path, monkeypatch):
    """Text as the domains of a file say that it lies, in the current directory."""

    made = {}

    def lay_out(domains):
        for name, patterns in domains.items():
            for number, pattern in enumerate([patterns] if isinstance(patterns, str) else patterns):
                if pattern.startswith("hf://"):
                    data_sets = pytest.importorskip("datasets")
                    texts = [f"{name} says {n} and then {n * n}" for n in range(400)]
                    made[pattern.removeprefix("hf://").split(":")[0]] = data_sets.Dataset.from_dict(
                        {"text": texts}
                    )
                    monkeypatch.setattr("datasets.load_dataset", lambda name, *_, **__: made[name])
                else:
                    write(Path(pattern.replace("**", "a/b").replace("*", "part-0")), f"{name}-{number}")

    monkeypatch.chdir(tmp_path)
    return lay_out


@pytest.mark.parametrize("file", FILES, ids=lambda path: path.stem)
def test_an_example_prepares_text_that_lies_as_it_says(file, laid_out, tokenizer_directory, caplog):
    settings = yaml.safe_load(file.read_text())
    caplog.set_level("INFO")
    laid_out(settings["domains"])
    is_chat = "format" in settings
    smaller = [
        f"--sequence_length={128 if is_chat else 32}",
        f"--tokenizer={tokenizer_directory}",
        "--workers=1",
    ]
    smaller += [f"--tokens.{split}=600" for split, size in settings.get("tokens", {}).items() if size]
    cli.main(["prepare", f"--config={file}", *smaller])
    manifest = read_manifest(settings["output"])
    assert set(manifest.domains) == set(settings["domains"])
    assert manifest.packing == settings.get("packing", "best_fit" if is_chat else "concatenate")
    page = (Path(settings["output"]) / "README.md").read_text()
    for name, domain in manifest.domains.items():
        assert all(record.sequences for record in domain.splits.values()) and f"| {name} |" in page
    assert "left over" in caplog.text
