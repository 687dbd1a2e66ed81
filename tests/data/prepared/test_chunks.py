"""Where documents begin is read from a file, which may say anything; and it is part of what data is."""

from dataclasses import replace

import numpy as np
import pytest

from shear_lit.data.prepared.chunks import SequenceDocuments
from shear_lit.data.prepared.manifest import content_fingerprint
from shear_lit.data.prepared.reading import read_manifest

GOOD = SequenceDocuments(np.array([0, 2, 3]), np.array([8, 5]), np.array([0, 3, 2]))


def changed(place, value):
    values = np.frombuffer(GOOD.content(), "<u4").copy()
    values[place] = value
    return values.tobytes()


def test_what_is_written_is_read_again():
    found = SequenceDocuments.parsed(GOOD.content(), 2, 8)
    for name in ("firsts", "ends", "starts"):
        assert getattr(found, name).tolist() == getattr(GOOD, name).tolist()
    assert found.positions(0, 8).tolist() == [0, 1, 2, 0, 1, 2, 3, 4]
    assert found.positions(1, 8).tolist() == [0, 1, 0, 1, 2, 0, 1, 2]  # padding from the fifth on


@pytest.mark.parametrize(
    "content",
    [
        b"",
        GOOD.content()[:-1],
        GOOD.content() + b"\0\0\0\0",
        changed(0, 3),
        changed(2, 4),  # firsts that fall
        changed(3, 2**32 - 1),
        changed(5, 9),  # an end beyond the sequence
        changed(8, 8),  # a start beyond it
    ],
)
def test_what_cannot_be_is_refused(content):
    with pytest.raises(ValueError, match=r"chunk|cannot be|outside"):
        SequenceDocuments.parsed(content, 2, 8)


def test_data_with_other_bounds_is_other_data(prepared):
    manifest = read_manifest(prepared)

    def fingerprint(**changes):
        domain = manifest.domains["a"]
        chunks = domain.splits["prune"].chunks
        first = replace(chunks[0], **changes)
        split = replace(domain.splits["prune"], chunks=(first, *chunks[1:]))
        domains = manifest.domains | {"a": replace(domain, splits=domain.splits | {"prune": split})}
        return content_fingerprint(manifest.tokenizer, manifest.sequence_length, manifest.token_type, domains)

    record = manifest.domains["a"].splits["prune"].chunks[0].documents
    found = [
        fingerprint(),
        fingerprint(documents=None),
        fingerprint(documents=replace(record, sha256="e" * 64)),
        fingerprint(loss_mask=record),
    ]
    assert len(set(found)) == 4
