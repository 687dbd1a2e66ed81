"""What a run reports, and that it stops where a loss is not finite."""

import csv
import io
import re
from types import SimpleNamespace
from unittest.mock import Mock

import lightning as L
import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.plugins.custom_scalar import layout_pb2

from shear_lit.reporting.pictures import gates_picture
from shear_lit.theory.hard_concrete import LOG_ALPHA_LIMIT
from shear_lit.theory.shape import Axis
from shear_lit.training import run_log
from shear_lit.training.module import ShearingModule
from shear_lit.training.run_log import RunLog
from tests.toy import DOMAINS, LENGTH
from tests.training.forks import ForkError, run
from tests.training.runs import fit
from tests.training.stops import SPREAD

# Units of a row: query heads are counted within their KV group.
SOURCE = {"layers": 3, "hidden": 32, "kv_heads": 2, "query_heads": 4, "intermediate": 48}
TARGET = {"layers": 2, "hidden": 24, "kv_heads": 1, "query_heads": 2, "intermediate": 32}
AXES = tuple(SOURCE)


@pytest.fixture(scope="module")
def everything(whole):
    folder, _ = whole("prune")
    accumulator = EventAccumulator(str(folder), size_guidance={"scalars": 0, "images": 0})
    return accumulator.Reload()


@pytest.fixture(scope="module")
def events(everything):
    return {tag: everything.Scalars(tag) for tag in everything.Tags()["scalars"]}


def values(events, tag):
    return {event.step: event.value for event in events[tag]}


def test_tensorboard_shows_the_whole_run(events):
    names = ["loss/language", "loss/size_penalty", "loss/validation/mean", "speed/tokens_per_second"]
    names += [f"loss/validation/{domain}" for domain in DOMAINS]
    names += [f"mixture/{what}/{domain}" for what in ("weight", "tokens", "epochs") for domain in DOMAINS]
    names += [f"size/{axis}/{what}" for what in ("expected", "target") for axis in AXES]
    names += [f"multipliers/{axis}/{which}" for axis in AXES for which in ("first", "second")]
    names += [f"loss/lag/{domain}" for domain in DOMAINS]
    names += [f"learning_rate/{group}" for group in ("weights", "gates", "multipliers")]
    names += ["gradient/norm", "speed/seconds_waiting_for_data", "memory/peak_gib"]
    names += ["run/tokens", "run/device_seconds"]
    names += [f"final/loss/validation/{name}" for name in (*DOMAINS, "mean")]
    assert set(names) == set(events)
    assert list(values(events, "loss/language")) == [2, 4, 6, 8, 10, 12]
    assert list(values(events, "loss/validation/code")) == [4, 8, 12]
    assert all(speed > 0 for speed in values(events, "speed/tokens_per_second").values())


def pixels_of(everything, tag):
    return [
        (event.step, torch.from_numpy(np.array(Image.open(io.BytesIO(event.encoded_image_string)))))
        for event in everything.Images(tag)
    ]


def test_tensorboard_shows_pictures_of_what_the_files_hold(everything, whole):
    folder, _ = whole("prune")
    tags = {f"gates/{axis}" for axis in AXES} | {"shape/expected", "mixture/so_far"}
    assert set(everything.Tags()["images"]) == tags
    for step, pixels in pixels_of(everything, "gates/intermediate"):
        stored = load_file(folder / "gates" / f"step={step:06d}.safetensors")["probability.intermediate"]
        expected = gates_picture(Axis.INTERMEDIATE, stored)
        assert torch.equal(pixels, expected)
        assert not torch.equal(pixels, gates_picture(Axis.INTERMEDIATE, stored / 2))
    assert [step for step, _ in pixels_of(everything, "mixture/so_far")] == [4, 8, 12]


def test_tensorboard_begins_with_the_run_and_has_its_settings(everything, events, whole):
    folder, _ = whole("prune")
    plugins = everything.summary_metadata
    layout = layout_pb2.Layout.FromString(
        everything.Tensors("custom_scalars__config__")[0].tensor_proto.string_val[0]
    )
    cards = {chart.title: list(chart.multiline.tag) for page in layout.category for chart in page.chart}
    shown = [
        tag for tag in events if any(re.fullmatch(each, tag) for card in cards.values() for each in card)
    ]
    assert {f"size/{axis}/{what}" for axis in AXES for what in ("expected", "target")} < set(shown)
    assert all(any(re.fullmatch(each, tag) for tag in events for each in card) for card in cards.values())
    text = everything.Tensors("config/text_summary")[0].tensor_proto.string_val[0].decode()
    assert text == f"```yaml\n{(folder / 'config.yaml').read_text()}\n```"
    assert "_hparams_/session_start_info" in plugins
    last = values(events, "loss/validation/mean")[12]
    assert values(events, "final/loss/validation/mean") == {12: last}


def test_reported_loss_is_the_mean_of_its_steps(events, whole):
    (record,) = whole("prune")[1]
    for step, loss in values(events, "loss/language").items():
        own = [b["loss"] for (of, _), b in record["batches"].items() if step - 2 <= of < step]
        assert len(own) == 8
        assert loss == pytest.approx(np.mean(own), rel=1e-6)


def test_reported_target_size_rises_to_the_target_over_its_warm_up(events):
    """Reported after step s - 1, for step s: linear over 4 steps, then constant."""
    for axis in AXES:
        for step, size in values(events, f"size/{axis}/target").items():
            progress = min(1.0, step / 4)
            expected = SOURCE[axis] + (TARGET[axis] - SOURCE[axis]) * progress
            assert size == pytest.approx(expected, rel=1e-6), (axis, step)


def test_reported_expected_size_is_that_of_the_gates(events, whole):
    """Of the last step that a report covers, whose gates are those that the step before left."""
    (record,) = whole("prune")[1]
    for axis in AXES:
        for step, size in values(events, f"size/{axis}/expected").items():
            if step > 2:
                log_alpha = record["gates_after"][step - 1][axis].double()
                kept = 1 - torch.sigmoid(2 / 3 * np.log(0.1 / 1.1) - log_alpha)
                assert size == pytest.approx(float(kept.sum(-1).mean()), rel=1e-5)


def test_reported_norm_is_that_of_the_gradients_before_they_are_clipped(events, whole):
    (record,) = whole("prune")[1]
    assert max(record["norms"].values()) > 1  # where they are clipped
    for step, norm in values(events, "gradient/norm").items():
        own = [record["norms"][of] for of in (step - 2, step - 1)]
        assert norm == pytest.approx(np.mean(own), rel=1e-5)


def test_reported_norm_of_shards_is_that_of_the_whole(whole):
    alone, sharded = (
        {step: numbers["gradient/norm"] for step, numbers in record["reports"] if "gradient/norm" in numbers}
        for record in (whole("prune")[1][0], whole("prune", *SPREAD, processes=2)[1][1])
    )
    assert alone.keys() == sharded.keys()
    assert list(sharded.values()) == pytest.approx(list(alone.values()), rel=1e-4)


def test_reported_lag_is_how_far_a_loss_is_behind_its_reference(events):
    for domain, reference in {"code": 2.0, "law": 2.5, "wiki": 3.0}.items():
        losses, lags = (values(events, f"loss/{kind}/{domain}") for kind in ("validation", "lag"))
        assert lags == pytest.approx({step: loss - reference for step, loss in losses.items()}, rel=1e-5)


def test_mixture_is_reported_from_its_beginning(events):
    assert values(events, "mixture/weight/code")[0] == 0.5
    assert values(events, "mixture/tokens/code")[0] == 0


def test_reported_tokens_are_those_that_were_drawn(events, whole):
    (record,) = whole("prune")[1]
    for index, domain in enumerate(DOMAINS):
        for step, tokens in values(events, f"mixture/tokens/{domain}").items():
            drawn = sum(
                int((b["domain"] == index).sum()) for (of, _), b in record["batches"].items() if of < step
            )
            assert tokens == drawn * LENGTH


def test_metrics_file_has_what_tensorboard_has(events, whole):
    with (whole("prune")[0] / "metrics.csv").open() as file:
        rows = list(csv.DictReader(file))
    reported = {tag: shown for tag, shown in events.items() if not tag.startswith("final/")}
    assert {row["name"] for row in rows} == set(reported)
    for tag, shown in reported.items():
        written = {int(row["step"]): float(row["value"]) for row in rows if row["name"] == tag}
        assert written == pytest.approx({event.step: event.value for event in shown}, rel=1e-6)


def test_console_has_a_line_per_report(whole):
    folder, _ = whole("prune")
    said = (folder.parent / "log" / "0.log").read_text()
    lines = [line for line in said.splitlines() if line.startswith("step ")]
    assert [line.split(":")[0] for line in lines] == [f"step {step} of 12" for step in range(2, 13, 2)]
    assert all("loss 5." in line and "tokens/s" in line and "hidden" in line for line in lines)
    assert all(line.endswith(" left") for line in lines[:-1]) and not lines[-1].endswith(" left")


MASKED = """
prunes MODEL
  layers 3 to 2, hidden 32 to 24, query heads 8 to 2, kv heads 2 to 1,
  intermediate 48 to 32
  12 steps of 192 tokens, 3 domains
step 2 of 12: REPORT
validation at step 4
  domain                          loss   reference      change  next share
  code                          N.NNNN      N.NNNN                   NN.N%
  law                           N.NNNN      N.NNNN                   NN.N%
  wiki                          N.NNNN      N.NNNN                    N.N%
step 4 of 12: REPORT
step 6 of 12: REPORT
"""


def test_transcript_of_a_pipe_is_the_stored_one(whole):
    """Numbers, times and paths are masked."""
    folder, _ = whole("prune")
    said = (folder.parent / "log" / "0.log").read_text()
    said = re.sub(r"(?m)^(step \d+ of \d+: ).*", r"\1REPORT", said)
    said = re.sub(r"\b\d\.\d{4}\b", "N.NNNN", re.sub(r"\d(?=\d?\.\d%)|\d(?=\.\d%)|\d(?=%)", "N", said))
    said = re.sub(r"(?m)^prunes .*", "prunes MODEL", said)
    assert MASKED.strip() in said
    assert said.count("validation at step") == 3 and said.count("+N.NNNN") + said.count("-N.NNNN") == 6
    assert f"shear-lit report {folder}" in said
    assert f"shear-lit export --checkpoint {folder}/checkpoints/step=000012.ckpt --output MODEL" in said
    for noise in (
        "max_cache_size",
        "POSIX",
        "Tip",
        "weights_only",
        "LightningCLI",
        "Warning",
        "deprecated",
        "TPU",
    ):
        assert noise not in said, said


def test_what_comes_before_the_first_step_slows_no_step_down(monkeypatch):
    clock, shown = [100.0], {}
    monkeypatch.setattr(run_log, "time", SimpleNamespace(monotonic=lambda: clock[0]))
    monkeypatch.setattr(
        run_log, "show", lambda trainer, numbers, seconds_left: shown.update(numbers, left=seconds_left)
    )
    trainer = Mock(
        spec=L.Trainer,
        global_step=40,
        max_steps=60,
        world_size=1,
        loggers=[],
        optimizers=[Mock(param_groups=[])],
    )
    trainer.strategy = Mock(root_device=torch.device("cpu"))
    trainer.strategy.reduce.side_effect = lambda numbers, reduce_op: numbers
    module = Mock(
        spec=ShearingModule, gradient_norm=None, skipped_steps=[], distillation=None, pruning=None, axes=()
    )
    module.skip_nonfinite = 0
    module.data = SimpleNamespace(
        micro_batch=4, tokens_seen={}, manifest=SimpleNamespace(sequence_length=100)
    )
    log = RunLog(trainer, module)
    clock[0] += 300  # a validation and a repair
    log.go_on()
    for step in range(40, 45):
        clock[0] += 2
        log.batch_is_here()
        trainer.global_step = step + 1
        log.keep(
            {"language_loss": torch.tensor(4.0)}, {"domain": torch.zeros(4, dtype=torch.long)}, completes=True
        )
        log.go_on()
    log.check()
    clock[0] += 50  # a validation that is due at the report
    log.report(validated=False)
    assert shown["speed/tokens_per_second"] == 5 * 400 / 10
    assert shown["left"] == (10 + 50) / 5 * 15, (
        "validations come again, what is before the first step does not"
    )


def test_bar_shows_the_last_report_where_there_is_one(toy, tmp_path):
    arguments = [*toy.arguments("pretrain", tmp_path / "run"), "--trainer.enable_progress_bar=true"]
    run(fit, tmp_path / "log", arguments=[*arguments, "--trainer.max_steps=4"])
    said = (tmp_path / "log" / "0.log").read_text().replace("\r", "\n").splitlines()
    assert re.search(r"4/4 .*step.*loss 5\.\d+, tokens/s", [line for line in said if "4/4" in line][-1])
    assert not any(line.startswith("step ") for line in said)
    assert "validation at step 4" in said  # on a line of its own, not behind the bar


def test_validation_of_a_checkpoint_gives_the_losses_of_its_run(toy, tmp_path, whole):
    folder, (record,) = whole("prune")
    before = {path: path.stat().st_mtime_ns for path in folder.rglob("*")}
    arguments = ["validate", *toy.arguments("prune", folder)[1:]]
    arguments.append(f"--ckpt_path={folder / 'checkpoints' / 'step=000012.ckpt'}")
    run(fit, tmp_path / "log", arguments=arguments)
    said = (tmp_path / "log" / "0.log").read_text()
    for domain, loss in zip(DOMAINS, record["domain_losses"][12].tolist(), strict=True):
        assert re.search(rf"^{domain} +{loss:.4f} nats per token,", said, re.MULTILINE), said
    assert {path: path.stat().st_mtime_ns for path in folder.rglob("*")} == before


def test_gates_stay_within_their_limits(whole):
    (record,) = whole("prune")[1]
    assert len(record["gates_after"]) == 12
    for gates in record["gates_after"].values():
        assert all(rows.abs().max() <= LOG_ALPHA_LIMIT for rows in gates.values())


def far_steps():
    """Gates far beyond their limits after each step, if nothing brought them back."""
    step = torch.optim.AdamW.step

    def too_far(self, *args, **options):
        found = step(self, *args, **options)
        for group in self.param_groups:
            if group["name"] == "gates":
                for rows in group["params"]:
                    rows.data.add_(100.0)
        return found

    torch.optim.AdamW.step = too_far


def test_gates_that_were_pushed_too_far_are_brought_back(toy, tmp_path):
    arguments = [*toy.arguments("prune", tmp_path / "run"), "--trainer.max_steps=4"]
    (record,) = run(fit, tmp_path / "log", arguments=arguments, sabotage=far_steps)
    for gates in record["gates_after"].values():
        assert all(torch.equal(rows, torch.full_like(rows, LOG_ALPHA_LIMIT)) for rows in gates.values())


# Losses that are not finite

NAN_STEP = 5


def nan_in_one_micro_batch():
    """Not a number in the second micro-batch of step 5, which is one of the second process where there are two."""
    train = ShearingModule.training_step
    objective = ShearingModule._objective

    def remember(self, batch, index):
        self.bad = self.trainer.global_step == NAN_STEP and batch["micro_batch"] == 1
        return train(self, batch, index)

    ShearingModule.training_step = remember
    ShearingModule._objective = lambda self, *given: {
        name: loss * (float("nan") if self.bad else 1.0) for name, loss in objective(self, *given).items()
    }


def nan_right_after_a_checkpoint():
    """At step 6, whose weights are those of step=000006.ckpt."""
    global NAN_STEP
    NAN_STEP = 6
    nan_in_one_micro_batch()


def nan_in_a_later_step():
    global NAN_STEP
    NAN_STEP = 9
    nan_in_one_micro_batch()


def infinite_weight():
    step = ShearingModule.optimizer_step

    def overflow(self, *args, **options):
        step(self, *args, **options)
        if self.trainer.global_step == NAN_STEP:  # it is counted after this
            next(self.model.parameters()).data[0, 0] = float("inf")

    ShearingModule.optimizer_step = overflow


def nan_and_unchecked_saves():
    nan_in_one_micro_batch()
    RunLog.check = RunLog.check_weights = lambda self: None


def refused_run(toy, tmp_path, sabotage, *flags, processes=1):
    """What a run said that had to stop; it reports so seldom that only a save looks at the loss."""
    arguments = [*toy.arguments("prune", tmp_path / "run"), "--trainer.log_every_n_steps=50", *flags]
    with pytest.raises(ForkError) as said:
        run(fit, tmp_path / "log", processes=processes, arguments=arguments, sabotage=sabotage)
    return str(said.value), sorted(path.name for path in (tmp_path / "run" / "checkpoints").iterdir())


def test_loss_that_is_not_finite_stops_the_run(toy, tmp_path, whole):
    said, checkpoints = refused_run(toy, tmp_path, nan_in_one_micro_batch)
    # The mixture moved once: the batches are those of the healthy run.
    domains = whole("prune")[1][0]["batches"][NAN_STEP, 1]["domain"].tolist()
    names = ", ".join(sorted({DOMAINS[index] for index in domains}))
    assert f"error: the loss of optimizer step {NAN_STEP} is not finite" in said
    assert f"with the domains {names}." in said
    assert f"the last checkpoint from before is {tmp_path}/run/checkpoints/step=000004.ckpt" in said
    assert checkpoints == ["step=000002.ckpt", "step=000004.ckpt"]


def test_checkpoint_that_may_hold_the_bad_weights_is_not_recommended(toy, tmp_path):
    said, checkpoints = refused_run(toy, tmp_path, nan_right_after_a_checkpoint)
    assert "the loss of optimizer step 6 is not finite" in said and checkpoints[-1] == "step=000006.ckpt"
    assert f"the last checkpoint from before is {tmp_path}/run/checkpoints/step=000004.ckpt" in said


def test_every_rank_stops_where_one_has_such_a_loss(toy, tmp_path):
    flags = ["--trainer.strategy=fsdp2", "--trainer.devices=2"]
    said, checkpoints = refused_run(toy, tmp_path, nan_in_one_micro_batch, *flags, processes=2)
    assert "timeout" not in said
    errors = [line for line in said.splitlines() if line.startswith("error: ")]
    assert len(errors) == 2
    assert all(f"the loss of optimizer step {NAN_STEP} is not finite" in error for error in errors)
    assert sum("of another rank, whose message names its domains" in error for error in errors) == 1
    assert checkpoints == ["step=000002", "step=000004"]


def test_weight_that_is_not_finite_is_never_saved(toy, tmp_path):
    said, checkpoints = refused_run(toy, tmp_path, infinite_weight)
    assert f"not finite after optimizer step {NAN_STEP}" in said and "step=000004.ckpt" in said
    assert checkpoints == ["step=000002.ckpt", "step=000004.ckpt"]


@pytest.mark.nightly
def test_unchecked_save_would_be_seen(toy, tmp_path):
    _, checkpoints = refused_run(toy, tmp_path, nan_and_unchecked_saves)
    assert "step=000006.ckpt" in checkpoints


def test_callbacks_may_watch_the_losses_of_a_validation(toy, tmp_path):
    """EarlyStopping ends the run at its second validation, at step 8 of 12: no loss is 100 nats better by then."""
    watch = ["--trainer.callbacks+=EarlyStopping", "--trainer.callbacks.monitor=loss/validation/mean"]
    watch += ["--trainer.callbacks.patience=1", "--trainer.callbacks.min_delta=100"]
    run(fit, tmp_path / "log", arguments=[*toy.arguments("prune", tmp_path / "run"), *watch])
    written = sorted(path.name for path in (tmp_path / "run" / "checkpoints").iterdir())
    assert written[-1] == "step=000008.ckpt"


# Steps that may pass without an update

SKIP = "--training.skip_nonfinite=1"


def test_step_that_is_not_finite_may_pass_without_an_update(toy, tmp_path, whole):
    """The weights after it are those before it, the run goes on, and its losses are in no mean."""
    arguments = [*toy.arguments("prune", tmp_path / "run"), SKIP]
    (record,) = run(fit, tmp_path / "log", arguments=arguments, sabotage=nan_in_one_micro_batch)
    said = (tmp_path / "log" / "0.log").read_text()
    assert f"the loss of optimizer step {NAN_STEP} is not finite, in a micro-batch with the domains" in said
    assert "it passes without an update (1 of training.skip_nonfinite)" in said
    before, after = (record["gates_after"][step] for step in (NAN_STEP, NAN_STEP + 1))
    assert all(torch.equal(before[axis], after[axis]) for axis in AXES)
    assert all(bool(rows.isfinite().all()) for rows in record["parameters"].values())
    reports = {step: numbers for step, numbers in record["reports"] if "loss/language" in numbers}
    own = [b["loss"] for (of, _), b in record["batches"].items() if of == NAN_STEP - 1]
    assert reports[NAN_STEP + 1]["loss/language"] == pytest.approx(np.mean(own), rel=1e-6)
    assert reports[12]["run/skipped_steps"] == 1


def test_steps_that_pass_are_counted_over_a_resume(toy, tmp_path):
    """The one step that may pass has passed before the checkpoint: the next one ends the run."""
    arguments = [*toy.arguments("prune", tmp_path / "run"), SKIP]
    stop = ["--trainer.max_steps=8"]
    run(fit, tmp_path / "first", arguments=[*arguments, *stop], sabotage=nan_in_one_micro_batch)
    with pytest.raises(ForkError, match="the loss of optimizer step 9 is not finite"):
        run(
            fit,
            tmp_path / "second",
            arguments=[*arguments, "--ckpt_path=auto"],
            sabotage=nan_in_a_later_step,
        )


def test_all_ranks_let_the_same_step_pass(toy, tmp_path):
    flags = ["--trainer.strategy=fsdp2", "--trainer.devices=2", SKIP, "--trainer.max_steps=8"]
    arguments = [*toy.arguments("prune", tmp_path / "run"), *flags]
    records = run(fit, tmp_path / "log", processes=2, arguments=arguments, sabotage=nan_in_one_micro_batch)
    for record in records:
        assert all(bool(rows.isfinite().all()) for rows in record["parameters"].values())
