"""What a run would draw: exactly what the schedule draws, or close to it where the run is long."""

import json
from dataclasses import replace

import pytest

from shear_lit.data.errors import DataError
from shear_lit.data.looking import simulation
from shear_lit.data.looking.simulation import read_history, read_plan, simulate
from shear_lit.data.order.schedule import MixtureSchedule
from shear_lit.data.prepared.reading import read_manifest

UPDATES = [
    {"step": 0, "weights": {"a": 0.2, "b": 0.5, "c": 0.3}, "losses": None},
    {"step": 5, "weights": {"c": 0.1, "b": 0.15, "a": 0.75}, "losses": {"a": 2.0, "b": 1.0, "c": 1.0}},
    {"step": 30, "weights": {"a": 0.0, "b": 1.0, "c": 0.0}, "losses": None},
]
DOMAINS = ("a", "b", "c")


@pytest.fixture
def write(tmp_path):
    def write(content, name="mixture.json"):
        (tmp_path / name).write_text(content if isinstance(content, str) else json.dumps(content))
        return tmp_path / name

    return write


def history(path):
    return read_history(path, DOMAINS, "the data")


def drawn_by_the_schedule(manifest, steps, batch):
    schedule = MixtureSchedule(manifest.chunk_sizes("prune"), global_batch=batch, seed=17)
    weights = {update["step"]: [update["weights"][name] for name in DOMAINS] for update in UPDATES}
    state = schedule.start(weights[0])
    for step in range(steps):
        if step in weights:
            state = schedule.reweighted(state, weights[step])
        _, state = schedule.next_batch(state)
    return dict(zip(DOMAINS, state.drawn, strict=True))


@pytest.mark.parametrize(("steps", "batch"), [(3, 8), (20, 7), (40, 16)])
def test_a_run_is_counted_as_the_schedule_draws_it(prepared, write, steps, batch):
    manifest = read_manifest(prepared)
    supply = simulate(
        manifest, "prune", history(write({"updates": UPDATES})), steps=steps, global_batch=batch
    )
    assert supply.exact and supply.drawn == drawn_by_the_schedule(manifest, steps, batch)
    assert sum(supply.drawn.values()) == steps * batch


def test_a_domain_without_text_supplies_nothing(prepared, write):
    manifest = read_manifest(prepared)
    splits = manifest.domains["a"].splits
    empty = replace(manifest.domains["a"], splits=splits | {"prune": replace(splits["prune"], chunks=())})
    manifest = replace(manifest, domains=manifest.domains | {"a": empty})
    updates = [{"step": 0, "weights": {"a": 0.0, "b": 0.5, "c": 0.5}}]
    supply = simulate(manifest, "prune", history(write({"updates": updates})), steps=4, global_batch=8)
    assert supply.drawn == {"a": 0, "b": 16, "c": 16}
    assert "a " in str(supply)


def test_a_long_run_is_within_a_sequence_per_update(prepared, write, monkeypatch):
    manifest, past = read_manifest(prepared), history(write({"updates": UPDATES, "global_batch": 16}))
    exact = simulate(manifest, "prune", past, steps=40)
    monkeypatch.setattr(simulation, "EXACT_SEQUENCES", 10)
    close = simulate(manifest, "prune", past, steps=40)
    assert not close.exact
    for name in DOMAINS:
        assert abs(close.drawn[name] - exact.drawn[name]) <= len(UPDATES)
    assert "computed from the weights" in str(close) and "counted by the schedule" in str(exact)


def test_table_tells_tokens_and_epochs(prepared, write):
    one = {"updates": [{"step": 0, "weights": {"a": 1, "b": 1, "c": 0}}]}
    lines = str(
        simulate(read_manifest(prepared), "prune", history(write(one)), steps=13, global_batch=4)
    ).splitlines()
    assert lines[0] == "13 steps of 4 sequences, 208 tokens, counted by the schedule"
    assert lines[1].split() == ["domain", "sequences", "tokens", "share", "epochs", "lacks"]
    assert lines[2].split() == ["a", "26", "104", "0.5000", "2.0000", "52"]
    assert lines[3].split() == ["b", "26", "104", "0.5000", "0.6500", "0"]
    assert lines[4].split() == ["c", "0", "0", "0.0000", "0.0000", "0"]


def test_bytes_are_those_of_the_chunks_that_are_read(prepared, write):
    """Half of b once, all of a twice, nothing of c; windows are of eight chunks, and one more is the largest."""
    one = {"updates": [{"step": 0, "weights": {"a": 26, "b": 20, "c": 0}}]}
    manifest = read_manifest(prepared)
    supply = simulate(manifest, "prune", history(write(one)), steps=1, global_batch=46)
    size = {
        name: [sum(f.stat().st_size for f in prepared.glob(f"{name}/prune/chunk-0-{n}.*")) for n in range(8)]
        for name in "ab"
    }
    assert supply.fetched_bytes == (
        sum(size["a"]) + sum(size["b"]) // 2,
        2 * sum(size["a"]) + sum(size["b"]) // 2,
    )
    assert supply.window_bytes == sum(size["a"]) + sum(size["b"]) + max(size["b"])


def test_config_is_simulated_as_its_mixture(prepared, write):
    """What a domain lacks is what its weight asks for beyond its cap."""
    config = write(
        "trainer: {max_steps: 13}\n"
        "data: {global_batch: 4, mixture: {proportions: {a: 0.5, b: 0.5, c: 0.0}, max_epochs: {a: 1.0}}}\n",
        "fit.yaml",
    )
    found, steps, caps = read_plan(str(config), DOMAINS, "the data")
    supply = simulate(read_manifest(prepared), "prune", found, steps=steps, max_epochs=caps)
    assert (supply.steps, supply.global_batch) == (13, 4)
    assert supply.drawn == {"a": 13, "b": 39, "c": 0} and supply.lacks == {"a": 13.0, "b": 0.0, "c": 0.0}


@pytest.mark.parametrize(
    "content",
    [
        "{}",
        "[]",
        "data: {global_batch: 4}",
        "trainer: {max_steps: x}\ndata: {global_batch: 4, mixture: {proportions: {a: 1.0}}}",
        "trainer: {max_steps: 2}\ndata: {global_batch: 4, mixture: {proportions: {a: -1.0}}}",
        "trainer: {max_steps: 2}\ndata: {global_batch: 4, mixture: {proportions: {z: 1.0}}}",
        "a: !!python/object/apply:os.getcwd []",
    ],
)
def test_config_that_does_not_say_it_is_refused_in_one_line(write, content):
    with pytest.raises(DataError) as refused:
        read_plan(str(write(content, "fit.yaml")), DOMAINS, "the data")
    assert "fit.yaml" in str(refused.value) and "\n" not in str(refused.value)


def test_a_run_directory_is_as_good_as_its_file(write, tmp_path):
    whole = {
        "format": 1,
        "domains": list(DOMAINS),
        "global_batch": 4,
        "sequence_length": 4,
        "updates": UPDATES,
    }
    file = write(whole)
    assert history(tmp_path) == history(file) and history(file).global_batch == 4
    assert history(file).updates[1].step == 5 and history(file).updates[1].weights["a"] == 0.75


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{", "no mixture.json"),
        ("[]", "no mixture.json"),
        ({}, "the key updates is expected"),
        ({"updates": [{"step": 0}]}, "the key weights is expected"),
        ({"updates": []}, "must be there and rise"),
        ({"updates": UPDATES[1:]}, "begin with step 5: the first must be 0"),
        ({"updates": [UPDATES[0], UPDATES[0]]}, "must be there and rise"),
        ({"updates": [{"step": 0, "weights": {"a": 1, "b": 0}}]}, "the domains differ.*lacks c"),
        ({"updates": [UPDATES[0], {"step": 1, "weights": {"a": 1}}]}, "step 1 are not one mixture"),
        ({"updates": [{"step": 0, "weights": {"a": -1, "b": 1, "c": 1}}]}, "step 0 are not one mixture"),
        ({"updates": [{"step": 0, "weights": {"a": 0, "b": 0, "c": 0}}]}, "step 0 are not one mixture"),
        ({"format": 2, "updates": UPDATES}, "format 2, this version reads 1"),
    ],
)
def test_a_file_that_is_no_history_is_refused(write, content, message):
    with pytest.raises(DataError, match=message):
        history(write(content))


def test_a_run_without_length_or_batch_is_refused(prepared, write):
    past, manifest = history(write({"updates": UPDATES})), read_manifest(prepared)
    for steps, batch in ((0, 4), (4, 0), (4, None)):
        with pytest.raises(DataError, match="both must be at least 1"):
            simulate(manifest, "prune", past, steps=steps, global_batch=batch)
    with pytest.raises(DataError, match="cannot be read"):
        read_history("/nowhere/mixture.json", DOMAINS, "the data")


CAPS = {"a": 1.5, "c": 0.5}  # 19 of 13 and 11 of 22 sequences


def test_caps_are_those_of_the_schedule_and_the_table_says_when_domains_run_out(prepared, write):
    manifest, past = read_manifest(prepared), history(write({"updates": UPDATES[:2], "global_batch": 8}))
    supply = simulate(manifest, "prune", past, steps=20, max_epochs=CAPS)
    schedule = MixtureSchedule(manifest.chunk_sizes("prune"), global_batch=8, seed=17, max_epochs=CAPS)
    state, out = schedule.start((0.2, 0.5, 0.3)), {}
    for step in range(20):
        if step == 5:
            state = schedule.reweighted(state, (0.75, 0.15, 0.1))
        _, state = schedule.next_batch(state)
        for name, left in zip(DOMAINS, schedule.left(state), strict=True):
            if left == 0:
                out.setdefault(name, step + 1)
    assert supply.exact and supply.drawn == dict(zip(DOMAINS, state.drawn, strict=True))
    assert supply.drawn["a"] == 19 and supply.drawn["c"] == 11 and supply.runs_out == out
    lines = str(supply).splitlines()
    assert lines[1].endswith("runs out") and lines[2].endswith(f"1.4615    212  at step {out['a']}")
    assert lines[3].split()[-1] == "-"


def test_a_long_run_with_caps_is_computed_as_it_would_be_counted(prepared, write, monkeypatch):
    manifest, past = read_manifest(prepared), history(write({"updates": UPDATES, "global_batch": 8}))
    exact = simulate(manifest, "prune", past, steps=40, max_epochs=CAPS)
    monkeypatch.setattr(simulation, "EXACT_SEQUENCES", 10)
    close = simulate(manifest, "prune", past, steps=40, max_epochs=CAPS)
    assert not close.exact and sum(close.drawn.values()) == pytest.approx(320)
    for name in DOMAINS:
        assert abs(close.drawn[name] - exact.drawn[name]) <= len(UPDATES) + len(CAPS)
    assert close.runs_out.keys() == exact.runs_out.keys() == {"a", "c"}
    assert all(abs(close.runs_out[name] - exact.runs_out[name]) <= 1 for name in CAPS)


@pytest.mark.parametrize("most", [10, 2_000_000])
def test_a_run_for_which_too_little_is_there_is_refused(prepared, write, monkeypatch, most):
    monkeypatch.setattr(simulation, "EXACT_SEQUENCES", most)
    manifest, past = read_manifest(prepared), history(write({"updates": UPDATES[:1]}))
    whole = simulate(manifest, "prune", past, steps=9, global_batch=8, max_epochs=1)
    assert sum(whole.drawn.values()) == pytest.approx(72)  # of 75
    with pytest.raises(DataError, match=r"max_epochs: at global batch 9 .*Raise max_epochs"):
        simulate(manifest, "prune", past, steps=10, global_batch=8, max_epochs=1)


def test_a_cap_of_a_domain_that_is_not_there_is_refused(prepared, write):
    past = history(write({"updates": UPDATES, "global_batch": 8}))
    with pytest.raises(DataError, match=r"max_epochs=.*names law: the data in .* has a, b, c"):
        simulate(read_manifest(prepared), "prune", past, steps=4, max_epochs={"law": 1})
