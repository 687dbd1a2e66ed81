"""Scores on disk: what they say of themselves, and what is refused."""

import json

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from shear_lit.pruning.artefact import gates_file, kept_file, read_kept
from shear_lit.pruning.carve import kept_units
from shear_lit.pruning.constraints import LAGRANGIAN, Exact
from shear_lit.pruning.starts import ranked_gates
from shear_lit.ranking.scores import Origin, ScoresError, read_scores, scores_file
from shear_lit.theory import hard_concrete
from shear_lit.theory.shape import Axis, ModelShape
from tests.toy_models import TARGET

SOURCE = ModelShape(layers=4, hidden=48, query_heads=12, kv_heads=4, intermediate=40)
GOAL = TARGET[True]
ORIGIN = Origin(
    source="somewhere",
    source_fingerprint="f" * 64,
    source_shape=SOURCE,
    criterion="fisher",
    data_fingerprint="d" * 64,
)


def importance(axes=tuple(Axis)):
    generator = torch.Generator().manual_seed(0)
    return {axis: torch.rand(SOURCE.gate_shape(axis), generator=generator) for axis in axes}


@pytest.fixture
def stored(tmp_path):
    path = tmp_path / "gates.safetensors"
    path.write_bytes(scores_file(importance(), ORIGIN))
    return path


def test_scores_come_back_as_they_were_written(stored):
    found = read_scores(str(stored))
    assert found.origin == ORIGIN
    assert all(torch.equal(found.importance[axis], values) for axis, values in importance().items())


def test_scores_are_readable_without_this_package(stored):
    with safe_open(stored, framework="pt") as file:
        entry = json.loads(file.metadata()["shear_lit"])
    assert entry["criterion"] == "fisher" and entry["source_shape"]["hidden"] == 48
    assert set(load_file(stored)) == {f"score.{axis.value}" for axis in Axis}


def test_ranked_gates_keep_the_best_of_every_row_and_the_first_of_equal_ones():
    found = ranked_gates(importance(), SOURCE, GOAL)
    for axis, values in found.items():
        assert torch.equal(values.sum(-1), torch.full(values.shape[:-1], float(GOAL.units(axis))))
        worst_kept = torch.where(values > 0, importance()[axis], 9.0).amin(-1)
        best_gone = torch.where(values == 0, importance()[axis], -9.0).amax(-1)
        assert (worst_kept >= best_gone).all()
    equal = ranked_gates({axis: torch.ones(SOURCE.gate_shape(axis)) for axis in Axis}, SOURCE, GOAL)
    assert equal[Axis.HIDDEN][:36].all() and not equal[Axis.HIDDEN][36:].any()


def test_learned_gates_are_scores_too_and_hold_what_they_mean_and_keep(tmp_path):
    log_alpha = {axis: values * 9 - 4.5 for axis, values in importance().items()}
    values = LAGRANGIAN.standing(log_alpha, GOAL)
    path = tmp_path / "gates.safetensors"
    path.write_bytes(gates_file(log_alpha, ORIGIN, values=values))
    found, tensors = read_scores(str(path)), load_file(path)
    for axis in Axis:
        assert torch.equal(found.importance[axis], log_alpha[axis])
        assert torch.equal(
            tensors[f"probability.{axis.value}"], hard_concrete.keep_probability(log_alpha[axis])
        )
        assert torch.equal(tensors[f"gate.{axis.value}"], values[axis])
    kept = kept_units(values, SOURCE)
    assert torch.equal(read_kept(str(path)).intermediate, kept.intermediate)


def test_probabilities_of_exact_gates_sum_to_their_size(tmp_path):
    log_alpha = {Axis.HIDDEN: importance()[Axis.HIDDEN]}
    exact = Exact(kept={Axis.HIDDEN: 36.0}, sharpness=3.0, noise=1.0)
    path = tmp_path / "gates.safetensors"
    path.write_bytes(gates_file(log_alpha, ORIGIN, constraint=exact))
    assert float(load_file(path)["probability.hidden"].sum()) == pytest.approx(36, abs=1e-3)
    assert read_kept(str(path)) is None


def test_json_lists_kept_units_and_where_each_layer_was():
    log_alpha = {axis: values * 9 - 4.5 for axis, values in importance().items()}
    values = LAGRANGIAN.standing(log_alpha, GOAL)
    found = json.loads(kept_file(values, ORIGIN, log_alpha))
    kept = kept_units(values, SOURCE)
    assert found["kept"]["layers"] == kept.layers.tolist() == list(found["layer_map"].values())
    assert found["kept"]["hidden"] == kept.hidden.tolist()
    for new, old in found["layer_map"].items():
        assert found["kept"]["intermediate"][int(new)] == kept.intermediate[old].tolist()
        assert found["kept"]["query_heads"][int(new)] == kept.query_heads[old].tolist()
    assert found["source_fingerprint"] == "f" * 64 and found["shape"] == GOAL.to_dict()
    assert len(found["probability"]["layers"]["each"]) == SOURCE.layers


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (dict(fingerprint="0" * 64), ["'somewhere'", "fingerprint ffffffffffff", "000000000000", "rank this one"]),
        (dict(source=GOAL), ["'somewhere'", "units are others"]),
        (dict(lacking=Axis.HIDDEN), ["criterion fisher", "does not order hidden", "scores of another criterion"]),
    ],
    ids=["another source", "another shape", "an axis is missing"],
)  # fmt: skip
def test_scores_that_do_not_fit_are_refused(tmp_path, change, words):
    path = tmp_path / "gates.safetensors"
    axes = tuple(axis for axis in Axis if axis is not change.get("lacking"))
    path.write_bytes(scores_file(importance(axes), ORIGIN))
    scores = read_scores(str(path))
    with pytest.raises(ScoresError) as found:
        scores.check_source(
            change.get("source", SOURCE), fingerprint=change.get("fingerprint", ORIGIN.source_fingerprint)
        )
        scores.check_axes(tuple(Axis))
    for word in words:
        assert word in str(found.value)


def absent(path):
    path.unlink()


def cut_short(path):
    path.write_bytes(path.read_bytes()[:-40])


def of_another_kind(path):
    save_file({"weight": torch.zeros(3)}, path)


def of_another_size(path):
    path.write_bytes(scores_file({Axis.HIDDEN: torch.zeros(5)}, ORIGIN))


def not_finite(path):
    path.write_bytes(scores_file({Axis.HIDDEN: torch.full((48,), float("nan"))}, ORIGIN))


def of_no_axis(path):
    path.write_bytes(scores_file({}, ORIGIN))


@pytest.mark.parametrize(
    "damage", [absent, cut_short, of_another_kind, of_another_size, not_finite, of_no_axis]
)
def test_file_that_holds_no_scores_is_refused(stored, damage):
    damage(stored)
    with pytest.raises(ScoresError, match=r"gates='.*safetensors'"):
        read_scores(str(stored))
