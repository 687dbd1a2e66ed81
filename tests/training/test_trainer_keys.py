"""What runs do under the Trainer's keys, callbacks and loggers that docs/trainer.md says work or mean something."""

import csv
import re
import sqlite3
from types import SimpleNamespace

import pytest
import torch

from shear_lit.training import time_limit
from shear_lit.training.module import ShearingModule
from tests.toy import DOMAINS
from tests.training.forks import ForkError, run
from tests.training.runs import fit


def started(toy, folder, *flags, stage="pretrain", **options):
    """A toy run in ``folder``: what it did, and what it said."""
    log = folder / f"log-{len(list(folder.glob('log-*')))}"
    (record,) = run(fit, log, arguments=[*toy.arguments(stage, folder / "run"), *flags], **options)
    return record, (log / "0.log").read_text().replace("\r", "\n")


def checkpoints(folder):
    return sorted(path.name for path in (folder / "run" / "checkpoints").iterdir())


def assert_same_end(record, other):
    assert record["parameters"].keys() == other["parameters"].keys()
    for name, parameter in record["parameters"].items():
        assert torch.equal(parameter, other["parameters"][name]), name


# Keys, callbacks and loggers that work beside each other

MANY = [
    "--trainer.accelerator=cpu",
    "--trainer.strategy=auto",
    "--trainer.num_nodes=1",
    "--trainer.precision=32-true",
    "--trainer.gradient_clip_algorithm=value",
    "--trainer.gradient_clip_val=0.01",
    "--trainer.deterministic=true",
    "--trainer.inference_mode=false",
    "--trainer.enable_model_summary=true",
    "--trainer.profiler=simple",
    "--trainer.plugins+=LightningEnvironment",
    "--trainer.callbacks+=LearningRateMonitor",
    "--trainer.callbacks.log_momentum=true",
    "--trainer.callbacks+=DeviceStatsMonitor",
    "--trainer.callbacks.cpu_stats=true",
    "--trainer.callbacks+=LambdaCallback",
    "--trainer.callbacks.on_train_start=tests.training.test_trainer_keys.say_hello",
    "--trainer.callbacks+=ModelCheckpoint",
    "--trainer.callbacks.monitor=loss/validation/law",
    "--trainer.callbacks.save_top_k=-1",
    "--trainer.callbacks+=TQDMProgressBar",
    "--trainer.logger+=CSVLogger",
    "--trainer.logger.save_dir={folder}/csv",
    "--trainer.logger+=TensorBoardLogger",
    "--trainer.logger.save_dir={folder}/tensorboard",
]


def say_hello(trainer, pl_module):
    print("hello from a function of mine")


@pytest.fixture(scope="module")
def many(toy, tmp_path_factory):
    """A run under many keys: its folder, its flags, what it did and said."""
    folder = tmp_path_factory.mktemp("many")
    flags = [flag.replace("{folder}", str(folder)) for flag in MANY]
    return folder, flags, *started(toy, folder, *flags)


def test_keys_that_work_do_so_together(many):
    folder, _, _, said = many
    assert "Total params" in said  # enable_model_summary
    assert "run_training_epoch" in said  # profiler
    assert "hello from a function of mine" in said  # LambdaCallback
    assert re.search(r"^Epoch 0: .*48/", said, re.MULTILINE)  # TQDMProgressBar
    assert re.search(r"^ *step 12 of 12: loss 5\.", said, re.MULTILINE)  # which lets the reports through
    assert {f"step={step:06d}.ckpt" for step in range(2, 13, 2)} < set(checkpoints(folder))
    assert (folder / "run" / "config.yaml").is_file(), (
        "the settings lie with the run, wherever its logger writes"
    )


def test_loggers_have_the_run_and_what_callbacks_report(many):
    folder = many[0]
    assert list((folder / "tensorboard").rglob("events.out.tfevents.*"))
    (file,) = (folder / "csv").rglob("metrics.csv")
    with file.open() as lines:
        rows = list(csv.DictReader(lines))
    assert [row["step"] for row in rows if row.get("loss/language")] == [
        str(step) for step in range(2, 13, 2)
    ]
    assert all(any(row.get(f"loss/validation/{name}") for row in rows) for name in DOMAINS)
    reported = {name for row in rows for name, value in row.items() if value}
    assert {"lr-AdamW/weights", "lr-AdamW/weights-momentum"} <= reported  # LearningRateMonitor
    assert any(name.startswith("DeviceStatsMonitor") for name in reported)


def test_gradients_are_clipped_by_value_where_that_is_asked_for(many, whole):
    record, (usual,) = many[2], whole("pretrain")[1]
    assert not all(
        torch.equal(usual["parameters"][name], value) for name, value in record["parameters"].items()
    )


def test_checkpoint_of_a_callback_resumes_exactly(many, toy):
    folder, flags, record, _ = many
    watched = [name for name in checkpoints(folder) if name.startswith("epoch=")]
    assert watched == ["epoch=0-step=12.ckpt", "epoch=0-step=4.ckpt", "epoch=0-step=8.ckpt"]
    path = folder / "run" / "checkpoints" / "epoch=0-step=8.ckpt"
    again, _ = started(toy, folder, *flags, f"--ckpt_path={path}")
    assert min(step for step, _ in again["batches"]) == 8
    assert_same_end(again, record)


def test_one_callback_needs_no_list(toy, tmp_path):
    flags = ["--trainer.callbacks=EarlyStopping", "--trainer.callbacks.monitor=loss/validation/code"]
    flags += ["--trainer.callbacks.patience=1", "--trainer.callbacks.min_delta=100"]
    started(toy, tmp_path, *flags)
    assert checkpoints(tmp_path)[-1] == "step=000004.ckpt", "the second validation is the one behind step 4"


def test_rich_bar_and_summary_work(toy, tmp_path):
    pytest.importorskip("rich")
    flags = [
        "--trainer.max_steps=4",
        "--trainer.callbacks+=RichProgressBar",
        "--trainer.callbacks+=RichModelSummary",
    ]
    _, said = started(toy, tmp_path, *flags)
    assert "Epoch 0/" in said and "Trainable params" in said
    assert "step 4 of 4: loss 5." in said


def test_wandb_works_offline(toy, tmp_path):
    pytest.importorskip("wandb")
    flags = [
        "--trainer.logger=WandbLogger",
        "--trainer.logger.offline=true",
        f"--trainer.logger.save_dir={tmp_path}",
    ]
    started(toy, tmp_path, "--trainer.max_steps=4", *flags, stage="prune")
    assert list(tmp_path.glob("wandb/offline-run-*/run-*.wandb"))
    pictures = [path.name for path in tmp_path.glob("wandb/offline-run-*/files/media/images/**/*.png")]
    assert {name.partition("_")[0] for name in pictures} > {"hidden", "layers", "expected", "so"}


def test_mlflow_works_with_a_database(toy, tmp_path):
    pytest.importorskip("mlflow")
    flags = ["--trainer.logger=MLFlowLogger", f"--trainer.logger.tracking_uri=sqlite:///{tmp_path}/runs.db"]
    flags.append(f"--trainer.logger.artifact_location={tmp_path}/artifacts")
    started(toy, tmp_path, "--trainer.max_steps=4", *flags, stage="prune")
    database = sqlite3.connect(tmp_path / "runs.db")
    steps = database.execute("select step from metrics where key = 'loss/language' order by step").fetchall()
    database.close()
    assert steps == [(2,), (4,)]
    assert list(tmp_path.glob("artifacts/*/artifacts/images/gates-hidden*step+4*.png"))
    assert list(tmp_path.glob("artifacts/*/artifacts/config.yaml"))


# detect_anomaly


def gradient_that_is_no_number():
    """A loss that is finite, and a gradient that is not, in step 3."""
    objective = ShearingModule._objective

    def with_a_root(self, batch, gates):
        found = objective(self, batch, gates)
        if self.trainer.global_step == 3:
            found["loss"] = found["loss"] + (found["loss"] * 0).sqrt()
        return found

    ShearingModule._objective = with_a_root


def test_anomaly_is_named_and_ends_the_run(toy, tmp_path):
    with pytest.raises(ForkError) as said:
        started(toy, tmp_path, "--trainer.detect_anomaly=true", sabotage=gradient_that_is_no_number)
    (error,) = [line for line in str(said.value).splitlines() if line.startswith("error: ")]
    assert "trainer.detect_anomaly" in error and re.search(r"(Sqrt|Mul)Backward0", error)
    assert "Nobody foresaw" not in error and "model.optimizer.weights_learning_rate" in error
    assert checkpoints(tmp_path) == ["step=000002.ckpt"]


# max_time


def clock_of_steps():
    """A second passes with each look at the clock, of which there is one when a run is built and one a step."""
    looks = iter(range(10**6))
    time_limit.time = SimpleNamespace(monotonic=lambda: float(next(looks)))


def test_time_that_is_over_ends_a_run_after_a_whole_step_and_each_start_has_all_of_it(toy, tmp_path, whole):
    (usual,) = whole("pretrain")[1]
    flags = ["--trainer.max_time=00:00:00:07", "--checkpoint.every_steps=100"]
    record, said = started(toy, tmp_path, *flags, sabotage=clock_of_steps)
    assert "trainer.max_time=0:00:07 is over after step 7 of 12" in said and "--ckpt_path auto" in said
    assert checkpoints(tmp_path) == ["step=000007.ckpt"] and max(record["domain_losses"]) == 4
    assert len(record["batches"]) == 7 * 4
    record, said = started(toy, tmp_path, *flags, "--ckpt_path=last", sabotage=clock_of_steps)
    assert "is over" not in said
    assert_same_end(record, usual)


# fast_dev_run


def test_trial_takes_two_steps_and_leaves_nothing(toy, tmp_path):
    flags = [
        "--trainer.fast_dev_run=true",
        "--trainer.logger=CSVLogger",
        f"--trainer.logger.save_dir={tmp_path}/csv",
        "--trainer.callbacks+=ModelCheckpoint",
        f"--trainer.callbacks.dirpath={tmp_path}/best",
        "--model.pruning.sparsity_warmup_steps=640",
        "--model.optimizer.warmup_steps=320",
        "--data.mixture.update_at_start=true",
        "--data.mixture.update_every_steps=50",
    ]
    record, said = started(toy, tmp_path, *flags, stage="prune", sabotage=note_saves)
    assert [path.name for path in tmp_path.iterdir()] == ["log-0"]
    assert {step for step, _ in record["batches"]} == {0, 1} and list(record["domain_losses"]) == [2]
    (line,) = [line for line in said.splitlines() if line.startswith("trainer.fast_dev_run: ")]
    assert "2 steps, a validation and a checkpoint" in line and "nothing of it is kept" in line
    (saved,) = re.findall(r"saved (\S+step=000002\.ckpt)", said)
    assert saved.startswith(f"{tmp_path}/shear-lit-trial-")


def note_saves():
    import lightning as L

    save = L.Trainer.save_checkpoint

    def save_and_say(self, path, *args, **options):
        save(self, path, *args, **options)
        print("saved", path)

    L.Trainer.save_checkpoint = save_and_say


def nothing_can_be_read():
    def fail(self):
        raise OSError("no weights today")

    ShearingModule.configure_model = fail


def test_trial_that_fails_leaves_nothing_either(toy, tmp_path):
    with pytest.raises(ForkError, match="no weights today"):
        started(toy, tmp_path, "--trainer.fast_dev_run=true", sabotage=nothing_can_be_read)
    assert [path.name for path in tmp_path.iterdir()] == ["log-0"]


def test_trial_does_not_touch_a_run_that_is_there(toy, tmp_path):
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "note.txt").write_text("mine")
    started(toy, tmp_path, "--trainer.fast_dev_run=true")
    assert [path.name for path in (tmp_path / "run").iterdir()] == ["note.txt"]
