"""Duplicates are found exactly, however many buckets there are and whatever was known before."""

import numpy as np
import pytest

from shear_lit.data.preparing import duplicates as module
from shear_lit.data.preparing.duplicates import mark_duplicates
from shear_lit.data.preparing.selecting import Marks
from shear_lit.data.tokens.spools import Spool, SpoolRecord, write_spool


def spool_of(path, hashes):
    """A spool of documents with these hashes and no tokens."""
    record = SpoolRecord(
        documents=len(hashes), tokens=0, numbers=len(hashes), rejected={}, first=[], token_type="uint16"
    )
    write_spool(path, record, b"".join(hashes), [np.empty(0, "<u2")] * len(hashes))
    return Spool(path)


def drawn(numbers, count, pool):
    """Hashes that often repeat, also in their first half only, and at both ends of the range."""
    ends = [bytes(16), b"\xff" * 16, bytes(8) + b"\x01" * 8]
    return [
        pool[n] if n < len(pool) else ends[n - len(pool)] for n in numbers.integers(0, len(pool) + 3, count)
    ]


@pytest.mark.parametrize("bucket_documents", [1_000_000, 50, 7])
def test_the_first_of_equal_documents_is_kept(tmp_path, monkeypatch, bucket_documents):
    monkeypatch.setattr(module, "BUCKET_DOCUMENTS", bucket_documents)
    numbers = np.random.default_rng(0)
    pool = [numbers.bytes(8) + numbers.bytes(8) for _ in range(150)]
    pool += [hash[:8] + numbers.bytes(8) for hash in pool[:40]]
    seen, earlier = set(), None
    for run in range(3):
        parts = [drawn(numbers, count, pool) for count in (40, 0, 100, 1)]
        spools = [spool_of(tmp_path / f"{run}-{n}", part) for n, part in enumerate(parts)]
        kept = tmp_path / f"kept-{run}"
        mark_duplicates(spools, tmp_path / "marks", earlier, kept)
        found = Marks(tmp_path / "marks", spools)
        for number, part in enumerate(parts):
            wanted = []
            for digest in part:
                wanted.append(digest in seen)
                seen.add(digest)
            assert found.of(number).tolist() == wanted
        hashes = np.fromfile(kept, "<u8").reshape(-1, 2).tolist()
        assert hashes == sorted([int.from_bytes(h[:8]), int.from_bytes(h[8:])] for h in seen)
        earlier = kept
    assert not list(tmp_path.glob("bucket-*"))


def test_no_documents_at_all_have_no_duplicates(tmp_path):
    spools = [spool_of(tmp_path / "0", [])]
    mark_duplicates(spools, tmp_path / "marks", None, tmp_path / "kept")
    assert Marks(tmp_path / "marks", spools).of(0).tolist() == [] and (tmp_path / "kept").stat().st_size == 0
