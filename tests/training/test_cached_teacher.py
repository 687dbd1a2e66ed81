"""A run that learns from what its teacher said before is the run beside that teacher, where all of it was kept."""

import os

import pytest
import torch

from shear_lit.commands.export import export
from shear_lit.commands.rank import rank
from shear_lit.commands.teach import teach
from shear_lit.data.order.mixture import MixtureSettings
from shear_lit.data.prepared.reading import read_manifest
from shear_lit.data.serving.batch import model_inputs
from shear_lit.data.serving.datamodule import DomainData
from shear_lit.data.serving.store import SequenceStore
from shear_lit.data.taught.files import TeacherCache
from shear_lit.data.taught.record import read_record
from shear_lit.evaluation import teaching
from shear_lit.reporting.model_facts import TeacherFacts
from shear_lit.theory.shape import ModelShape
from shear_lit.training import learning
from shear_lit.training.checkpoints import read_facts
from shear_lit.training.distillation import Distillation
from shear_lit.training.learning import Learning
from shear_lit.training.module import ShearingModule
from shear_lit.training.run_checkpoints import latest_checkpoint
from shear_lit.training.teacher_checks import check_teacher
from tests.toy import TARGETS, trained_tokenizer, write_source
from tests.training.compare import difference
from tests.training.forks import ForkError, run
from tests.training.runs import fit
from tests.training.stops import same
from tests.training.test_distillation import DDP, FSDP2, GATES, ONE_STEP, gradient, loss_of

EVERYTHING = os.environ.get("SHEAR_LIT_DISTIL") == "all"
"""Whether what is left to `make distil` is tested as well."""
DRAWN = 8
"""Sequences of each domain: as many as one global batch can draw of it."""
STAGES = {"prune": GATES["lagrangian"], "pretrain": ()}


@pytest.fixture(scope="module")
def cached(toy, tmp_path_factory):
    """A cache of the sequences that a step draws, made once for each kind."""
    known = {}

    def of(stage, **options):
        key = (stage, *sorted(options.items()))
        if key not in known:
            known[key] = tmp_path_factory.mktemp("cached") / "cache"
            defaults = {"sequences_per_domain": DRAWN, "cross_document_attention": False, "temperature": 2.0}
            teach(
                str(teacher_of(toy, stage)), str(toy.data), str(known[key]), stage, **{**defaults, **options}
            )
        return known[key]

    return of


MIXTURE = MixtureSettings(
    proportions={"code": 0.5, "law": 0.3, "wiki": 0.2}, rule="static", update_every_steps=1
)
WHOLE = {"method": "top_k", "kept": 300}


def teacher_of(toy, stage):
    return toy.source() if stage == "prune" else toy.source("mha-untied")


def flags_of(toy, stage, cache=None, *more):
    found = [
        *STAGES[stage],
        f"--model.distillation.teacher={teacher_of(toy, stage)}",
        "--model.distillation.language_weight=0.5",
        "--model.distillation.temperature=2",
        *more,
    ]
    return found if cache is None else [*found, f"--model.distillation.cache={cache}"]


def without_a_teacher():
    """A run that reads the weights of a teacher fails."""
    learning.Teacher = None


def stepped(toy, folder, stage, *flags, processes=1, sabotage=None):
    arguments = [*toy.arguments(stage, folder / "run"), *ONE_STEP, *flags]
    return run(fit, folder / "log", processes=processes, arguments=arguments, sabotage=sabotage)


def divergence_of(ranks):
    (found,) = (
        numbers["loss/divergence"] for _, numbers in ranks[0]["reports"] if "loss/divergence" in numbers
    )
    return found


WAYS = [("prune", "one process")]
NIGHTLY = [(stage, way) for way in ("ddp", "fsdp2") for stage in STAGES] + [("pretrain", "one process")]
FLAGS = {"one process": (), "ddp": DDP, "fsdp2": FSDP2}


@pytest.mark.parametrize(("stage", "way"), WAYS + NIGHTLY * EVERYTHING)
def test_a_cache_of_all_tokens_gives_the_gradient_of_the_teacher(toy, tmp_path, cached, stage, way):
    """Without the teacher's weights; on two processes of DDP with them, for what the cache lacks."""
    beside = stepped(toy, tmp_path / "beside", stage, *flags_of(toy, stage))
    lacks = way == "ddp"
    cache = cached(stage, **WHOLE, **({"sequences_per_domain": 2} if lacks else {}))
    flags = [*flags_of(toy, stage, cache), *FLAGS[way]]
    if lacks:
        flags.append("--model.distillation.missing=compute")
    found = stepped(
        toy,
        tmp_path / "found",
        stage,
        *flags,
        processes=1 if way == "one process" else 2,
        sabotage=None if lacks else without_a_teacher,
    )
    assert difference(gradient(beside), gradient(found)) <= 1e-5
    assert loss_of(found) == pytest.approx(loss_of(beside), rel=1e-6)
    assert divergence_of(found) == pytest.approx(divergence_of(beside), rel=1e-5)


def said_of(toy, cache, keys):
    """What a run is told of some sequences of which the cache may lack some."""
    settings = Distillation(
        cache=str(cache), missing="compute", teacher=str(teacher_of(toy, "pretrain")), temperature=2.0
    )
    data = DomainData(str(toy.data), MIXTURE, split="pretrain", cross_document_attention=False)
    found = Learning(
        settings, data, source=str(toy.source()), pruning=False, precision="32-true", attention="sdpa"
    )
    batch = SequenceStore(toy.data, "pretrain").read(keys, documents_apart=True)
    return found, found._said(found.cache, {**batch, "keys": keys}, model_inputs)


SAMPLED = {"method": "sampled", "kept": 16}


def half_there(toy, cached):
    """Sequences that one cache has, and another one some of, in no order."""
    full, part = cached("pretrain", **SAMPLED), cached("pretrain", **SAMPLED, sequences_per_domain=2)
    caches = [TeacherCache(read_record(cache), read_manifest(toy.data)) for cache in (full, part)]
    keys = [(domain, number) for number in range(400) for domain in range(3)]
    keys = [key for key in keys if not caches[0].missing([key])]
    absent = caches[1].missing(keys)
    assert 0 < absent[0] + absent[-1] - len(absent) + 1 < len(keys)
    return full, part, keys


def test_what_the_cache_lacks_is_computed_as_it_would_have_been(toy, cached):
    full, part, keys = half_there(toy, cached)
    _, expected = said_of(toy, full, keys)
    learning, found = said_of(toy, part, keys)
    assert learning.teacher is not None and torch.equal(expected.tokens, found.tokens)
    torch.testing.assert_close(found.negative_entropy, expected.negative_entropy, rtol=1e-5, atol=1e-6)


def test_other_draws_are_found_by_the_same_check(toy, cached, monkeypatch):
    """The twin of the test above."""
    full, part, keys = half_there(toy, cached)
    _, expected = said_of(toy, full, keys)
    draw = teaching._uniform
    monkeypatch.setattr(
        teaching, "_uniform", lambda record, domain, sequence: draw(record, domain, sequence + 1)
    )
    _, found = said_of(toy, part, keys)
    assert not torch.equal(expected.tokens, found.tokens)


@pytest.mark.skipif(not EVERYTHING, reason="make distil")
def test_a_run_that_learns_from_a_cache_goes_on_as_if_it_had_not_stopped(toy, tmp_path, cached):
    """Four steps, and the same from the checkpoint of the second."""
    cache = cached("prune", method="sampled", kept=16, sequences_per_domain=40)
    flags = [
        *flags_of(toy, "prune", cache),
        "--trainer.max_steps=4",
        "--data.cross_document_attention=false",
        "--model.optimizer.warmup_steps=2",
    ]
    folders = tmp_path / "whole", tmp_path / "resumed"
    arguments = [[*toy.arguments("prune", folder), *flags] for folder in folders]
    (whole,) = run(fit, tmp_path / "a", arguments=arguments[0], sabotage=without_a_teacher)
    checkpoint = folders[0] / "checkpoints" / "step=000002.ckpt"
    (resumed,) = run(fit, tmp_path / "b", arguments=[*arguments[1], f"--ckpt_path={checkpoint}"])
    for part in ("parameters", "moments", "data"):
        assert same(whole[part], resumed[part]), part
    facts = read_facts(latest_checkpoint(folders[1])).teacher
    assert facts["kept"] == "sampled of 16" and "asked before, sampled of 16 kept" in str(
        TeacherFacts(**facts)
    )


@pytest.mark.skipif(not EVERYTHING, reason="in `make distil`")
def test_a_sequence_that_is_not_there_ends_the_run_in_one_line(toy, tmp_path, cached):
    """Here it is the step that draws it: the mixture moves before the first one, so nothing is known before."""
    part = cached("pretrain", **WHOLE, sequences_per_domain=2)
    with pytest.raises(ForkError) as refused:
        stepped(toy, tmp_path, "pretrain", *flags_of(toy, "pretrain", part))
    (line,) = [line for line in str(refused.value).splitlines() if line.startswith("error: ")]
    assert "model.distillation.cache=" in line and "it does not have sequence" in line
    assert not (tmp_path / "run" / "checkpoints").exists()


def asked(toy, stage, directory=None, data=None, **settings):
    """Whether a run of one step would be refused, before it reads a weight."""
    settings = {"teacher": str(teacher_of(toy, stage)), "temperature": 2.0, **settings}
    cache = None if directory is None else str(directory)
    module = ShearingModule(
        str(toy.source()), distillation=Distillation(cache=cache, **settings), pruning=None
    )
    changes = {"split": stage, "global_batch": 8, "cross_document_attention": False, **(data or {})}
    run_data = DomainData(str(changes.pop("directory", toy.data)), MIXTURE, **changes)
    sharded = settings.pop("sharded", False)
    check_teacher(module, run_data, steps=1, sharded=sharded, resumed=False)
    return module, run_data


@pytest.mark.parametrize(
    ("settings", "data", "said"),
    [
        ({"objective": "reverse_kl"}, {}, "model.distillation.objective=reverse_kl"),
        ({"objective": "jensen_shannon"}, {}, "model.distillation.objective=jensen_shannon"),
        (
            {"temperature": 1.0},
            {},
            "it is of temperature 2, and the run has model.distillation.temperature=1",
        ),
        ({"teacher": "{toy}/gqa-tied"}, {}, "is another model"),
        ({"layers_weight": 1.0}, {}, "model.distillation.layers_weight=1 needs the teacher in every step"),
        ({}, {"split": "prune"}, "it is of the split pretrain, and the run has data.split=prune"),
        ({}, {"cross_document_attention": True}, "the run has data.cross_document_attention=true"),
        ({}, {"seed": 18}, "it does not have sequence"),
    ],
    ids=str,
)
def test_a_cache_that_cannot_serve_is_refused_before_a_weight_is_read(toy, cached, settings, data, said):
    settings = {
        name: value.format(toy=toy.root) if isinstance(value, str) else value
        for name, value in settings.items()
    }
    asked(toy, "pretrain", cached("pretrain", **WHOLE))
    with pytest.raises(ValueError) as refused:
        asked(toy, "pretrain", cached("pretrain", **WHOLE), data, **settings)
    assert said in str(refused.value) and "model.distillation." in str(refused.value)
    assert "\n" not in str(refused.value)


def test_a_cache_of_other_data_or_another_tokenizer_is_refused(toy, tmp_path, cached):
    from shear_lit.data.preparing.prepare import PrepareSettings, prepare

    def prepared(name, tokenizer):
        files = {domain: str(toy.root / f"{domain}.jsonl") for domain in ("code", "law", "wiki")}
        settings = {"domains": files, "tokenizer": str(tokenizer), "output": str(tmp_path / name)}
        prepare(PrepareSettings(**settings, sequence_length=32))
        return {"directory": tmp_path / name}

    other = trained_tokenizer([str(toy.root / "law.jsonl")])
    write_source(tmp_path / "other", other)
    for name, tokenizer, said in (
        ("longer", toy.source(), "its sequences are others"),
        ("of another", tmp_path / "other", "another tokenizer made"),
    ):
        with pytest.raises(ValueError, match=said):
            asked(toy, "pretrain", cached("pretrain", **WHOLE), prepared(name, tokenizer))


def test_options_without_effect_and_what_processes_cannot_share_are_refused(toy, cached):
    with pytest.raises(ValueError, match=r"model\.distillation\.missing=compute has no effect"):
        asked(toy, "pretrain", missing="compute")
    module, data = asked(toy, "pretrain", cached("pretrain", **WHOLE), missing="compute")
    with pytest.raises(
        ValueError, match=r"model\.distillation\.missing=compute: under trainer\.strategy=fsdp2"
    ):
        check_teacher(module, data, steps=1, sharded=True, resumed=False)


def test_the_source_of_an_export_need_not_be_there(toy, tmp_path):
    """An export knows the fingerprint of its source: a cache is all that is needed of it."""
    source, cache = tmp_path / "source", tmp_path / "cache"
    write_source(
        source,
        trained_tokenizer([str(toy.root / f"{name}.jsonl") for name in ("code", "law", "wiki")]),
        seed=3,
    )
    rank(str(source), str(tmp_path / "scores.safetensors"), "weight")
    shape = ModelShape(**TARGETS["gqa-tied"])
    export(gates=str(tmp_path / "scores.safetensors"), output=str(tmp_path / "cut"), target=shape)
    teach(str(source), str(toy.data), str(cache), sequences_per_domain=DRAWN, method="top_k", kept=9)
    source.rename(tmp_path / "gone")
    settings = Distillation(cache=str(cache))
    module = ShearingModule(str(tmp_path / "cut"), distillation=settings)
    data = DomainData(str(toy.data), MIXTURE, split="pretrain", global_batch=8)
    check_teacher(module, data, steps=1, sharded=False, resumed=False)
    found = Learning(
        settings, data, source=module.source, pruning=False, precision="32-true", attention="sdpa"
    )
    assert (
        found.teacher is None and found.facts["name"] == str(source) and found.facts["kept"] == "top_k of 9"
    )
