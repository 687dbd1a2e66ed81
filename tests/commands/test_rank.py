"""Ranking, cutting from a ranking, and looking at what is kept."""

import json
from itertools import pairwise
from types import SimpleNamespace

import pytest
import torch
from safetensors.torch import load_file
from torch.nn.functional import cross_entropy
from transformers import AutoModelForCausalLM, MistralForCausalLM

from shear_lit.commands import exporting as export_command
from shear_lit.commands import ranking as command
from shear_lit.commands.export import export
from shear_lit.commands.failures import UsageError
from shear_lit.commands.gates import gates
from shear_lit.commands.rank import rank
from shear_lit.data.prepared.reading import read_manifest
from shear_lit.data.serving.sampled import ValidationLoader
from shear_lit.data.serving.store import SequenceStore
from shear_lit.disk.writing import OutputError
from shear_lit.mistakes import Mistake
from shear_lit.models import clients
from shear_lit.models.clients import Conditions, Reading, Verdict
from shear_lit.models.huggingface import source_fingerprint
from shear_lit.models.llama import llama
from shear_lit.models.registry import family_of
from shear_lit.pruning.attach import attach
from shear_lit.pruning.carve import carve
from shear_lit.pruning.starts import ranked_gates
from shear_lit.ranking.gradients import by_squared_gradients, gate_gradients
from shear_lit.ranking.scores import Origin, ScoresError, read_scores, scores_file
from shear_lit.theory.shape import Axis, ModelShape, ShapeError
from tests.ranking.passages import passages, whole
from tests.toy_families import FORMS, model_of

CRITERIA = ("default", "fisher", "taylor", "activation", "weight", "random")
OF_LAYERS = ("block_influence", "depth", "loss", "loss_window")
TARGET = ModelShape(layers=2, hidden=24, query_heads=2, kv_heads=1, intermediate=32)
BOTH = ModelShape(layers=2, hidden=24, query_heads=2, kv_heads=2, intermediate=32)
DEPTH = ModelShape(layers=2, hidden=32, query_heads=8, kv_heads=2, intermediate=48)


@pytest.fixture(scope="module")
def scores(toy, tmp_path_factory):
    """A file of scores by criterion, made once."""
    made = {}

    def of(criterion, source="gqa-tied"):
        path = tmp_path_factory.getbasetemp() / f"{criterion}-{source}.safetensors"
        if path not in made:
            data = None if criterion in ("weight", "random") else str(toy.data)
            made[path] = rank(str(toy.source(source)), str(path), criterion, data, sequences_per_domain=2)
        return str(path)

    return of


@pytest.mark.parametrize("criterion", [*CRITERIA, *OF_LAYERS])
def test_every_criterion_orders_units_and_cuts_the_source(toy, tmp_path, scores, criterion):
    found = read_scores(scores(criterion))
    of = dict.fromkeys(tuple(Axis)[1:], "activation") | {Axis.INTERMEDIATE: "peak_to_peak"}
    named = f"layers=block_influence, {', '.join(f'{axis}={name}' for axis, name in of.items())}"
    assert found.origin.criterion == (named if criterion == "default" else criterion)
    assert (found.origin.data_fingerprint is None) == (criterion in ("weight", "random"))
    assert found.importance.keys() == ({Axis.LAYERS} if criterion in OF_LAYERS else set(Axis))
    target = DEPTH if criterion in OF_LAYERS else TARGET
    result = export(gates=scores(criterion), output=str(tmp_path / "out"), target=target)
    assert result.shape == target and 0 <= result.gated_difference <= 1e-5
    source = AutoModelForCausalLM.from_pretrained(toy.source())
    family = llama(source.config)
    values = ranked_gates(found.importance, family.shape, target)
    expected = carve(dict(source.named_parameters()), family, values)
    written = load_file(tmp_path / "out" / "model.safetensors")
    assert written.keys() == expected.keys()
    assert all(torch.equal(written[name], tensor) for name, tensor in expected.items())
    kept = json.loads((tmp_path / "out" / "gates.json").read_text())["kept"]
    best = found.importance[Axis.LAYERS].topk(2).indices.sort().values.tolist()
    assert kept["layers"] == best


def test_criteria_differ(scores):
    names = [*CRITERIA[1:], "depth"]
    found = {name: read_scores(scores(name)).importance[Axis.LAYERS].tolist() for name in names}
    assert len({tuple(values) for values in found.values()}) == len(names)
    # A criterion of layers stands for block influence where activations order all axes.
    both = [read_scores(scores(name)).importance[Axis.LAYERS] for name in ("activation", "block_influence")]
    assert torch.equal(*both)


def test_each_axis_may_have_a_criterion_of_its_own(toy, tmp_path, scores):
    path = str(tmp_path / "mixed.safetensors")
    mixed = {"layers": "depth", "hidden": "fisher"}
    rank(str(toy.source()), path, mixed, str(toy.data), sequences_per_domain=2)
    found = read_scores(path)
    of = {Axis.LAYERS: "depth", Axis.HIDDEN: "fisher", Axis.KV_HEADS: "activation"}
    for axis, criterion in of.items():
        alone = read_scores(scores(criterion)).importance[axis]
        torch.testing.assert_close(found.importance[axis], alone, rtol=1e-4, atol=1e-9)
    assert found.origin.criterion.startswith("layers=depth, hidden=fisher, kv_heads=activation")
    page = (tmp_path / "mixed.html").read_text()
    assert page.count('class="bars"') > 10 and "mean squared gradients" in page and "Agreement" in page


def test_no_size_of_a_batch_and_no_sample_but_the_text_itself_orders_units(toy, tmp_path):
    """Passages go through one at a time; another sample of the text is another order."""
    found = []
    for sample in (0, 0, 1):
        path = tmp_path / f"{len(found)}.safetensors"
        rank(str(toy.source()), str(path), "fisher", str(toy.data), sequences_per_domain=2, sample=sample)
        found.append(read_scores(str(path)).importance)
    for axis in Axis:
        assert torch.equal(found[0][axis], found[1][axis])
    assert any(not torch.equal(found[0][axis], found[2][axis]) for axis in Axis)


def test_scores_of_one_shape_cut_another(tmp_path, scores):
    other = ModelShape(layers=1, hidden=16, query_heads=4, kv_heads=2, intermediate=40)
    assert export(gates=scores("fisher"), output=str(tmp_path / "a"), target=other).shape == other


def test_gates_of_a_cut_cut_the_same_source_again(tmp_path, scores):
    export(gates=scores("fisher"), output=str(tmp_path / "a"), target=TARGET)
    smaller = ModelShape(layers=1, hidden=16, query_heads=2, kv_heads=1, intermediate=16)
    result = export(gates=str(tmp_path / "a" / "gates.shear"), output=str(tmp_path / "b"), target=smaller)
    assert result.shape == smaller


def test_llama_is_cut_as_mistral_at_a_hidden_size_that_llama_refuses(toy, tmp_path, scores):
    odd = ModelShape(**{**TARGET.to_dict(), "hidden": 23})
    result = export(gates=scores("fisher"), output=str(tmp_path / "out"), target=odd, write_as="mistral")
    assert result.shape == odd and result.gated_difference <= 1e-5
    written = AutoModelForCausalLM.from_pretrained(tmp_path / "out", trust_remote_code=False)
    assert isinstance(written, MistralForCausalLM)
    assert (written.config.hidden_size, written.config.sliding_window) == (23, None)


def test_documents_that_are_kept_apart_are_ranked_by_as_if_each_were_read_alone(toy, tmp_path):
    path = str(tmp_path / "apart.safetensors")
    options = dict(sequences_per_domain=12, cross_document_attention=False)
    rank(str(toy.source()), path, "fisher", str(toy.data), **options)
    manifest = read_manifest(toy.data)
    store = SequenceStore(str(toy.data), "prune", manifest)
    batches = [batch["tokens"] for batch in ValidationLoader(store, sequences=12, micro_batch=4)]
    model, end = AutoModelForCausalLM.from_pretrained(toy.source()), manifest.tokenizer.eos_id
    assert any((tokens[:, 1:-1] == end).any() for tokens in batches)  # there are documents to keep apart

    def loss_of(tokens):
        losses = []
        for row in tokens:
            ends = [0, *((row[:-1] == end).nonzero().flatten() + 1).tolist(), len(row)]
            for document in (row[None, start:stop] for start, stop in pairwise(ends)):
                logits = model(document, use_cache=False).logits[0, :-1]
                losses.append(cross_entropy(logits, document[0, 1:], reduction="none"))
        return torch.cat(losses).mean()

    family = llama(model.config)
    sums = gate_gradients(
        lambda input_ids, labels, use_cache: SimpleNamespace(loss=loss_of(input_ids)),
        attach(model, family).set,
        passages(batches),
        source=family.shape,
        axes=tuple(Axis),
        device=torch.device("cpu"),
    )
    expected = by_squared_gradients(whole(sums))
    for axis, scores in read_scores(path).importance.items():
        torch.testing.assert_close(scores, expected[axis], rtol=1e-3, atol=1e-9)


def test_taylor_and_fisher_are_made_of_the_same_gradients(scores):
    """The square of a mean is at most the mean of the squares."""
    fisher, taylor = (read_scores(scores(name)).importance for name in ("fisher", "taylor"))
    for axis in Axis:
        assert (taylor[axis].square() <= fisher[axis] * (1 + 1e-4) + 1e-12).all()
        assert (taylor[axis] > 0).any()


@pytest.fixture
def no_weights(monkeypatch):
    def refuse(*args, **options):
        raise AssertionError("weights were read")

    for room in (command, export_command):
        monkeypatch.setattr(room, "read_model", refuse)


@pytest.mark.parametrize(
    ("given", "words"),
    [
        (dict(data=None, criterion="fisher"), ["data=None", "criterion=fisher", "shear-lit prepare"]),
        (dict(criterion={"hidden": "depth"}), ["criterion.hidden", "depth cannot order", "Use one of"]),
        (dict(criterion="weight"), ["has no effect", "criterion=weight", "Remove it"]),
        (dict(output="taken"), ["output=", "exists", "not overwritten"]),
    ],
    ids=["no data", "no criterion of the axis", "data without effect", "taken"],
)
def test_mistakes_of_ranking_are_named_before_weights_are_read(toy, tmp_path, no_weights, given, words):
    (tmp_path / "taken").touch()
    out = str(tmp_path / given.pop("output", "new"))
    with pytest.raises(Mistake) as found:
        rank(**{"source": str(toy.source()), "data": str(toy.data), "output": out, **given})
    assert all(word in str(found.value) for word in words), found.value
    assert not (tmp_path / "new").exists()


@pytest.mark.parametrize(
    ("given", "error", "words"),
    [
        (dict(source="mha-untied"), ScoresError, ["is of", "fingerprint", "Name that model"]),
        (dict(criterion="depth"), ScoresError, ["criterion depth", "hidden", "another criterion"]),
        (dict(target=None), ShapeError, ["no target is given", "exactly one"]),
        (dict(target_preset="sheared-llama-370m"), ShapeError, ["are given", "exactly one"]),
        (dict(target=ModelShape(**{**TARGET.to_dict(), "hidden": 64})), ShapeError, ["larger than the source's 32"]),
        (dict(target=ModelShape(**{**TARGET.to_dict(), "hidden": 23})), ShapeError, ["hidden=23", "Use hidden=22"]),
        (dict(checkpoint="x.ckpt"), UsageError, ["checkpoint and gates", "exactly one"]),
        (dict(gates=None), UsageError, ["checkpoint and gates", "exactly one"]),
        (dict(gates=None, checkpoint="x.ckpt"), UsageError, ["target has no effect", "Remove it"]),
        (dict(gates=None, target=None, checkpoint="x.ckpt", write_as="mistral"), UsageError,
         ["write_as=mistral has no effect", "model.pruning.write_as=mistral"]),
        (dict(gates=None, target=None, checkpoint="x.ckpt", keep_layer_period=True), UsageError,
         ["keep_layer_period=true has no effect", "model.pruning.keep_layer_period=true"]),
        (dict(keep_layer_period=True), ShapeError, ["keep_layer_period=true has no effect", "of one kind"]),
    ],
    ids=lambda part: next(iter(part)) if isinstance(part, dict) else None,
)  # fmt: skip
def test_mistakes_of_cutting_are_named_before_weights_are_read(
    toy, tmp_path, scores, monkeypatch, given, error, words
):
    path = scores(given.pop("criterion", "fisher"))
    if "source" in given:
        given["source"] = str(toy.source(given["source"]))

    def refuse(*args, **options):
        raise AssertionError("weights were read")

    monkeypatch.setattr(export_command, "read_model", refuse)
    with pytest.raises(error) as found:
        export(**{"gates": path, "output": str(tmp_path / "out"), "target": TARGET, **given})
    assert all(word in str(found.value) for word in words), found.value
    assert not list(tmp_path.glob("out*"))


def test_odd_sizes_are_warned_of(tmp_path, scores):
    odd = ModelShape(**{**TARGET.to_dict(), "intermediate": 33})
    result = export(gates=scores("fisher"), output=str(tmp_path / "out"), target=odd)
    assert "WARNING: target intermediate=33 is no multiple of 8" in str(result)


@pytest.mark.parametrize("kept", [True, False])
def test_period_is_kept_where_it_is_asked_for_and_said_where_it_is_not(tmp_path, monkeypatch, caplog, kept):
    form = next(form for form in FORMS if form.family == "gemma2" and form.tied)
    network = model_of(form, dtype=torch.float32, num_hidden_layers=6, layer_types=None)
    network.save_pretrained(tmp_path / "source")
    shape = family_of(network.config).shape
    origin = Origin(
        source=str(tmp_path / "source"),
        source_fingerprint=source_fingerprint(str(tmp_path / "source")),
        source_shape=shape,
        criterion="depth",
    )
    first_last = {
        Axis.LAYERS: torch.arange(6.0)
    }  # blocks 1 to 5 rank highest: they begin with the last of a period
    (tmp_path / "scores").write_bytes(scores_file(first_last, origin))
    wrong = [Reading(
        conditions=Conditions(family="gemma2", rope="default", width="other", period="broken"),
        client="llama.cpp", version="1", source=Verdict.READS, export=Verdict.WRONG,
    )]  # fmt: skip
    monkeypatch.setattr(clients, "_table", lambda: wrong)
    target = ModelShape(**{**shape.to_dict(), "layers": 5})
    with caplog.at_level("INFO"):
        result = export(
            gates=str(tmp_path / "scores"),
            output=str(tmp_path / "out"),
            target=target,
            keep_layer_period=kept,
        )
    layers = json.loads((tmp_path / "out" / "gates.json").read_text())["kept"]["layers"]
    assert layers == ([0, 1, 2, 3, 4] if kept else [1, 2, 3, 4, 5])
    said = "without a word as another model by llama.cpp 1"
    assert (said in caplog.text) is (said in str(result)) is not kept
    assert (
        "llama.cpp 1: computes something else" in (tmp_path / "out" / "README.md").read_text()
    ) is not kept


def test_scores_beside_a_model_may_not_look_like_weights(toy, monkeypatch):
    for name in ("scores.safetensors", "scores.bin"):
        with pytest.raises(OutputError, match="lies in the directory of a model"):
            rank(str(toy.source()), str(toy.source() / name), "weight")
        assert not (toy.source() / name).exists()


def test_scores_say_how_much_text_they_were_measured_on(scores):
    origin = read_scores(scores("fisher")).origin
    assert origin.sequences > 0 and origin.tokens % origin.sequences == 0
    assert read_scores(scores("weight")).origin.tokens is None


def test_card_of_a_ranked_cut_names_its_criterion_and_its_text(tmp_path, scores):
    export(gates=scores("activation"), output=str(tmp_path / "out"), target=TARGET)
    card = (tmp_path / "out" / "README.md").read_text()
    origin = read_scores(scores("activation")).origin
    assert "without learned gates" in card and "`activation`" in card
    assert f"{origin.tokens:,} tokens ({origin.sequences:,} sequences)" in card


def test_gates_of_two_cuts_are_compared(tmp_path, scores):
    for name in ("fisher", "random"):
        export(gates=scores(name), output=str(tmp_path / name), target=TARGET)
    found = gates(str(tmp_path / "fisher"), str(tmp_path / "random"))
    mine, theirs = (json.loads((tmp_path / name / "gates.json").read_text()) for name in ("fisher", "random"))
    both = set(mine["kept"]["hidden"]) & set(theirs["kept"]["hidden"])
    assert found.agreement["hidden"] == pytest.approx((len(both) / 24, 24 / 32))
    assert found.shape == TARGET and list(found.layers) == mine["kept"]["layers"]
    assert [list(heads) for heads in found.heads.values()] == mine["kept"]["query_heads"]
    said = str(found)
    assert "layers kept" in said and "kept by both" in said and "hidden" in said
    same = gates(str(tmp_path / "fisher"), scores("fisher"), target=TARGET)
    assert all(share == 1 for share, _ in same.agreement.values())


def test_gates_that_cannot_be_compared_are_refused(toy, tmp_path, scores):
    with pytest.raises(ScoresError, match="holds an order of units, and no cut"):
        gates(scores("fisher"))
    rank(str(toy.source("mha-untied")), str(tmp_path / "other.safetensors"), "weight")
    with pytest.raises(ScoresError, match="cannot agree"):
        gates(scores("fisher"), str(tmp_path / "other.safetensors"), target=BOTH)


def test_gates_of_an_export_that_lie_elsewhere_are_not_read(scores, tmp_path):
    (tmp_path / "export").mkdir()
    (tmp_path / "export" / "gates.shear").symlink_to(scores("fisher"))
    with pytest.raises(ScoresError, match=r"gates\.shear' is a link that leads out of the directory"):
        gates(str(tmp_path / "export"), target=TARGET)
    gates(str(tmp_path / "export" / "gates.shear"), target=TARGET)
