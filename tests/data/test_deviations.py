"""Where the data differs from the authors' release on purpose (docs/deviations.md), shown by number."""

from shear_lit.data.order.schedule import MixtureSchedule


def served(plan, batches):
    """The sequences of the first domain, in the order in which they are drawn."""
    state, drawn = plan.start([0.5, 0.5]), []
    for _ in range(batches):
        batch, state = plan.next_batch(state)
        drawn += [
            sequence
            for domain, sequence in zip(batch.domain.tolist(), batch.sequence.tolist(), strict=True)
            if domain == 0
        ]
    return drawn, state


def test_d7_exhausted_domain_is_shuffled_anew_and_its_epochs_are_counted():
    """The release stops at the first exhausted domain."""
    plan = MixtureSchedule({"small": [20], "large": [4000]}, global_batch=8, seed=3)
    drawn, state = served(plan, 10)
    assert len(drawn) == 40 and plan.epochs(state)["small"] == 2
    first, second = drawn[:20], drawn[20:]
    assert sorted(first) == sorted(second) == list(range(20)) and first != second


def test_d7_with_a_cap_of_one_epoch_a_domain_is_used_once():
    plan = MixtureSchedule({"small": [20], "large": [4000]}, global_batch=8, seed=3, max_epochs=1)
    drawn, state = served(plan, 30)
    assert len(drawn) == len(set(drawn)) <= 20
    assert state.weights == (0.0, 1.0)
