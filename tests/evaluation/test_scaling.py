"""The law of losses by size: published points, planted laws with noise, and what makes a fit doubtful."""

import math

import numpy as np
import pytest
import yaml

from shear_lit.commands.fitting import fit_references
from shear_lit.commands.reference_fit import fit
from shear_lit.data.order.references import read_references
from shear_lit.disk.writing import OutputError
from shear_lit.evaluation.scaling import FitError, fit_law
from tests.toy import CONFIGS

POINTS = CONFIGS / "references" / "llama2-points.yaml"
PUBLISHED = [2.1401, 0.8694, 2.3625, 1.7791, 2.047, 1.6637, 2.3139]
"""Reference losses of the 370M shape, from the authors' repository."""


def test_published_points_give_the_published_references(tmp_path):
    found = fit_references(str(POINTS), 373_867_520, tmp_path / "references.yaml")
    losses = [law.loss for law in found.laws.values()]
    assert losses == pytest.approx(PUBLISHED, abs=0.002)
    stored = read_references(tmp_path / "references.yaml")
    assert list(stored.losses.values()) == losses and stored.errors == {}
    text = str(found)
    assert "WARNING: cc: ILL-POSED" in text and "EXTRAPOLATED 18.0 times" in text and "EXACT" in text


def planted(sizes, target, *, noise, seed, known):
    law = lambda size: 1.2 + 60 * size**-0.2  # noqa: E731
    losses = law(sizes) + noise * np.random.default_rng(seed).standard_normal(len(sizes))
    found = fit_law(sizes, losses, np.full(len(sizes), noise) if known else None, target, seed=seed)
    return found, law(target)


def test_law_without_noise_is_found():
    found, loss = planted(np.geomspace(2e8, 2e10, 5), 1e8, noise=1e-12, seed=0, known=True)
    assert found.loss == pytest.approx(loss, abs=1e-6)
    assert (found.floor, found.power) == pytest.approx((1.2, 0.2), abs=1e-4)
    assert found.words == ()


@pytest.mark.parametrize(("count", "known"), [(6, True), (5, False)])
def test_intervals_cover_planted_laws(count, known):
    """Of 100 laws with noise, 90 to 99 % lie in their 95 % interval."""
    sizes, inside = np.geomspace(3e8, 3e9, count), 0
    for seed in range(100):
        found, loss = planted(sizes, 1.5e8, noise=0.004, seed=seed, known=known)
        inside += found.interval[0] <= loss <= found.interval[1]
    assert 0.90 <= inside / 100 <= 0.99


def test_losses_that_do_not_fall_and_too_few_sizes_are_refused():
    sizes = np.array([1e8, 1e9, 1e10])
    with pytest.raises(FitError, match="do not fall with the size"):
        fit_law(sizes, np.array([2.0, 2.1, 2.2]), None, 1e9)
    with pytest.raises(FitError, match="2 sizes: a law of three numbers"):
        fit_law(np.array([1e8, 1e8, 1e9]), np.array([2.2, 2.1, 2.0]), None, 1e9)


def test_nothing_tells_the_error_of_an_exact_fit():
    found = fit_law(np.array([1e8, 1e9, 1e10]), np.array([3.0, 2.5, 2.2]), None, 1e9)
    assert math.isnan(found.stderr) and found.words == (
        "EXACT: as many numbers as sizes, so that nothing tells its error",
    )


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ({"points": []}, "has no losses"),
        ({"points": [{"parameters": 5}]}, "the key losses"),
        ({"points": [{"parameters": 0, "losses": {"a": 1.0}}]}, "above 0"),
        (
            {"points": [{"parameters": 5, "losses": {"a": 1.0}}, {"parameters": 6, "losses": {"b": 1.0}}]},
            "point 2",
        ),
        ({"points": [{"parameters": 5, "losses": {"a": 1.0}, "errors": {"a": 0.0}}]}, "above 0"),
        ("nothing", "expected"),
    ],
)
def test_file_of_points_that_is_wrong_gets_one_line(tmp_path, content, words):
    file = tmp_path / "points.yaml"
    file.write_text(yaml.safe_dump(content))
    with pytest.raises(FitError) as found:
        fit(str(file), 100)
    assert words in str(found.value) and "\n" not in str(found.value)


def test_references_are_not_overwritten_by_a_fit(tmp_path):
    (tmp_path / "references.yaml").write_text("mine")
    with pytest.raises(OutputError, match="not overwritten"):
        fit(str(POINTS), 373_867_520, str(tmp_path / "references.yaml"))
