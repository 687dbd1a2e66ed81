"""Losses in chunks, against whole logits in float64 and automatic differentiation."""

import math
from dataclasses import replace

import pytest
import torch
from torch.nn import functional

from shear_lit.theory import losses
from shear_lit.theory.losses import IGNORED, Given, Head, Weights, next_tokens, objective, token_losses

ROWS, WIDTH, THEIRS, VOCABULARY = 11, 7, 9, 23
KINDS = ("forward_kl", "reverse_kl", "jensen_shannon")


def case(*, bias=False, cap=None, dtype=torch.float64, theirs=VOCABULARY, seed=0):
    numbers = torch.Generator().manual_seed(seed)

    def draw(*shape, scale=1.0):
        return (torch.randn(*shape, generator=numbers, dtype=torch.float64) * scale).to(dtype)

    hidden = draw(ROWS, WIDTH).requires_grad_()
    head = Head(
        draw(VOCABULARY, WIDTH).requires_grad_(),
        draw(VOCABULARY).requires_grad_() if bias else None,
        cap,
    )
    teacher = Given(draw(ROWS, THEIRS), Head(draw(theirs, THEIRS), draw(theirs) if bias else None, cap))
    targets = torch.randint(0, VOCABULARY, (ROWS,), generator=numbers)
    targets[[2, 10]] = IGNORED
    return hidden, head, targets, teacher


def logits_of(hidden, head):
    logits = functional.linear(hidden, head.weight, head.bias)
    return logits if head.cap is None else head.cap * torch.tanh(logits / head.cap)


def expected(hidden, head, targets, teacher, weights):
    """By the definitions, with torch's own functions."""
    logits, counted = logits_of(hidden, head), targets != IGNORED
    language = functional.cross_entropy(logits[counted], targets[counted], reduction="sum")
    theirs = logits_of(*teacher)
    both = min(logits.shape[1], theirs.shape[1])
    log_q, log_p = ((part[counted, :both] / weights.temperature).log_softmax(-1) for part in (logits, theirs))
    middle = ((log_q.exp() + log_p.exp()) / 2).log()

    def kl(log_first, log_second):
        return functional.kl_div(log_second, log_first, reduction="sum", log_target=True)

    divergence = {
        "forward_kl": lambda: kl(log_p, log_q),
        "reverse_kl": lambda: kl(log_q, log_p),
        "jensen_shannon": lambda: (kl(log_p, middle) + kl(log_q, middle)) / 2,
    }[weights.kind]() * weights.temperature**2
    return weights.language * language + weights.divergence * divergence, language, divergence


def gradients(total, hidden, head):
    parameters = [hidden, head.weight, *([head.bias] if head.bias is not None else [])]
    return torch.autograd.grad(3 * total, parameters)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    "options", [{}, {"bias": True}, {"cap": 1.5}, {"theirs": 19}, {"theirs": 30}], ids=str
)
@pytest.mark.parametrize("language", [0.0, 0.7])
@pytest.mark.parametrize("temperature", [1.0, 2.5])
def test_objective_in_chunks_is_that_of_whole_logits(monkeypatch, kind, options, language, temperature):
    monkeypatch.setattr(losses, "CHUNK_LOGITS", 4 * VOCABULARY)
    weights = Weights(language=language, divergence=0.4, temperature=temperature, kind=kind)
    hidden, head, targets, teacher = case(**options)
    found = objective(hidden, head, targets, weights, teacher)
    wanted = expected(hidden, head, targets, teacher, weights)
    torch.testing.assert_close(tuple(found[:3]), wanted, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(found.tokens.view(targets.shape), token_losses(hidden, head, targets))
    slopes = gradients(found.total, hidden, head), gradients(wanted[0], hidden, head)
    torch.testing.assert_close(*slopes, rtol=1e-11, atol=1e-12)


@pytest.mark.parametrize("kind", KINDS)
def test_objective_in_float32_is_that_of_float64_to_1e_6(kind):
    weights = Weights(language=0.5, divergence=0.5, kind=kind)
    narrow, wide = case(dtype=torch.float32, cap=30.0), case(cap=30.0)
    found, wanted = objective(*narrow[:3], weights, narrow[3]), objective(*wide[:3], weights, wide[3])
    assert float(found.total.detach()) == pytest.approx(float(wanted.total.detach()), rel=1e-6)
    for slope, exact in zip(
        gradients(found.total, *narrow[:2]), gradients(wanted.total, *wide[:2]), strict=True
    ):
        torch.testing.assert_close(slope.double(), exact, rtol=0, atol=1e-6 * float(exact.abs().max()))


def test_language_loss_alone_needs_no_teacher_and_torch_agrees():
    hidden, head, targets, _ = case(bias=True)
    found = objective(hidden, head, targets, Weights())
    wanted = functional.cross_entropy(logits_of(hidden, head), targets, reduction="sum")
    torch.testing.assert_close(found.total, wanted)
    assert float(found.divergence) == 0
    losses_of_rows = token_losses(hidden, head, targets)
    torch.testing.assert_close(losses_of_rows.sum(), wanted)
    assert not losses_of_rows.requires_grad and bool((losses_of_rows[targets == IGNORED] == 0).all())


@pytest.mark.parametrize("kind", KINDS)
def test_model_that_is_its_own_teacher_has_no_divergence_and_no_gradient(kind):
    hidden, head, targets, _ = case(cap=2.0)
    weights = Weights(language=0.0, divergence=1.0, temperature=1.5, kind=kind)
    found = objective(hidden, head, targets, weights, Given(hidden.detach(), head))
    assert float(found.total.detach()) == pytest.approx(0, abs=1e-13)
    assert all(float(slope.abs().max()) < 1e-13 for slope in gradients(found.total, hidden, head))


def test_row_from_which_nothing_is_predicted_may_hold_anything():
    hidden, head, targets, teacher = case()
    with torch.no_grad():
        hidden[2] = math.inf
    weights = replace(Weights(), divergence=1.0)
    found = objective(hidden, head, targets, weights, teacher)
    assert bool(found.total.isfinite())


def test_target_is_the_next_token_of_the_same_sequence():
    labels = torch.tensor([[3, 4, IGNORED], [5, 6, 7]])
    assert next_tokens(labels).tolist() == [[4, IGNORED, IGNORED], [6, 7, IGNORED]]


def test_whole_logits_are_never_there(monkeypatch):
    monkeypatch.setattr(losses, "CHUNK_LOGITS", 3 * VOCABULARY)
    made = []

    class Sizes(torch.utils._python_dispatch.TorchDispatchMode):
        def __torch_dispatch__(self, function, types, args=(), kwargs=None):
            found = function(*args, **(kwargs or {}))
            made.extend(
                part.numel()
                for part in torch.utils._pytree.tree_leaves(found)
                if isinstance(part, torch.Tensor)
            )
            return found

    hidden, head, targets, teacher = case(bias=True, cap=3.0)
    with Sizes():
        total = objective(hidden, head, targets, Weights(divergence=1.0), teacher).total
        total.backward()
    assert max(made) <= max(3 * VOCABULARY, head.weight.numel(), teacher.head.weight.numel())
    assert max(made) < ROWS * VOCABULARY
