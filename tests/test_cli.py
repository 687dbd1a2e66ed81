"""The command line: its help, and what a person reads after a mistake, before any weight is read."""

import hashlib
import json
import re
import shutil
import subprocess
import sys
import threading
from importlib.metadata import entry_points

import pytest
import torch
import yaml
from transformers import AutoTokenizer

from shear_lit import cli
from shear_lit.commands import exporting, measuring, mending, ranking, verification  # noqa: F401 (they bind read_model)
from shear_lit.models import huggingface
from shear_lit.ranking.scores import Origin, scores_file
from shear_lit.theory.shape import Axis, ModelShape
from shear_lit.training import module
from shear_lit.training.checkpoints import CheckpointFacts

SHAPE = dict(layers=3, hidden=32, query_heads=8, kv_heads=2, intermediate=48)
COMMANDS = (
    "fit",
    "validate",
    "prepare",
    "reference",
    "export",
    "evaluate",
    "compare",
    "rank",
    "gates",
    "verify",
    "teach",
)


@pytest.fixture(autouse=True)
def no_weights(monkeypatch):
    def refuse(*args, **options):
        raise AssertionError("weights were read")

    for room in (module, huggingface):
        monkeypatch.setattr(room, "read_model", refuse)


def files_in(folder):
    return {
        path.relative_to(folder): hashlib.sha256(path.read_bytes()).hexdigest() if path.is_file() else ""
        for path in sorted(folder.rglob("*"))
    }


@pytest.fixture
def refused(toy, tmp_path, capfd):
    """The one line that a mistake gets; nothing on disk has changed then."""

    def refused(arguments, *, but=""):
        before = files_in(toy.root), files_in(tmp_path)
        with pytest.raises(SystemExit) as left:
            cli.main(arguments)
        said = capfd.readouterr().err
        assert left.value.code == 2
        after = {path: found for path, found in files_in(tmp_path).items() if but not in path.parts}
        assert (files_in(toy.root), after) == before
        assert "Traceback" not in said
        lines = [line for line in said.splitlines() if line.startswith("error: ")]
        assert len(lines) == 1 and said.rstrip().endswith(lines[0]), said
        return lines[0]

    return refused


# Help


def test_top_level_help_has_a_line_for_every_command(capsys):
    cli.main(["--help"])
    said = capsys.readouterr().out
    for command in COMMANDS:
        assert re.search(rf"^  {command} +\S.{{20,}}$", said, re.MULTILINE), command


@pytest.mark.parametrize(
    ("arguments", "shown"),
    [
        (["fit"], ["--model.source", "--data.mixture.proportions", "sum to 1", "Peak learning rate"]),
        (["validate"], ["--model.source", "--ckpt_path"]),
        (["prepare"], ["--sequence_length", "Tokens per packed sequence"]),
        (["reference", "measure"], ["--model", "Directory that `shear-lit prepare` wrote"]),
        (["export"], ["--checkpoint", "What to store the weights in"]),
        (["evaluate"], ["--micro_batch", "Sequences of one forward pass"]),
        (["verify"], ["--python", "Interpreter of the environment that has the client"]),
        (["rank"], ["--criterion", "sizes of activations"]),
        (["teach"], ["--method", "drawn from the teacher's distribution"]),
        (["gates"], ["--other", "to compare with"]),
    ],
    ids=lambda part: part[0] if isinstance(part, list) else None,
)  # fmt: skip
def test_help_of_a_command_explains_its_keys(capsys, monkeypatch, arguments, shown):
    monkeypatch.setenv("COLUMNS", "120")
    with pytest.raises(SystemExit) as left:
        cli.main([*arguments, "--help"])
    said = " ".join(capsys.readouterr().out.split())
    assert left.value.code == 0
    for words in shown:
        assert words in said, words


def test_help_explains_the_keys_of_pruning(capsys):
    with pytest.raises(SystemExit):
        cli.main(["fit", "--model.pruning.help"])
    said = " ".join(capsys.readouterr().out.split())
    assert "sparsity_warmup_steps" in said and "Shape of the model that remains" in said


def test_unknown_command_is_named(capsys):
    with pytest.raises(SystemExit) as left:
        cli.main(["prune"])
    assert left.value.code == 2
    assert "'prune' is no command" in capsys.readouterr().err


def test_module_and_console_script_are_one():
    (script,) = [point for point in entry_points(group="console_scripts") if point.name == "shear-lit"] or [
        None
    ]
    if script is not None:
        assert script.load() is cli.main
    said = subprocess.run(
        [sys.executable, "-m", "shear_lit", "--help"], capture_output=True, text=True, timeout=120, check=True
    ).stdout
    assert said.strip() == cli.usage().strip()


# Mistakes in keys and values


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (["--trainer.max_stps=3"], ["fit: trainer.max_stps is no key", "Did you mean trainer.max_steps?"]),
        (
            ["--model.pruning.targt.hidden=3"],
            ["fit: model.pruning.targt is no key", "Did you mean model.pruning.target?"],
        ),
        (["--model.masck.lr=1"], ["fit: model.masck is no key"]),
        (["--data.global_batch=many"], ["fit: data.global_batch='many'", "a whole number above 0 is expected"]),
        (["--data.mixture.rule=best"], ["data.mixture.rule='best'", "one of paper, release, static, odm, ado is"]),
        (
            ["--model.pruning.target.hidden=64"],
            ["model.pruning.target.hidden=64", "larger than the source's 32", "Use hidden=32 or less"],
        ),
        (
            ["--model.pruning.target.query_heads=3", "--model.pruning.target.kv_heads=2"],
            ["model.pruning.target.query_heads=3", "kv_heads=2", "Use query_heads=2 or 4"],
        ),
        (
            ["--model.pruning.target.hidden=23"],
            ["model.pruning.target.hidden=23", "query_heads=2", "multiple", "Use hidden=22 or 24"],
        ),
        (
            ["--model.pruning.keep_layer_period=true"],
            ["model.pruning.keep_layer_period=true has no effect", "of one kind", "Remove it"],
        ),
        (
            ["--model.pruning.axes=[layers,hidden]"],
            ["model.pruning.target.kv_heads", "from 2 to 1", "Add kv_heads to model.pruning.axes"],
        ),
        (
            ["--model.pruning.target.layers=0"],
            ["model.pruning.target.layers=0", "at least 1 unit", "Use 1 or more"],
        ),
        (
            ["--model.pruning.target_parameters=1e4"],
            ["model.pruning.target", "model.pruning.target_parameters are given", "exactly one"],
        ),
        (
            ["--model.pruning.target=null", "--model.pruning.target_parameters=1e9"],
            ["model.pruning.target_parameters=1e+09", "cannot be reached", "31,328 parameters (the source)"],
        ),
        (
            ["--model.pruning.target=null", "--model.pruning.target_preset=sheared-llama-370m"],
            ["layers=24", "larger than the source's 3"],
        ),
        (["--model.pruning.constraint=best"], ["model.pruning.constraint='best'", "one of lagrangian, exact"]),
        (
            ["--model.pruning.target=null", "--model.pruning.target_preset=llama-1b"],
            ["model.pruning.target_preset='llama-1b'", "sheared-llama-1.3b"],
        ),
        (["--model.pruning.exact.noise=0.5"], ["model.pruning.exact has no effect", "constraint=lagrangian"]),
        (["--model.pruning.exact.nose=0.5"], ["model.pruning.exact.nose is no key", "model.pruning.exact.noise?"]),
        (["--model.pruning.start_sparsity={hiden: 0.1}"], ["start_sparsity", "'hiden'", "no axis"]),
        (
            ["--model.pruning.initial_log_alpha=4.605170185988092", "--model.pruning.initial_gap=3",
             "--model.pruning.initial_scores=/nowhere"],
            ["model.pruning.initial_scores='/nowhere'", "no file", "Correct the path"],
        ),
        (
            ["--model.optimizer.gates_learning_rate=-1"],
            ["model.optimizer.gates_learning_rate='-1'", "a number of at least 0"],
        ),
        (
            ["--data.mixture.proportions={code: 0.5, law: 0.3, wikis: 0.2}"],
            ["data.mixture.proportions", "lacks wiki", "has wikis besides", "Correct it"],
        ),
        (
            ["--data.mixture.proportions={code: 0.5, law: 0.3, wiki: 0.3}"],
            ["data.mixture.proportions sum to 1.1", "must sum to 1", "code: 0.454545"],
        ),
        (
            ["--data.mixture.references={code: 2.0, law: 2.0}"],
            ["data.mixture.references", "lacks wiki", "Correct it"],
        ),
        (
            ["--data.mixture.references=null"],
            ["data.mixture.references is missing", "'paper'", "data.mixture.rule=static"],
        ),
        (
            ["--data.mixture.update_every_steps=5"],
            ["trainer.max_steps=12", "data.mixture.update_every_steps=5", "Use trainer.max_steps=10"],
        ),
        (
            ["--data.micro_batch=3"],
            ["data.global_batch=8", "data.micro_batch=3", "multiple of 3", "Use data.global_batch=9"],
        ),
        (
            ["--model.optimizer.warmup_steps=50"],
            ["model.optimizer.warmup_steps=50", "trainer.max_steps=12", "Use model.optimizer.warmup_steps=1"],
        ),
        (
            ["--model.pruning.sparsity_warmup_steps=50"],
            ["model.pruning.sparsity_warmup_steps=50", "trainer.max_steps=12", "a longer run"],
        ),
        (
            ["--data.directory=/nowhere"],
            ["data.directory='/nowhere'", "no directory", "Correct the path"],
        ),
        (["--model.source=/nowhere"], ["model.source='/nowhere'", "no directory", "Correct the path"]),
        (["--trainer.strategy=fsdp"], ["trainer.strategy=fsdp ", "Use trainer.strategy=fsdp2"]),
        (["--trainer.precision=bf16-true"], ["trainer.precision=bf16-true", "float32", "precision=bf16-mixed"]),
        (["--trainer.precision=16-mixed"], ["trainer.precision=16-mixed", "float32", "precision=bf16-mixed"]),
        (["--trainer.precision=64-true"], ["trainer.precision=64-true", "32-true"]),
        (["--trainer.accumulate_grad_batches=3"], ["trainer.accumulate_grad_batches=3", "no effect", "Remove it"]),
        (["--checkpoint.keep=0"], ["checkpoint.keep='0'", "at least 1", "-1"]),
        (["--ckpt_path=/nowhere/step=000001.ckpt"], ["/nowhere/step=000001.ckpt", "does not exist", "checkpoints/"]),
        (["--ckpt_path=last"], ["ckpt_path=last", "no complete checkpoint", "--ckpt_path auto"]),
    ],
    ids=lambda part: part[0].removeprefix("--") if part[0].startswith("--") else "",
)  # fmt: skip
def test_mistake_is_said_with_key_value_rule_and_repair(toy, tmp_path, refused, flags, words):
    said = refused([*toy.arguments("prune", tmp_path / "run"), *flags])
    for part in words:
        assert part in said, said


def test_mistyped_key_in_a_file_is_named(toy, tmp_path, refused):
    (tmp_path / "wrong.yaml").write_text("model:\n  pruning:\n    targett: {hidden: 3}\n")
    said = refused([*toy.arguments("prune", tmp_path / "run"), f"--config={tmp_path / 'wrong.yaml'}"])
    assert f"fit: {tmp_path / 'wrong.yaml'}: model.pruning.targett is no key" in said


def test_scores_of_another_source_are_refused_before_weights_are_read(toy, tmp_path, refused):
    origin = Origin(
        source="another", source_fingerprint="0" * 64, source_shape=ModelShape(**SHAPE), criterion="fisher"
    )
    content = scores_file({axis: torch.zeros(ModelShape(**SHAPE).gate_shape(axis)) for axis in Axis}, origin)
    (tmp_path / "gates.safetensors").write_bytes(content)
    flags = [
        "--model.pruning.initial_log_alpha=4.605170185988092",
        "--model.pruning.initial_gap=3",
        f"--model.pruning.initial_scores={tmp_path / 'gates.safetensors'}",
    ]
    said = refused([*toy.arguments("prune", tmp_path / "run"), *flags])
    assert "'another' (fingerprint 000000000000)" in said and "rank this one" in said


def test_target_of_export_is_known_by_its_own_key(tmp_path, refused):
    shape = [f"--target.{axis}={size}" for axis, size in {**SHAPE, "query_heads": 3}.items()]
    said = refused(["export", "--gates=g.safetensors", f"--output={tmp_path / 'out'}", *shape])
    assert "error: target.query_heads=3" in said and "model.pruning" not in said


def test_gates_takes_its_directories_without_keys(tmp_path, refused):
    said = refused(["gates", str(tmp_path / "a"), str(tmp_path / "b")])
    assert f"directory='{tmp_path / 'a'}' is no file" in said


@pytest.mark.parametrize("abbreviated", ["model.pruning.exact.nois=0.2", "data.global_batc=8"])
def test_beginning_of_a_key_is_no_key_of_a_run(toy, tmp_path, refused, abbreviated):
    said = refused([*toy.arguments("prune", tmp_path / "run"), f"--{abbreviated}"])
    assert abbreviated.partition("=")[0] in said


def test_beginning_of_a_key_is_no_key_of_a_command(toy, refused):
    assert "mode" in refused(["evaluate", "--mode", str(toy.root), "--data", str(toy.data)])


def test_mistyped_key_of_another_command_is_named(tmp_path, refused):
    said = refused(["export", "--checkpont=x", f"--output={tmp_path / 'out'}"])
    assert "export: checkpont is no key. Did you mean checkpoint?" in said


# Mistakes in what lies on disk


def copied(toy, tmp_path):
    shutil.copytree(toy.data, tmp_path / "data")
    return tmp_path / "data"


def damage_manifest(data):
    (data / "manifest.json").unlink()


def damage_chunk(data):
    chunk = next((data / "law" / "prune").glob("*.bin"))
    chunk.write_bytes(chunk.read_bytes()[:-8])


def damage_split(data):
    shutil.rmtree(data / "wiki" / "validation")


def unsafe_domain(data):
    manifest = json.loads((data / "manifest.json").read_text())
    manifest["domains"]["../law"] = manifest["domains"].pop("law")
    (data / "manifest.json").write_text(json.dumps(manifest))


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (damage_manifest, ["data.directory", "has no manifest.json", "half-written", "shear-lit prepare"]),
        (damage_chunk, ["data.directory", "bytes instead of", "half-copied", "shear-lit prepare"]),
        (damage_split, ["data.directory", "wiki/validation", "the folder is missing"]),
        (unsafe_domain, ["'../law' is no safe folder name", "was changed or damaged"]),
    ],
)
def test_damaged_data_is_refused(toy, tmp_path, refused, damage, words):
    data = copied(toy, tmp_path)
    damage(data)
    said = refused([*toy.arguments("prune", tmp_path / "run"), f"--data.directory={data}"])
    for part in words:
        assert part in said, said


def test_data_of_another_tokenizer_is_refused(toy, tmp_path, refused):
    other = tmp_path / "other"
    shutil.copytree(toy.source(), other)
    tokenizer = AutoTokenizer.from_pretrained(other)
    tokenizer.add_tokens(["another"])
    tokenizer.save_pretrained(other)
    said = refused([*toy.arguments("prune", tmp_path / "run"), f"--model.source={other}"])
    assert "tokenised by" in said and f"model.source={other}" in said and "Prepare the data again" in said


def test_sequences_longer_than_the_model_allows_are_refused(toy, tmp_path, refused):
    short = tmp_path / "short"
    shutil.copytree(toy.source(), short)
    config = json.loads((short / "config.json").read_text())
    (short / "config.json").write_text(json.dumps(config | {"max_position_embeddings": 16}))
    said = refused([*toy.arguments("prune", tmp_path / "run"), f"--model.source={short}"])
    assert "sequences of 24 tokens" in said and "at most 16" in said and "sequence_length=16" in said


def test_references_of_other_domains_in_a_file_are_refused(toy, tmp_path, refused):
    file = tmp_path / "references.yaml"
    file.write_text(yaml.safe_dump({"format": 1, "source": "x", "tokenizer": "", "losses": {"code": 2.0}}))
    said = refused([*toy.arguments("prune", tmp_path / "run"), f"--data.mixture.references={file}"])
    assert "data.mixture.references" in said and "lacks law, wiki" in said


def test_directory_of_another_run_is_refused(toy, tmp_path, refused):
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "notes").write_text("mine")
    said = refused(toy.arguments("prune", tmp_path / "run"))
    assert "trainer.default_root_dir=" in said and "not empty" in said and "Name another" in said


def test_too_little_disk_is_refused(toy, tmp_path, refused, monkeypatch):
    monkeypatch.setattr(shutil, "disk_usage", lambda path: shutil._ntuple_diskusage(10**9, 0, 1000))
    said = refused(toy.arguments("prune", tmp_path / "run"))
    assert "trainer.default_root_dir=" in said and "are free there" in said and "another disk" in said


def write_checkpoint(toy, path, *, target):
    """As much of a checkpoint as is read before a run."""
    pruned = module.ShearingModule(str(toy.source()))
    facts = CheckpointFacts(
        source=str(toy.source()),
        source_fingerprint="",
        config=pruned.source_config.to_dict(),
        target=target,
        step=2,
        tokens=3,
    )
    path.parent.mkdir(parents=True)
    torch.save({"state_dict": {}, "shear_lit": facts.to_entry()}, path)
    return path


def test_checkpoint_of_another_target_is_refused(toy, tmp_path, refused):
    path = write_checkpoint(toy, tmp_path / "run" / "checkpoints" / "step=000002.ckpt", target=None)
    said = refused([*toy.arguments("prune", tmp_path / "run"), f"--ckpt_path={path}"])
    assert f"ckpt_path={path}" in said and "model.pruning.target=null" in said and "export it" in said


def test_checkpoint_of_another_shape_is_refused(toy, tmp_path, refused):
    path = write_checkpoint(toy, tmp_path / "run" / "checkpoints" / "step=000002.ckpt", target=None)
    arguments = toy.arguments("pretrain", tmp_path / "run", source="mha-untied")
    said = refused([*arguments, f"--ckpt_path={path}"])
    assert f"ckpt_path={path}" in said and "'kv_heads': 2" in said and "'kv_heads': 8" in said


def test_shards_are_refused_where_they_cannot_be_read(toy, tmp_path, refused):
    path = write_checkpoint(
        toy, tmp_path / "run" / "checkpoints" / "step=000002" / "meta.pt", target=None
    ).parent
    said = refused([*toy.arguments("pretrain", tmp_path / "run"), f"--ckpt_path={path}"])
    assert f"ckpt_path={path}" in said and "trainer.strategy=fsdp2" in said


# Mistakes of the other commands


def prepare_arguments(toy, tmp_path, *lines, **settings):
    (tmp_path / "raw.jsonl").write_bytes(b"\n".join(lines) + b"\n")
    settings = {
        "domains": {"law": str(tmp_path / "raw.jsonl")},
        "tokenizer": str(toy.source()),
        "output": str(tmp_path / "out"),
        **settings,
    }
    settings["domains"] = json.dumps(settings["domains"])
    return ["prepare", *(f"--{key}={value}" for key, value in settings.items())]


def test_prepare_names_file_and_line_of_what_it_cannot_use(toy, tmp_path, refused):
    bad = [b'{"text": "fine"}', b'{"text": ', b'{"text": ""}', b'{"text": "\xff"}']
    said = refused(prepare_arguments(toy, tmp_path, *bad), but="out.partial")  # what was tokenised is kept
    for number, reason in ((2, "malformed JSON"), (3, "empty document"), (4, "invalid UTF-8")):
        assert f"raw.jsonl:{number}: {reason}" in said
    assert "max_rejected_fraction=0.01" in said and "3 of 4" in said


def test_prepare_refuses_unsafe_names_and_full_directories(toy, tmp_path, refused):
    fine = b'{"text": "fine"}'
    said = refused(prepare_arguments(toy, tmp_path, fine, domains={"../law": str(tmp_path / "raw.jsonl")}))
    assert "'../law' is no safe folder name" in said and "Rename the domain" in said
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "mine").touch()
    said = refused(prepare_arguments(toy, tmp_path, fine))
    assert "output=" in said and "not an empty directory" in said and "Choose another" in said


def test_prepare_and_export_refuse_too_little_disk(toy, tmp_path, refused, monkeypatch):
    monkeypatch.setattr(shutil, "disk_usage", lambda path: shutil._ntuple_diskusage(10**9, 0, 1))
    said = refused(prepare_arguments(toy, tmp_path, b'{"text": "fine"}'))
    assert "output=" in said and "are free there" in said and "another disk" in said
    said = refused(["export", "--checkpoint=x", f"--output={tmp_path / 'hf'}"])
    assert "output=" in said and "are free on its disk" in said


def test_export_refuses_a_full_directory_and_no_checkpoint(tmp_path, refused):
    said = refused(["export", "--checkpoint=/nowhere/step=1", f"--output={tmp_path / 'hf'}"])
    assert "'/nowhere/step=1' does not exist" in said and "Look in the run's folder" in said
    (tmp_path / "mine").touch()
    said = refused(["export", "--checkpoint=/nowhere/step=1", f"--output={tmp_path}"])
    assert "is not empty" in said and "Choose another" in said


def test_thread_of_tensorboard_ends_without_a_word_and_others_with_one(capfd, monkeypatch):
    """The main thread meets the same error when it writes next, and says it."""
    monkeypatch.setattr(threading, "excepthook", threading.excepthook)
    cli._quieten()

    class _AsyncWriterThread(threading.Thread):
        def run(self):
            raise OSError(28, "No space left on device")

    class Other(_AsyncWriterThread):
        pass

    for kind in (_AsyncWriterThread, Other):
        thread = kind(name=kind.__name__)
        thread.start()
        thread.join()
    said = capfd.readouterr().err
    assert "Exception in thread Other" in said and "_AsyncWriterThread:" not in said
