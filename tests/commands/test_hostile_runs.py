"""Files of a run that were made to do harm, or broken: the page says so in a line, and shows the rest as text."""

import json
import logging
import shutil
import time

import pytest
import torch
import yaml

from shear_lit import cli
from shear_lit.commands.page_server import written
from shear_lit.ranking.scores import LEARNED, Origin, scores_and_more
from shear_lit.theory.shape import Axis
from tests.reporting.shown_runs import SMALL, Shown

BAD = "<script>alert('a secret')</script>"
MOST_SECONDS, MOST_BYTES = 10, 3 * 1024**2


def rows(*more):
    return "step,name,value\r\n" + "".join(f"{step},{name},{value}\r\n" for step, name, value in more)


def gates(**changes):
    """A file of gates whose probabilities are not what they should be."""
    random = torch.Generator().manual_seed(0)
    tensors = {}
    for axis in Axis:
        values = torch.randn(SMALL.gate_shape(axis), generator=random)
        tensors |= {f"log_alpha.{axis.value}": values, f"probability.{axis.value}": values.sigmoid()}
    origin = Origin(source=BAD, source_fingerprint="f" * 64, source_shape=SMALL, criterion=LEARNED)
    return scores_and_more({**tensors, **changes}, origin)


HOSTILE = {
    "metrics: not UTF-8": ("metrics.csv", b"step,name,value\n1,\xff,2\n"),
    "metrics: a field without an end": (
        "metrics.csv",
        f'step,name,value\n1,"{"x" * 200_000}'.encode() + b"\n",
    ),
    "metrics: huge values": (
        "metrics.csv",
        rows((1, "loss/language", 1e308), (2, "loss/language", -1e308)).encode(),
    ),
    "metrics: tiny values": (
        "metrics.csv",
        rows((1, "loss/language", 5e-324), (2, "loss/language", 1e-320)).encode(),
    ),
    "metrics: far steps": (
        "metrics.csv",
        rows((1 << 59, "loss/language", 1), (-5, "loss/language", 2)).encode(),
    ),
    "metrics: many digits": ("metrics.csv", rows(("9" * 5000, "loss/language", "9" * 5000)).encode()),
    "metrics: HTML": (
        "metrics.csv",
        rows((1, f"loss/validation/{BAD}", 2), (1, f"size/{BAD}/expected", 2)).encode(),
    ),
    "metrics: a long name": ("metrics.csv", rows((1, "x" * 100_000, 2)).encode()),
    "metrics: many names": (
        "metrics.csv",
        rows(*((1, f"loss/validation/{n}", n) for n in range(20_000))).encode(),
    ),
    "metrics: NUL": ("metrics.csv", b"step,name,value\n1,loss\x00/language,2\n"),
    "metrics: nothing": ("metrics.csv", b""),
    "config: objects": ("config.yaml", b"trainer: !!python/object/apply:os.system ['touch made']\n"),
    "config: other kinds": ("config.yaml", b"trainer: 5\nmodel: [1]\ndata: null\n"),
    "config: model of text": ("config.yaml", b"model: text\n"),
    "config: deep": (
        "config.yaml",
        yaml.safe_dump({"a": 1}).encode() + b"b:\n" + b"".join(b" " * n + b"c:\n" for n in range(1, 200)),
    ),
    "config: many aliases": (
        "config.yaml",
        b"a0: &a0 [1, 2]\n"
        + b"".join(b"a%d: &a%d [%s]\n" % (n, n, b",".join([b"*a%d" % (n - 1)] * 9)) for n in range(1, 8)),
    ),
    "config: HTML": ("config.yaml", yaml.safe_dump({"model": {"source": BAD, BAD: BAD}}).encode()),
    "mixture: no log": ("mixture.json", b'{"format": 1, "updates": 5}'),
    "mixture: no updates": (
        "mixture.json",
        json.dumps(
            {"format": 1, "domains": ["a"], "global_batch": 4, "sequence_length": 8, "updates": []}
        ).encode(),
    ),
    "mixture: huge weights": (
        "mixture.json",
        json.dumps(
            {
                "format": 1,
                "domains": ["a"],
                "global_batch": 4,
                "sequence_length": 8,
                "updates": [{"step": 0, "weights": {"a": 1e308}, "losses": None}],
            }
        ).encode(),
    ),
    "provenance: a list": ("provenance.json", b"[1]"),
    "provenance: other kinds": ("provenance.json", b'{"source": "x", "packages": [1]}'),
    "provenance: HTML": (
        "provenance.json",
        json.dumps({"commit": BAD, "packages": {BAD: BAD}, "source": {"name": BAD}}).encode(),
    ),
    "gates: garbage": ("gates/step=000040.safetensors", b"\xff" * 100),
    "gates: a header of a terabyte": (
        "gates/step=000040.safetensors",
        (10**12).to_bytes(8, "little") + b"{}",
    ),
    "gates: other shapes": (
        "gates/step=000040.safetensors",
        gates(**{"probability.layers": torch.zeros(3, 4)}),
    ),
    "gates: none": (
        "gates/step=000040.safetensors",
        gates(**{"probability.hidden": torch.full((32,), torch.nan)}),
    ),
    "gates: too large": (
        "gates/step=000040.safetensors",
        gates(**{"probability.hidden": torch.full((32,), 1e30)}),
    ),
    "gates: whole numbers": (
        "gates/step=000040.safetensors",
        gates(**{"probability.hidden": torch.ones(32, dtype=torch.int64)}),
    ),
    "gates: HTML": ("gates/step=000040.safetensors", gates()),
    "comparison: HTML": ("compare.md", f"# {BAD}\n\n| {BAD} | b |\n|---|---|\n| {BAD} | {BAD} |\n".encode()),
    "comparison: many rows": ("compare.md", b"# a\n\n| a | b |\n|---|---|\n" + b"| 1 | 2 |\n" * 20_000),
    "repair: not UTF-8": ("repair.md", b"| \xff |\n|---|\n| x |\n"),
    "mark: garbage": ("running.json", b"{"),
    "mark: other kinds": ("running.json", b"[1]"),
    "export: garbage": ("hf/gates.shear", b"\0" * 64),
}


@pytest.fixture(scope="module")
def good(tmp_path_factory):
    return Shown().write(tmp_path_factory.mktemp("hostile") / "run")


@pytest.mark.parametrize("name", HOSTILE)
def test_page_of_a_hostile_run_says_so_and_shows_the_rest(good, tmp_path, name, capsys, caplog):
    caplog.set_level(logging.WARNING)
    path, content = HOSTILE[name]
    run = tmp_path / "run"
    shutil.copytree(good, run)
    (run / path).parent.mkdir(exist_ok=True)
    (run / path).write_bytes(content)
    began = time.process_time()
    cli.main(["report", str(run)])
    page = (run / "report.html").read_text()
    assert time.process_time() - began < MOST_SECONDS and len(page.encode()) < MOST_BYTES
    assert written([(run, "run")], 30).startswith("<!doctype html>")  # what `look` serves
    assert "<script" not in page and "default-src 'none'" in page
    assert not (tmp_path / "made").exists() and not (run / "made").exists()
    assert all("\n" not in record.getMessage() for record in caplog.records)
    assert "report.html: open it" in capsys.readouterr().out


def test_good_run_has_no_notes(good, caplog):
    written([(good, "run")], 30)
    assert caplog.records == []


def test_domain_of_many_has_a_picture_only_among_the_first(good, tmp_path):
    run = Shown(domains=tuple(f"domain-{n:03}" for n in range(100))).write(tmp_path / "run")
    cli.main(["report", str(run)])
    page = (run / "report.html").read_text()
    assert "The first 60 of 100 domains" in page and page.count('aria-label="loss on domain-') == 60
