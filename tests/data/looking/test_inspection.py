"""Prepared data as a table."""

from dataclasses import replace

from shear_lit.data.looking.inspection import described
from shear_lit.data.prepared.reading import read_manifest


def test_packing_and_special_tokens_are_told(prepared):
    manifest = read_manifest(prepared)
    assert (
        "packed one document after the other; special tokens in text treated in a way that is not known"
        in described(manifest)
    )
    packed = described(replace(manifest, packing="best_fit", split_special_tokens=True))
    assert "packed by best fit, no document cut that fits; special tokens in text read as text" in packed
    assert "in text kept as such tokens" in described(replace(manifest, split_special_tokens=False))


def test_padding_is_told_where_there_is_any(prepared):
    manifest = read_manifest(prepared)
    assert "padding" not in described(manifest)
    domain = manifest.domains["b"]
    splits = domain.splits | {"prune": replace(domain.splits["prune"], padding=40)}  # of 40 sequences of 4
    lines = described(
        replace(manifest, domains=manifest.domains | {"b": replace(domain, splits=splits)})
    ).splitlines()
    titles = next(line for line in lines if line.startswith("domain"))
    assert titles.split()[-1] == "padding"
    shares = {tuple(line.split()[:2]): line.split()[-1] for line in lines if line[:2] in ("a ", "b ")}
    assert shares["b", "prune"] == "0.2500" and shares["a", "prune"] == "0.0000"
