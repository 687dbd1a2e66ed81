"""A file of gates in which any byte was changed is refused; one of an earlier version is read."""

import json
import logging
import struct

import pytest
import torch
from safetensors.torch import load_file
from safetensors.torch import save as safetensors_bytes

from shear_lit.pruning.artefact import gates_file, read_kept
from shear_lit.pruning.constraints import LAGRANGIAN
from shear_lit.ranking import sealed
from shear_lit.ranking.scores import HEADER, ScoresError, read_scores, scores_file
from tests.memory import peak_bytes
from tests.ranking.test_scores import GOAL, ORIGIN, importance


def cut_gates():
    log_alpha = {axis: values * 9 - 4.5 for axis, values in importance().items()}
    return gates_file(log_alpha, ORIGIN, values=LAGRANGIAN.standing(log_alpha, GOAL))


@pytest.fixture(params=[lambda: scores_file(importance(), ORIGIN), cut_gates], ids=["scores", "gates"])
def stored(tmp_path, request):
    path = tmp_path / "gates.shear"
    path.write_bytes(request.param())
    return path


def test_every_byte_counts(stored):
    """Of the header every fifth, of the tensors one in two hundred; each is changed in one bit, for itself."""
    whole = stored.read_bytes()
    assert len(read_scores(str(stored)).importance) == 5
    header = 8 + int.from_bytes(whole[:8], "little")
    for place in [*range(0, header, 5), *range(header, len(whole), 200), len(whole) - 1]:
        changed = bytearray(whole)
        changed[place] ^= 1
        stored.write_bytes(changed)
        with pytest.raises(ScoresError, match=r"gates='.*gates.shear' cannot be used") as found:
            read_scores(str(stored))
        assert "\n" not in str(found.value), place


def without_checksum(path):
    """The same file as versions before wrote it."""
    content = path.read_bytes()
    header = json.loads(content[8 : 8 + int.from_bytes(content[:8], "little")])["__metadata__"]
    del header[sealed.CHECKSUM]
    path.write_bytes(safetensors_bytes(load_file(path), metadata=header))


def test_file_of_an_earlier_version_is_read_and_says_that_nothing_is_compared(stored, caplog):
    expected = read_scores(str(stored)).importance
    without_checksum(stored)
    with caplog.at_level(logging.INFO):
        found = read_scores(str(stored)).importance
    assert all(torch.equal(found[axis], rows) for axis, rows in expected.items())
    assert caplog.text.count("carries no checksum") == 1


def test_changed_number_of_an_earlier_file_would_be_taken(stored):
    """The twin: without a checksum a changed number is as good as another."""
    expected = read_scores(str(stored)).importance
    without_checksum(stored)
    content = bytearray(stored.read_bytes())
    content[-2] ^= 1
    stored.write_bytes(content)
    found = read_scores(str(stored)).importance
    assert not all(torch.equal(found[axis], rows) for axis, rows in expected.items()) or read_kept(
        str(stored)
    )


def test_kept_units_are_read_by_the_same_reader(tmp_path):
    path = tmp_path / "gates.shear"
    content = bytearray(cut_gates())
    content[-1] ^= 1
    path.write_bytes(content)
    with pytest.raises(ScoresError, match="checksum differs"):
        read_kept(str(path))


@pytest.mark.parametrize(
    "change",
    [
        lambda kept: {**kept, "kept.hidden": kept["kept.hidden"] + 40},
        lambda kept: {**kept, "kept.hidden": kept["kept.hidden"] - 40},
        lambda kept: {**kept, "kept.layers": kept["kept.layers"].float()},
        lambda kept: {**kept, "kept.kv_heads": kept["kept.kv_heads"][:2]},
        lambda kept: {**kept, "kept.query_heads": kept["kept.query_heads"].flip(-1)},
    ],
    ids=["too large", "negative", "no integers", "too few rows", "out of order"],
)
def test_kept_units_that_the_source_does_not_have_are_refused(tmp_path, change):
    path = tmp_path / "gates.shear"
    path.write_bytes(cut_gates())
    assert read_kept(str(path)) is not None
    header = {"format": "pt", HEADER: json.dumps(ORIGIN.to_entry())}
    tensors = {name: tensor.contiguous() for name, tensor in change(load_file(path)).items()}
    path.write_bytes(sealed.sealed_file(tensors, header))
    with pytest.raises(ScoresError, match="units that its source does not have"):
        read_kept(str(path))


def claims(path, header_bytes, size):
    """A file of zeros that takes no room, and claims a header."""
    with path.open("wb") as file:
        file.write(struct.pack("<Q", header_bytes) + b'{"__metadata__":{')
        file.truncate(size)


@pytest.mark.parametrize(
    ("header_bytes", "size"), [(2**31, 2**31 + 100), (2**28, 2**28 + 100), (2**60, 1000), (100, 2**31)]
)
def test_file_that_claims_gigabytes_is_refused_without_the_memory(tmp_path, header_bytes, size):
    path = tmp_path / "gates.shear"
    claims(path, header_bytes, size)
    message, peak = peak_bytes(read_scores, str(path))
    assert "gates=" in message and "at most" in message and "\n" not in message
    assert peak < 50e6


def test_memory_of_one_that_is_read_whole_would_be_seen(tmp_path):
    """The twin: the measure sees what reading the file would cost."""
    path = tmp_path / "gates.shear"
    claims(path, 2**28, 2**28 + 100)
    assert peak_bytes(lambda place: place.read_bytes() and None, path)[1] > 200e6
