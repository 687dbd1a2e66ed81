"""One of every file that commands read, in one directory, and the command lines that read it."""

import gzip
import json
import re
import shutil
from collections.abc import Iterable, Sequence
from pathlib import Path

from shear_lit.data.order.mixture_log import MIXTURE_LOG
from shear_lit.pruning.artefact import GATES, GATES_BEFORE
from shear_lit.reporting.recipe import RECIPE
from tests.bad_inputs.ending import Ending, endings
from tests.data.preparing.mds_folders import sample, write_mds
from tests.toy import CONFIGS, DOMAINS, TARGETS, write_toy

TARGET = "--target={layers: 2, hidden: 24, query_heads: 2, kv_heads: 1, intermediate: 32}"
_MODEL = "{place}/model"
_DATA = "{place}/data"
_TARGET = [f"--model.pruning.target.{axis}={size}" for axis, size in TARGETS["gqa-tied"].items()]
_FIT = (
    "fit",
    f"--config={CONFIGS / 'toy' / 'prune.yaml'}",
    f"--model.source={_MODEL}",
    f"--data.directory={_DATA}",
    "--trainer.default_root_dir={place}/out",
    "--trainer.max_steps=4",
    "--model.optimizer.warmup_steps=1",
    "--model.pruning.sparsity_warmup_steps=2",
    *_TARGET,
)
_VALIDATE = ("validate", *(word for word in _FIT[1:] if "default_root_dir" not in word))
_SHARDED = ("--ckpt_path={place}/shards/step=000002", "--trainer.strategy=fsdp2")
_MEASURE = (f"--data={_DATA}", "--sequences_per_domain=2")
_PREPARE = ("prepare", f"--tokenizer={_MODEL}", "--sequence_length=24", "--workers=1")

COMMANDS: dict[str, tuple[str, ...]] = {
    "fit": _FIT,
    "fit from config": ("fit", "--config={place}/fit.yaml", *_FIT[2:]),
    "fit from file": (*_FIT, "--ckpt_path={place}/step=000002.ckpt"),
    "fit from shards": (*_FIT, *_SHARDED),
    "fit with scores": (
        *_FIT,
        "--model.pruning.initial_scores={place}/scores.safetensors",
        "--model.pruning.initial_log_alpha=4.605170185988092",
        "--model.pruning.initial_gap=3",
    ),
    "fit with gates": (
        *_FIT,
        f"--model.pruning.initial_scores={{place}}/export/{GATES}",
        "--model.pruning.initial_log_alpha=4.605170185988092",
        "--model.pruning.initial_gap=3",
    ),
    "fit with references": (*_FIT, "--data.mixture.references={place}/references.yaml"),
    "fit with mixture": (*_FIT, f"--data.mixture.proportions={{place}}/{MIXTURE_LOG}"),
    "validate": (*_VALIDATE, "--ckpt_path={place}/step=000002.ckpt"),
    "validate shards": (*_VALIDATE, *_SHARDED),
    "export file": (
        "export",
        "--checkpoint={place}/step=000002.ckpt",
        f"--source={_MODEL}",
        "--output={place}/out",
    ),
    "export shards": (
        "export",
        "--checkpoint={place}/shards/step=000002",
        f"--source={_MODEL}",
        "--output={place}/out",
    ),
    "export scores": (
        "export",
        "--gates={place}/scores.safetensors",
        f"--source={_MODEL}",
        TARGET,
        "--output={place}/out",
    ),
    "export gates": (
        "export",
        f"--gates={{place}}/export/{GATES}",
        f"--source={_MODEL}",
        TARGET,
        "--output={place}/out",
    ),
    "prepare": (*_PREPARE, "--domains.law={place}/text/law.jsonl", "--output={place}/out"),
    "prepare gz": (*_PREPARE, "--domains.law={place}/text/law.jsonl.gz", "--output={place}/out"),
    "prepare zst": (*_PREPARE, "--domains.law={place}/text/law.jsonl.zst", "--output={place}/out"),
    "prepare txt": (*_PREPARE, "--domains.law={place}/text/txt/*.txt", "--output={place}/out"),
    "prepare with sentencepiece": (
        "prepare",
        "--tokenizer={place}/text/tokenizer.model",
        "--sequence_length=24",
        "--workers=1",
        "--domains.law={place}/text/txt/*.txt",
        "--output={place}/out",
    ),
    "prepare more": (
        *_PREPARE,
        *(f"--domains.{name}={{place}}/text/{name}.jsonl" for name in DOMAINS if name != "law"),
        "--domains.law={place}/text/*law.jsonl",
        f"--output={_DATA}",
    ),
    "check": ("prepare", f"--check={_DATA}"),
    "from mds": (
        "prepare",
        "--from_mds.prune={place}/mds",
        f"--tokenizer={_MODEL}",
        "--output={place}/out",
    ),
    "data": ("data", _DATA),
    "data text": ("data", _DATA, "--sequences=1", f"--tokenizer={_MODEL}"),
    "simulate": ("data", _DATA, f"--simulate={{place}}/{MIXTURE_LOG}", "--steps=3"),
    "evaluate": ("evaluate", f"--model={_MODEL}", *_MEASURE),
    "evaluate apart": ("evaluate", f"--model={_MODEL}", *_MEASURE, "--cross_document_attention=false"),
    "reference": ("reference", "measure", f"--model={_MODEL}", *_MEASURE, "--output={place}/out.yaml"),
    "rank": ("rank", f"--source={_MODEL}", "--output={place}/out", "--criterion=weight"),
    "rank on text": ("rank", f"--source={_MODEL}", "--output={place}/out", *_MEASURE),
    "teach": (
        "teach",
        f"--model={_MODEL}",
        f"--data={_DATA}",
        "--output={place}/out",
        "--sequences_per_domain=1",
    ),
    "gates of scores": ("gates", "{place}/scores.safetensors", TARGET),
    "gates of export": ("gates", "{place}/export"),
    "mend": ("mend", "{place}/old", f"--source={_MODEL}"),
    "mend model": ("mend", _MODEL),
    "verify": ("verify", _MODEL, "--client=transformers"),
    "verify against": ("verify", "{place}/export", f"--against={_MODEL}", "--client=transformers"),
    "chat": ("chat", _MODEL, "--template=zephyr"),
    "demo": ("demo", "--output={place}/out"),
    "completion": ("completion", "bash"),
}
"""By name; what one writes is ``out``, except where it adds to the data or mends what is there."""
_CONFIGURED = {
    "fit": "fit",
    "validate": "validate",
    "prepare": "prepare",
    "check": "check",
    "from mds": "from mds",
    "data": "data",
    "reference": "reference",
    "export": "export scores",
    "evaluate": "evaluate",
    "verify": "verify",
    "rank": "rank",
    "mend": "mend",
    "teach": "teach",
    "gates": "gates of scores",
    "chat": "chat",
    "demo": "demo",
    "completion": "completion",
}
CONFIGURED = {
    f"{name} with a config": (*COMMANDS[of], "--config={place}/config.yaml")
    for name, of in _CONFIGURED.items()
}
"""Every command, with a config file of its own behind its flags."""
COMMANDS |= CONFIGURED


def command_line(name: str, place: Path) -> list[str]:
    """The words of a command in ``place``."""
    return [word.replace("{place}", str(place)) for word in COMMANDS[name]]


def parts_of(name: str) -> list[str]:
    """What a command reads, of the files and folders that ``write_good`` writes; a cut reads its source's tokenizer."""
    named = re.findall(r"{place}/([^/ ]+)", " ".join(COMMANDS[name]))
    return [part for part in dict.fromkeys(named) if part not in ("out", "out.yaml")]


def copied(good: Path, place: Path, name: str) -> Path:
    """A directory with what a command reads."""
    place.mkdir(parents=True, exist_ok=True)
    for part in parts_of(name):
        copy = shutil.copytree if (good / part).is_dir() else shutil.copy
        copy(good / part, place / part)
    return place


def write_good(place: Path, log: Path) -> None:
    """Write what the commands read into ``place``, by the commands themselves where they write such files."""
    made = place.with_name(f"{place.name}-made")
    for folder in (place, made, place / "text"):
        folder.mkdir(parents=True)
    toy = write_toy(made)
    shutil.copytree(toy.source(), place / "model")
    (place / "model" / "LICENSE").write_text("Do as you like.")
    (place / "model" / "README.md").write_text("---\nlicense: mit\n---\n")
    shutil.copytree(toy.data, place / "data")
    _write_texts(toy.root, place / "text")
    write_mds(place / "mds", [sample(0, number, length=24) for number in range(4)])
    names = ["rank", "reference", "fit", "fit from shards"]
    lines = [command_line(name, place) for name in names]
    lines[2:] = [
        [
            word.replace("{place}/out", str(made / folder)).replace("{place}", str(place))
            for word in (*_FIT, *flags)
        ]
        for folder, flags in (("file", ()), ("shards", ("--trainer.strategy=fsdp2",)))
    ]
    _done(lines, log / "first")
    (place / "out").rename(place / "scores.safetensors")
    (place / "out.yaml").rename(place / "references.yaml")
    shutil.copy(made / "file" / "checkpoints" / "step=000002.ckpt", place)
    shutil.copytree(made / "shards" / "checkpoints" / "step=000002", place / "shards" / "step=000002")
    shutil.copy(made / "file" / MIXTURE_LOG, place)
    _done([command_line("export file", place)], log / "second")
    (place / "out").rename(place / "export")
    shutil.copytree(place / "export", place / "old")
    (place / "old" / GATES).rename(place / "old" / GATES_BEFORE)
    recipe = json.loads((place / "old" / RECIPE).read_text())
    (place / "old" / RECIPE).write_text(json.dumps({**recipe, "format": 1}))
    (place / "config.yaml").write_text("{}\n")
    shutil.copy(CONFIGS / "toy" / "prune.yaml", place / "fit.yaml")


def _write_texts(toy: Path, folder: Path) -> None:
    import zstandard

    for name in DOMAINS:
        shutil.copy(toy / f"{name}.jsonl", folder)
    lines = (toy / "law.jsonl").read_text().splitlines()
    (folder / "more-law.jsonl").write_text("\n".join(line.replace('": "', '": "more ') for line in lines))
    content = (folder / "law.jsonl").read_bytes()
    (folder / "law.jsonl.gz").write_bytes(gzip.compress(content))
    (folder / "law.jsonl.zst").write_bytes(zstandard.compress(content))
    (folder / "txt").mkdir()
    for number, line in enumerate(lines):
        (folder / "txt" / f"{number:03}.txt").write_text(json.loads(line)["text"])


def write_sentencepiece(place: Path) -> None:
    """Train a small SentencePiece model on the text."""
    import sentencepiece

    sentencepiece.SentencePieceTrainer.train(
        input=",".join(map(str, sorted((place / "text" / "txt").iterdir()))),
        model_prefix=str(place / "text" / "tokenizer"),
        model_type="bpe",
        vocab_size=330,
        byte_fallback=True,
        remove_extra_whitespaces=False,
        normalization_rule_name="identity",
        allow_whitespace_only_pieces=True,
        minloglevel=9,
    )
    (place / "text" / "tokenizer.vocab").unlink()


def _done(lines: Sequence[Sequence[str]], log: Path) -> None:
    """Run commands that succeed, beside each other; each is started in an empty folder."""
    starts = [log.with_name(f"{log.name}-{number}") for number in range(len(lines))]
    for start in starts:
        start.mkdir(parents=True)
    for line, ending in zip(lines, endings(list(zip(lines, starts, strict=True)), log), strict=True):
        assert ending.code == 0, (line, ending.said)


def own_growth(names: Iterable[str], good: Path, work: Path) -> dict[str, Ending]:
    """How commands end on good files."""
    commands = []
    for number, name in enumerate(names):
        place = copied(good, work / f"own-{number}", name)
        commands.append((command_line(name, place), place))
    return dict(zip(names, endings(commands, work / "own"), strict=True))
