"""The demo, from its first step to its report, on a tiny model and tiny texts."""

import json
import logging
import random
import shutil
import subprocess
import sys
import warnings
from dataclasses import replace
from pathlib import Path

import pytest
import torch
import yaml
from safetensors.torch import load_file
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import AutoModelForCausalLM, PreTrainedTokenizerFast

from shear_lit import cli
from shear_lit.commands.compare import compare
from shear_lit.commands.demo import command as demo_command
from shear_lit.commands.demo import run as command
from shear_lit.commands.demo import stages
from shear_lit.commands.demo.command import demo
from shear_lit.commands.demo.directory import check_output
from shear_lit.commands.demo.errors import DemoError
from shear_lit.commands.demo.numbers import DEMO, FAST
from shear_lit.commands.demo.run import CONTINUED, CUT, RANDOM, REPAIRED, SOURCE
from shear_lit.commands.demo.stages import config_file, control_steps, fit
from shear_lit.commands.demo.table import DemoResult, MeasuredModel, markdown_table
from shear_lit.commands.demo.texts import DOMAINS
from shear_lit.commands.evaluate import evaluate
from shear_lit.commands.export import export
from shear_lit.data.tokens.tokenizer import tokenizer_of
from shear_lit.evaluation.compared import ComparedModel
from shear_lit.evaluation.comparison import Comparison
from shear_lit.evaluation.model_size import ModelSize
from shear_lit.models.huggingface import read_config
from shear_lit.models.llama import llama
from shear_lit.models.writing import WEIGHT_SUFFIXES
from shear_lit.reporting.recipe import read_recipe
from tests import tiny

ROOT = Path(__file__).parents[2]
LENGTH, BATCH = 8, 4
NUMBERS = replace(
    DEMO,
    sequence_length=LENGTH,
    evaluation_sequences=3,
    evaluation_micro_batch=4,
    prompt="w1 w2 w3",
    new_tokens=4,
    generation_repeats=2,
    ranking_sequences=4,
    disk_bytes=1,
    prune_overrides={
        "trainer.max_steps": "4",
        "model.pruning.target": json.dumps(tiny.TARGET.to_dict()),
        "model.pruning.repair.tokens": "800",
        "model.optimizer.warmup_steps": "1",
        "data.validation_sequences": "3",
        "data.mixture.update_every_steps": "2",
    },
    continue_overrides={
        "trainer.max_steps": "2",
        "model.optimizer.warmup_steps": "1",
        "data.validation_sequences": "2",
        "data.mixture.update_every_steps": "2",
    },
)


def write_source(directory):
    """A tiny model, and a tokenizer of its vocabulary with the EOS token that packing needs."""
    settings = tiny.config()
    settings.eos_token_id = tiny.VOCABULARY - 2
    tiny.model(settings).save_pretrained(directory)
    words = {f"w{index}": index for index in range(tiny.VOCABULARY - 2)}
    words |= {"<eos>": tiny.VOCABULARY - 2, "<unk>": tiny.VOCABULARY - 1}
    backend = Tokenizer(models.WordLevel(words, unk_token="<unk>"))
    backend.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=backend, unk_token="<unk>", eos_token="<eos>")
    tokenizer.save_pretrained(directory)
    return directory


def write_texts(directory):
    """Five domains, each of words of its own."""
    generator = random.Random(3)
    directory.mkdir()
    paths = {}
    for number, domain in enumerate(DOMAINS):
        words = [f"w{index}" for index in range(9 * number, 9 * number + 9)]
        texts = [" ".join(generator.choices(words, k=20)) for _ in range(100)]
        paths[domain] = directory / f"{domain}.jsonl"
        paths[domain].write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))
    return paths


def in_this_process(commands):
    """Stands for a child process: runs its command line here, where nothing has to be imported again."""

    real = subprocess.run

    def run(arguments, **options):
        if arguments[:4] != [sys.executable, "-m", "shear_lit", "fit"]:
            return real(arguments, **options)
        commands.append(arguments)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # a child would go on, too
            cli.main(arguments[3:])
        return subprocess.CompletedProcess(arguments, 0)

    return run


@pytest.fixture(scope="module")
def done(tmp_path_factory):
    """One demo, whose runs are in this process: its result, directory, commands, and what was logged and printed."""
    folder = tmp_path_factory.mktemp("demo")
    source, texts = write_source(folder / "source"), write_texts(folder / "texts")
    commands, records = [], []
    handler = logging.Handler()
    handler.emit = lambda record: records.append(record.getMessage())
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(command, "fetch_source", lambda cache: source)
        patch.setattr(command, "fetch_texts", lambda cache: texts)
        patch.setattr(command, "DEMO", NUMBERS)
        patch.setattr(stages.subprocess, "run", in_this_process(commands))
        patch.setattr(sys, "argv", ["shear-lit"])
        logger = logging.getLogger("shear_lit")
        patch.setattr(logger, "level", logging.INFO)
        logger.addHandler(handler)
        try:
            result = demo(str(folder / "out"), str(folder / "cache"))
        finally:
            logger.removeHandler(handler)
    return result, folder / "out", commands, records


def by_name(result):
    return {model.name: model for model in result.models}


def test_runs_are_commands_that_a_user_can_type(done):
    _, output, commands, records = done
    assert [Path(line[line.index("--config") + 1]) for line in commands] == [
        ROOT / "configs" / stage / "smollm2-demo.yaml" for stage in ("prune", "pretrain", "pretrain")
    ]
    shown = [record for record in records if record.startswith("$ python -m shear_lit fit --config")]
    assert len(shown) == 3 and f"--trainer.default_root_dir {output / 'prune'}" in shown[0]


def test_steps_are_numbered_and_timed(done):
    result, _, _, records = done
    numbered = [record.split("]")[0] for record in records if record.startswith("[") and "took" not in record]
    assert numbered == [f"[{step}/12" for step in range(1, 13)]
    assert len(result.seconds) == 12 and all(seconds >= 0 for seconds in result.seconds.values())


def test_models_have_exactly_the_target_shape_and_are_loaded_by_transformers(done):
    models = by_name(done[0])
    assert list(models) == [SOURCE, CUT, REPAIRED, CONTINUED, RANDOM]
    for name in (CUT, CONTINUED, RANDOM):
        loaded = AutoModelForCausalLM.from_pretrained(models[name].directory)
        assert llama(loaded.config).shape == tiny.TARGET
        assert loaded.num_parameters() == models[name].parameters < models[SOURCE].parameters


def test_control_is_repaired_and_trained_on_as_many_tokens(done):
    models = by_name(done[0])
    trained = {name: model.training_tokens for name, model in models.items()}
    expected = dict.fromkeys((SOURCE, CUT, REPAIRED), 0) | dict.fromkeys(
        (CONTINUED, RANDOM), 6 * BATCH * LENGTH
    )
    assert trained == expected
    repaired = {name: model.repair_tokens for name, model in models.items()}
    assert repaired == {SOURCE: 0, CUT: 0, **dict.fromkeys((REPAIRED, CONTINUED, RANDOM), 800)}
    recipe = read_recipe(done[1] / "models" / "random-untrained")
    assert recipe["repair"]["tokens"] == 800
    generated = {name: model.generated_tokens for name, model in models.items()}
    assert generated[REPAIRED] == recipe["repair"]["generated_tokens"] >= 80
    assert generated[CUT] == 0


def test_cut_of_the_table_is_the_one_that_the_run_repairs(done):
    """What the run found before its first step is the loss of the same cut, repaired by a command of its own.

    But for the gates next to the last that are kept, which begin a little below 1.
    """
    result, output, *_ = done
    again = output / "again"
    export(
        gates=str(output / "scores-default.safetensors"),
        target=tiny.TARGET,
        output=str(again),
        repair=str(output / "data"),
        repair_tokens=800,
    )
    losses = evaluate(str(again), str(output / "data"), 3, device="cpu").losses
    assert by_name(result)[REPAIRED].losses == pytest.approx(losses, abs=3e-3)
    assert by_name(result)[REPAIRED].losses != pytest.approx(by_name(result)[CUT].losses, abs=6e-3)


def test_control_keeps_other_units_than_the_learned_cut(done):
    _, output, *_ = done
    learned, drawn = (
        load_file(output / "models" / name / "gates.shear") for name in ("pruned", "random-untrained")
    )
    assert drawn["kept.hidden"].shape == learned["kept.hidden"].shape == (tiny.TARGET.hidden,)
    kept = [name for name in drawn if name.startswith("kept.")]
    assert len(kept) == 5 and any(not torch.equal(drawn[name], learned[name]) for name in kept)


def test_only_models_end_as_weights_do(done):
    _, output, *_ = done
    found = {
        path.name
        for path in (output / "models").rglob("*")
        if path.suffix in WEIGHT_SUFFIXES and (path.parent / "config.json").exists()
    }
    assert found == {"model.safetensors"}


def test_losses_of_the_table_are_those_of_evaluate(done):
    result, output, *_ = done
    found = evaluate(by_name(result)[CONTINUED].directory, str(output / "data"), 3, device="cpu")
    assert found.losses == pytest.approx(by_name(result)[CONTINUED].losses, abs=1e-5)
    references = yaml.safe_load((output / "references.yaml").read_text())
    assert references["losses"] == by_name(result)[SOURCE].losses


def test_report_shows_every_model_verdict_and_path(done):
    result, output, *_ = done
    report = (output / "report.md").read_text()
    assert report == f"{result}\n"
    for part in (
        *(f"| {name}" for name in (SOURCE, CUT, REPAIRED, CONTINUED, RANDOM)),
        *DOMAINS,
        "4-bit ones, dequantised",
        f"tensorboard --logdir {output}",
        *(str(verdict) for verdict in result.verdicts),
        *(model.directory for model in result.models if model.name != REPAIRED),
        f'AutoModelForCausalLM.from_pretrained("{output}/models/continued")',
    ):
        assert part in report, part


def test_models_are_compared_at_the_end_by_what_was_measured_before(done):
    """The figures are those of ``compare``, which is given the same sequences."""
    result, output, *_ = done
    found = {model.name: model for model in result.comparison.models}
    assert list(found) == [SOURCE, CUT, CONTINUED, RANDOM]
    assert all(
        found[name].losses[domain].loss == pytest.approx(by_name(result)[name].losses[domain], rel=1e-12)
        for name in found
        for domain in DOMAINS
    )
    assert found[SOURCE].device_seconds == 0 and found[CONTINUED].device_seconds > 0
    assert found[CONTINUED].tokens == by_name(result)[CONTINUED].training_tokens
    again = compare(
        [by_name(result)[name].directory for name in found],
        data=str(output / "data"),
        sequences_per_domain=3,
        micro_batch=4,
        speed=False,
        device="cpu",
        cache=str(output.parent / "kept"),
    )
    mine, theirs = (list(each.differences().values()) for each in (result.comparison, again))
    assert [{what: str(each) for what, each in rows.items()} for rows in mine] == [
        {what: str(each) for what, each in rows.items()} for rows in theirs
    ]
    report = (output / "report.md").read_text()
    for table in result.comparison.tables():
        assert table.in_markdown(3) in report
    stored = json.loads((output / "results.json").read_text())["comparison"]
    assert [row["name"] for row in stored["models"]] == list(found)


def test_results_for_programs_hold_the_same_numbers(done):
    result, output, *_ = done
    found = json.loads((output / "results.json").read_text())
    assert found["format"] == 2 and found["fast"] is False
    assert [model["name"] for model in found["models"]] == list(by_name(result))
    for entry, model in zip(found["models"], result.models, strict=True):
        assert set(entry["losses"]) == set(DOMAINS)
        assert entry["mean_loss"] == pytest.approx(sum(model.losses.values()) / len(DOMAINS))
        assert len(entry["speeds"]) == (0 if model.name == REPAIRED else 2)
        assert (entry["tokens_per_second"] is None) == (model.name == REPAIRED)
        assert entry["training_tokens"] == model.training_tokens and entry["sample"] == model.sample
    assert [(verdict["model"], verdict["against"]) for verdict in found["verdicts"]] == [
        (CONTINUED, CUT),
        (CONTINUED, REPAIRED),
        (CONTINUED, RANDOM),
    ]
    assert found["total_seconds"] == pytest.approx(sum(found["seconds"].values()))


def test_curves_of_all_runs_lie_under_the_output(done):
    _, output, *_ = done
    assert {path.parent.name for path in output.rglob("events.out.tfevents.*")} == {
        "prune",
        "continue",
        "control",
    }


SIZE = ModelSize(
    parameters=1000, without_embeddings=900, flops_per_token=1900, weight_bytes=4000, cache_bytes=10
)


def result_with(*mean_losses):
    models = tuple(
        MeasuredModel(
            name=name,
            directory=f"runs/{name}",
            parameters=1000,
            training_tokens=10,
            losses={"code": loss},
            speeds=(2.0,),
            sample="and\nso on",
        )
        for name, loss in zip((SOURCE, CUT, REPAIRED, CONTINUED, RANDOM), mean_losses, strict=True)
    )
    return DemoResult(
        output="out",
        fast=True,
        models=models,
        validation_sequences=1,
        sequence_length=8,
        prompt="Once",
        new_tokens=4,
        comparison=Comparison(models=(ComparedModel(name=SOURCE, model="runs/source", size=SIZE),)),
        warnings=("hidden: far from its target",),
        seconds={"all": 1.0},
    )


def test_verdicts_follow_from_the_losses():
    good = result_with(1.0, 5.0, 3.0, 2.5, 4.0)
    assert [verdict.nats_better for verdict in good.verdicts] == [2.5, 0.5, 1.5]
    assert "cut + repair + training is better than cut + repair: by 0.500 nats" in str(good)
    bad = result_with(1.0, 5.0, 3.0, 3.25, 3.25)
    assert "cut + repair + training is NOT better than cut + repair: worse by 0.250 nats" in str(bad)
    assert "is NOT better than random cut, the same" in str(bad)


def test_warnings_of_the_cut_are_not_lost(done):
    assert "- WARNING: hidden: far from its target" in str(result_with(1.0, 5.0, 3.0, 2.5, 4.0))
    assert all("refused by" in warning for warning in done[0].warnings)  # sizes are exact


def test_fast_run_says_what_it_is_worth():
    assert "too few to judge" in str(result_with(1.0, 5.0, 3.0, 2.5, 4.0))


def test_table_is_aligned():
    assert markdown_table(["model", "n"], [["a", "10"], ["longer", "2"]]).splitlines() == [
        "| model  |  n |",
        "|--------|---:|",
        "| a      | 10 |",
        "| longer |  2 |",
    ]


def test_control_steps_give_both_stages_tokens():
    pruned, continued = counted(step=100, tokens=100 * 512), counted(step=50, tokens=50 * 1024)
    assert control_steps(pruned, continued) * 1024 == pruned.tokens + continued.tokens


def test_tokens_that_no_whole_step_gives_are_refused():
    with pytest.raises(DemoError, match=r"trainer\.max_steps.*51,712 tokens.*1,024"):
        control_steps(counted(step=101, tokens=101 * 512), counted(step=50, tokens=50 * 1024))


def counted(*, step, tokens):
    return stages.CheckpointFacts(
        source="x", source_fingerprint="x", config={}, target=None, step=step, tokens=tokens
    )


def test_output_that_is_not_empty_is_refused_before_anything_is_fetched(tmp_path, monkeypatch):
    monkeypatch.setattr(command, "fetch_source", lambda _: pytest.fail("fetched"))
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "mine").write_text("keep")
    with pytest.raises(DemoError, match=r"output=.*is not an empty directory.*--output"):
        demo(str(tmp_path / "out"))
    assert (tmp_path / "out" / "mine").read_text() == "keep"


def test_full_disk_is_refused_before_anything_is_fetched(tmp_path):
    with pytest.raises(DemoError, match=r"GB are free on its disk, and the demo needs"):
        check_output(tmp_path / "out", 10**18)


def test_failing_run_stops_the_demo_with_its_exit_code_and_message(tmp_path, capfd, monkeypatch):
    """A real child: the data that it is to train on is not there."""
    monkeypatch.setenv("PYTHONPATH", str(ROOT / "src"))
    source = write_source(tmp_path / "source")
    settings = {"model.source": str(source), "data.directory": str(tmp_path / "nowhere")}
    with pytest.raises(DemoError, match=r"exit status 2.*python -m shear_lit fit --config") as failed:
        fit(config_file("prune"), {**settings, **NUMBERS.prune_overrides})
    assert failed.value.exit_code == 2
    assert "nowhere" in capfd.readouterr().err


def test_command_ends_with_the_exit_code_of_the_failed_run(monkeypatch, capsys):
    def fail(*arguments):
        raise DemoError("a run has failed", exit_code=7)

    monkeypatch.setattr(cli, "_run", fail)
    with pytest.raises(SystemExit) as ended:
        cli.main(["demo"])
    assert ended.value.code == 7 and "a run has failed" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("flags", "fast"),
    [([], False), (["--fast"], True), (["--fast", "--output=x"], True), (["--fast=false"], False)],
)
def test_fast_is_a_flag(monkeypatch, flags, fast):
    calls = []

    def recorded(output: str = "out", *, fast: bool = False) -> None:
        calls.append(fast)

    monkeypatch.setattr(demo_command, "demo", recorded)
    cli.main(["demo", *flags])
    assert calls == [fast]


def test_numbers_override_only_keys_of_the_configurations():
    for stage, overrides in (("prune", FAST.prune_overrides), ("pretrain", FAST.continue_overrides)):
        entries = yaml.safe_load((ROOT / "configs" / stage / "smollm2-demo.yaml").read_text())
        for key in overrides:
            found = entries
            for part in key.split("."):
                found = found[part]


def test_installed_package_brings_the_configurations(tmp_path):
    """What a wheel is made of: built from a copy of the repository's files, so that nothing is written here."""
    for name in ("src", "configs", "setup.py", "pyproject.toml", "LICENSE"):
        original, copy = ROOT / name, tmp_path / name
        if original.is_dir():
            shutil.copytree(original, copy, ignore=shutil.ignore_patterns("__pycache__", "*.egg-info"))
        else:
            shutil.copyfile(original, copy)
    (tmp_path / "README.md").write_text("# shear_lit\n")
    built = tmp_path / "built"
    arguments = [sys.executable, "setup.py", "--quiet", "build_py", "--build-lib", str(built)]
    finished = subprocess.run(arguments, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert finished.returncode == 0, finished.stderr
    for stage in ("prune", "pretrain"):
        name = f"configs/{stage}/smollm2-demo.yaml"
        assert (built / "shear_lit" / name).read_bytes() == (ROOT / name).read_bytes()
    code = "from shear_lit.commands.demo.stages import config_file; print(config_file('prune'))"
    environment = {"PYTHONPATH": str(built)}
    found = subprocess.run(
        [sys.executable, "-c", code],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
        check=True,
    )
    assert found.stdout.strip() == str(built / "shear_lit" / "configs" / "prune" / "smollm2-demo.yaml")


def test_configuration_that_is_nowhere_is_named(monkeypatch, tmp_path):
    monkeypatch.setattr(stages, "_PACKAGE", tmp_path / "a" / "b")
    with pytest.raises(DemoError, match="installation is incomplete"):
        config_file("prune")


def test_source_in_the_home_directory_is_found_by_all_its_readers(tmp_path, monkeypatch):
    """The configurations name the source in the cache below ``~``."""
    monkeypatch.setenv("HOME", str(tmp_path))
    write_source(tmp_path / "source")
    assert read_config("~/source").hidden_size == 32
    assert tokenizer_of("~/source").fingerprint == tokenizer_of(str(tmp_path / "source")).fingerprint
