"""The card that an export writes: its pictures, how it is made again, and the comparison that comes later."""

import csv
import json
import re
import shutil

import pytest
import torch
import yaml
from safetensors.torch import load_file

from shear_lit import cli
from shear_lit.commands.export import export
from shear_lit.commands.mend import mend
from shear_lit.training.run_checkpoints import latest_checkpoint
from tests import tiny


@pytest.fixture(scope="module")
def pruned(whole, tmp_path_factory):
    """A run of stage 1, and the export of its last checkpoint."""
    run, _ = whole("prune")
    place = tmp_path_factory.mktemp("card") / "pruned"
    export(latest_checkpoint(run), str(place))
    return run, place


def card_of(place):
    return (place / "README.md").read_text()


def numbers(run):
    with (run / "metrics.csv").open() as file:
        return {(row["step"], row["name"]): float(row["value"]) for row in csv.DictReader(file)}


def test_pictures_lie_beside_the_card_and_it_shows_them(pruned):
    _, place = pruned
    shown = re.findall(r"!\[[^]]+\]\(([^)]+)\)", card_of(place))
    assert shown == ["shape.svg", "losses.svg"]
    assert all(0 < (place / name).stat().st_size < 100_000 for name in shown)


def test_losses_stand_beside_those_of_the_beginning_and_the_references(pruned):
    run, place = pruned
    found, last = numbers(run), str(json.loads((place / "recipe.json").read_text())["step"])
    row = next(line for line in card_of(place).splitlines() if line.startswith("| law | "))
    (now,) = {
        f"{value:.4f}"
        for (step, name), value in found.items()
        if (step, name) == (last, "loss/validation/law")
    }
    assert now in row.split(" | ")
    if ("0", "loss/validation/law") in found:
        assert f"{found['0', 'loss/validation/law']:.4f}" in row


def test_run_is_made_again_from_what_lies_beside_the_card(pruned, tmp_path):
    """The config in the export gives the run's numbers, bit for bit, and the export's weights."""
    run, place = pruned
    card = card_of(place)
    assert "shear-lit fit --config fit.yaml --trainer.default_root_dir RUN" in card
    settings = yaml.safe_load((place / "fit.yaml").read_text())
    assert not {"logger", "callbacks", "default_root_dir"} & settings["trainer"].keys()
    cli.main(["fit", f"--config={place / 'fit.yaml'}", f"--trainer.default_root_dir={tmp_path / 'again'}"])
    timed = ("speed/", "memory/", "run/device_seconds")
    first, again = (
        {key: value for key, value in numbers(each).items() if not key[1].startswith(timed)}
        for each in (run, tmp_path / "again")
    )
    assert first == again
    words = next(line for line in card.splitlines() if line.startswith("shear-lit export"))
    assert words == f"shear-lit export --checkpoint RUN/checkpoints/{latest(run)} --output MODEL"
    export(latest_checkpoint(tmp_path / "again"), str(tmp_path / "model"))
    written, remade = (load_file(each / "model.safetensors") for each in (place, tmp_path / "model"))
    assert all(torch.equal(written[name], remade[name]) for name in written)


def latest(run):
    return latest_checkpoint(run).rpartition("/")[2]


def test_versions_commit_and_fingerprints_are_those_of_the_run(pruned):
    run, place = pruned
    facts, card = json.loads((run / "provenance.json").read_text()), card_of(place)
    assert f"- fingerprint of the prepared data: `{facts['data']}`" in card
    assert f"- fingerprint of the source: `{facts['source']['fingerprint']}`" in card
    assert f"torch {facts['packages']['torch']}" in card and f"Python {facts['python']}" in card
    assert facts["device"] in card


def test_checkpoint_without_its_run_says_so(pruned, tmp_path):
    run, _ = pruned
    alone = tmp_path / latest(run)
    (shutil.copytree if latest_checkpoint(run).endswith("/") else shutil.copy)(latest_checkpoint(run), alone)
    export(str(alone), str(tmp_path / "out"))
    card = card_of(tmp_path / "out")
    assert "was not at hand when this was written" in card and "losses.svg" not in card
    assert not (tmp_path / "out" / "fit.yaml").exists() and "shape.svg" in card


def test_run_of_another_source_is_not_taken_for_the_checkpoints(pruned, tmp_path, caplog):
    run, _ = pruned
    shutil.copytree(run, tmp_path / "run")
    facts = json.loads((tmp_path / "run" / "provenance.json").read_text())
    facts["source"]["fingerprint"] = "0" * 64
    (tmp_path / "run" / "provenance.json").write_text(json.dumps(facts))
    export(latest_checkpoint(tmp_path / "run"), str(tmp_path / "out"))
    assert "losses.svg" not in card_of(tmp_path / "out") and "a run from another source" in caplog.text


def test_damaged_metrics_do_not_stop_an_export(pruned, tmp_path, caplog):
    run, _ = pruned
    shutil.copytree(run, tmp_path / "run")
    (tmp_path / "run" / "metrics.csv").write_bytes(b"step,name,value\n1,loss/language,nan\n\xff")
    export(latest_checkpoint(tmp_path / "run"), str(tmp_path / "out"))
    assert "metrics.csv cannot be used" in caplog.text and "losses.svg" not in card_of(tmp_path / "out")


def test_secrets_of_services_are_not_beside_the_model(pruned, tmp_path):
    run, _ = pruned
    shutil.copytree(run, tmp_path / "run")
    settings = yaml.safe_load((tmp_path / "run" / "config.yaml").read_text())
    settings["trainer"]["logger"] = [{"class_path": "CometLogger", "init_args": {"api_key": "a-secret"}}]
    (tmp_path / "run" / "config.yaml").write_text(yaml.safe_dump(settings))
    export(latest_checkpoint(tmp_path / "run"), str(tmp_path / "out"))
    assert not any(b"a-secret" in path.read_bytes() for path in (tmp_path / "out").iterdir())


def test_cut_without_training_is_made_again_from_its_gates(tmp_path):
    tiny.write_source(tmp_path / "source", tiny.config())
    scores = tmp_path / "scores.safetensors"
    cli.main(["rank", f"--source={tmp_path / 'source'}", f"--output={scores}", "--criterion=weight"])
    cli.main(
        [
            "export",
            f"--gates={scores}",
            f"--output={tmp_path / 'cut'}",
            "--target.layers=2",
            "--dtype=bfloat16",
        ]
    )
    card = card_of(tmp_path / "cut")
    (line,) = [line for line in card.splitlines() if line.startswith("shear-lit export")]
    assert "shape.svg" in card and "losses.svg" not in card
    shutil.copy(tmp_path / "cut" / "gates.shear", tmp_path / "gates.shear")
    words = line.replace("--gates gates.shear", f"--gates {tmp_path / 'gates.shear'}")
    cli.main(words.replace("--output MODEL", f"--output {tmp_path / 'again'}").split()[1:])
    written, again = (load_file(tmp_path / name / "model.safetensors") for name in ("cut", "again"))
    assert all(torch.equal(written[name], again[name]) for name in written) and written.keys() == again.keys()


def test_comparison_comes_into_the_card_and_stays_when_it_is_mended(pruned, toy, tmp_path, capsys):
    _, place = pruned
    shutil.copytree(place, tmp_path / "model")
    card = tmp_path / "model" / "README.md"
    card.write_text(card_of(place).replace("# pruned\n", "# pruned\n\nMy own words.\n"))
    words = [str(toy.source()), str(tmp_path / "model"), f"--data={toy.data}", "--speed=false", "--cards"]
    cli.main(["compare", *words, "--sequences_per_domain=2", f"--cache={tmp_path / 'cache'}"])
    first = card.read_text()
    table = capsys.readouterr().out.partition("## Losses")[2].partition("##")[0].strip()
    assert "### Losses" in first and table.splitlines()[0] in first and "My own words." in first
    assert first.index("## Losses") < first.index("## Comparison") < first.index("## Verified")
    cli.main(["compare", *words, "--sequences_per_domain=3", f"--cache={tmp_path / 'cache'}"])
    second = card.read_text()
    assert second.count("## Comparison") == 1 and second != first and "My own words." in second
    recipe = json.loads((tmp_path / "model" / "recipe.json").read_text())
    (tmp_path / "model" / "recipe.json").write_text(json.dumps({**recipe, "format": 1}))
    mend(str(tmp_path / "model"))
    assert second.partition("## Comparison")[2].partition("<!--")[0] in card.read_text()
    assert "shape.svg" in card.read_text() and "## Made again" in card.read_text()


def test_comparison_of_models_of_others_has_no_card_to_go_to(toy, tmp_path, capsys):
    shutil.copytree(toy.source(), tmp_path / "other")
    with pytest.raises(SystemExit):
        cli.main(["compare", str(toy.source()), str(tmp_path / "other"), "--speed=false", "--cards"])
    assert "cards=true has no effect: none of the models was written" in capsys.readouterr().err
