"""Files that were made to do harm, of each kind, and the commands that read them.

What they may do at most: be refused in one line. Nothing that they hold is run, no file outside of the given ones is
read, written or removed on their word, nothing hangs, and nothing fills the memory.
"""

import gzip
import json
import os
import pickle
import shutil
import struct
import zipfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from shear_lit.data.order.mixture_log import MIXTURE_LOG
from shear_lit.pruning.artefact import GATES, GATES_BEFORE
from shear_lit.reporting.recipe import RECIPE
from shear_lit.training.shard_index import INDEX
from shear_lit.training.shards import META
from tests.bad_inputs.checkpoints import (
    SHARD,
    RunsCode,
    entry_like,
    hostile_file,
    hostile_legacy_file,
    hostile_pickle,
    index_of,
    numbers_of,
    point_at_code,
    rewritten,
)
from tests.bad_inputs.ending import Ending, endings
from tests.bad_inputs.good import COMMANDS, CONFIGURED, command_line, copied

SECRET = "the secret of this machine, 5f1c0d"
MADE = "made"
"""What anything that is run makes."""
MOST_BYTES = 1 << 30
"""By which memory may grow beyond what the same command takes on good files."""
TERABYTE = 10**12

Write = Callable[[Path], None]

_MODEL = (
    "rank",
    "evaluate",
    "reference",
    "fit",
    "export scores",
    "mend",
    "mend model",
    "verify",
    "verify against",
)
_TOKENIZER = (
    "data text",
    "prepare",
    "from mds",
    "evaluate",
    "reference",
    "rank on text",
    "fit",
    "export scores",
)
_DATA = (
    "data",
    "check",
    "simulate",
    "data text",
    "evaluate",
    "reference",
    "rank on text",
    "fit",
    "prepare more",
)
_TEXT = ("data text", "check", "rank on text", "fit")
_FILE = ("export file", "validate", "fit from file")
_SHARDS = ("export shards", "validate shards", "fit from shards")
_SCORES = ("gates of scores", "export scores", "fit with scores")
_GATES = ("gates of export", "export gates", "fit with gates")
_CHECKPOINT = "shards/step=000002"
_CONFIG = ("data with a config", *(name for name in CONFIGURED if name != "data with a config"))


@dataclass(frozen=True)
class File:
    """A file that commands read."""

    path: str
    commands: tuple[str, ...]
    """The cheapest first."""
    inside: bool = True
    """Whether it lies in a directory that a command is given, so that it may not be a link that leads out of it."""


FILES: dict[str, File] = {
    "config.json": File("model/config.json", _MODEL),
    "generation_config.json": File("model/generation_config.json", _MODEL),
    "weights": File("model/model.safetensors", _MODEL),
    "tokenizer.json": File("model/tokenizer.json", _TOKENIZER),
    "tokenizer_config.json": File("model/tokenizer_config.json", _TOKENIZER),
    "manifest.json": File("data/manifest.json", _DATA),
    "index of chunks": File(
        "data/law/prune/index.json", ("data", "check", "rank on text", "fit", "prepare more")
    ),
    "chunk": File("data/law/prune/chunk-0-0.bin", _TEXT),
    "chunk of the validation": File("data/law/validation/chunk-0-0.bin", ("check", "evaluate", "reference")),
    "documents of a chunk": File("data/law/validation/chunk-0-0.documents", ("check", "evaluate apart")),
    "inputs of the ledger": File("data/.ledger/1/inputs.jsonl", ("prepare more",)),
    "tails of the ledger": File("data/.ledger/1/tails.json", ("prepare more",)),
    "hashes of the ledger": File("data/.ledger/1/documents.bin", ("prepare more",)),
    "checkpoint": File("step=000002.ckpt", _FILE, inside=False),
    "meta.pt": File(f"{_CHECKPOINT}/{META}", _SHARDS),
    "index of shards": File(f"{_CHECKPOINT}/{INDEX}", _SHARDS),
    "shard": File(f"{_CHECKPOINT}/{SHARD}", _SHARDS),
    "scores": File("scores.safetensors", _SCORES, inside=False),
    "gates": File(f"export/{GATES}", _GATES),
    "gates of an earlier version": File(f"old/{GATES_BEFORE}", ("mend",)),
    "recipe": File(f"old/{RECIPE}", ("mend",)),
    "references": File("references.yaml", ("fit with references",), inside=False),
    "mixture": File(MIXTURE_LOG, ("simulate", "fit with mixture"), inside=False),
    "config": File("config.yaml", _CONFIG, inside=False),
    "config of a run": File("fit.yaml", ("fit from config",), inside=False),
    "index of MDS": File("mds/index.json", ("from mds",)),
    "shard of MDS": File("mds/shard.00000.mds", ("from mds",)),
    "jsonl": File("text/law.jsonl", ("prepare",), inside=False),
    "gzip": File("text/law.jsonl.gz", ("prepare gz",), inside=False),
    "zstd": File("text/law.jsonl.zst", ("prepare zst",), inside=False),
    "txt": File("text/txt/007.txt", ("prepare txt",), inside=False),
    "SentencePiece": File("text/tokenizer.model", ("prepare with sentencepiece",), inside=False),
}


@dataclass(frozen=True)
class Kind:
    """One kind of hostile file."""

    name: str
    write: Write
    """Changes the good files of a place."""
    commands: tuple[str, ...]
    """The commands that read it, by name, the cheapest first."""
    harmless: bool = False
    """Whether a command may end well, as nothing of it is read or run."""
    harmless_for: tuple[str, ...] = ()
    """Commands that may end well: they do not read it, or were given it by its own name."""
    nightly: bool = False
    """Whether it is tried by `make doors` alone: it takes seconds, or is one of four that stand for one another."""
    begins: tuple[str, ...] = ()
    """Commands that come upon it only after a run has begun, of which they leave what was written."""


@dataclass(frozen=True)
class Case:
    """A kind of file, and one command that reads it."""

    kind: Kind
    command: str

    @property
    def may_end_well(self) -> bool:
        return self.kind.harmless or self.command in self.kind.harmless_for

    @property
    def name(self) -> str:
        return f"{self.kind.name}, {self.command}"


# How they are written


def json_change(path: str, **entries: Any) -> Write:
    """Put entries into a JSON object; a name with dots is a path in it."""

    def write(place: Path) -> None:
        content = json.loads((place / path).read_text())
        for name, value in entries.items():
            *above, last = [int(step) if step.isdigit() else step for step in name.split("__")]
            holder = content
            for step in above:
                holder = holder[step]
            holder[last] = value
        (place / path).write_text(json.dumps(content))

    return write


def content(path: str, what: bytes | str) -> Write:
    """Give a file another content."""

    def write(place: Path) -> None:
        (place / path).write_bytes(what.encode() if isinstance(what, str) else what)

    return write


def fifo(path: str) -> Write:
    """Put a pipe in the place of a file: whoever opens it as a file waits for ever."""

    def write(place: Path) -> None:
        (place / path).unlink(missing_ok=True)
        os.mkfifo(place / path)

    return write


def sparse(path: str, size: int = TERABYTE) -> Write:
    """Lengthen a file by a hole."""
    return lambda place: os.truncate(place / path, size)


def link(path: str) -> Write:
    """Put a link to the secret in the place of a file."""

    def write(place: Path) -> None:
        (place / path).unlink(missing_ok=True)
        (place / path).symlink_to(place / "outside" / "secret")

    return write


def moved(path: str) -> Write:
    """Move a file or folder out, and put a link to it in its place: what lies there would be read as it is."""

    def write(place: Path) -> None:
        name = path.replace("/", "-")
        shutil.move(place / path, place / "outside" / name)
        (place / path).symlink_to(place / "outside" / name)

    return write


def zeroed(path: str, where: Callable[[bytes, Path], int]) -> Write:
    """Put zeros in the place of 100 bytes."""

    def write(place: Path) -> None:
        found = (place / path).read_bytes()
        start = where(found, place)
        assert any(found[start : start + 100])
        (place / path).write_bytes(found[:start] + bytes(100) + found[start + 100 :])

    return write


def middle(found: bytes, place: Path) -> int:
    return len(found) // 2


def last(found: bytes, place: Path) -> int:
    return len(found) - 100


def numbers_in_file(part: str) -> Callable[[bytes, Path], int]:
    return lambda found, place: numbers_of(found, part)[0]


def numbers_in_shard(start: str, end: str = "") -> Callable[[bytes, Path], int]:
    """Where the numbers of an entry lie."""

    def where(found: bytes, place: Path) -> int:
        directory = place / _CHECKPOINT
        entry = entry_like(directory, start, end)
        record = next(info for key, info in index_of(directory).storage_data.items() if key.fqn == entry)
        return record.offset + numbers_of(found[record.offset :][: record.length])[0]

    return where


def code_in_shard(start: str, end: str = "") -> Write:
    def write(place: Path) -> None:
        directory = place / _CHECKPOINT
        point_at_code(directory, entry_like(directory, start, end), place / MADE)

    return write


def pickled(path: str) -> Write:
    return lambda place: (place / path).write_bytes(pickle.dumps(RunsCode(place / MADE)))


def saved(write: Callable[[Path, Path], None], path: str) -> Write:
    return lambda place: write(place / path, place / MADE)


def with_code(path: str, **entries: Any) -> Write:
    """A JSON that names classes in a Python file beside it."""

    def write(place: Path) -> None:
        json_change(path, **entries)(place)
        for name in ("hostile.py", "tokenization_hostile.py", "modeling_hostile.py"):
            (place / path).with_name(name).write_text(_code(place))

    return write


def _code(place: Path) -> str:
    return (
        f"import os\nos.makedirs({str(place / MADE)!r}, exist_ok=True)\n"
        "class Hostile:\n    pass\nHostileConfig = HostileModel = HostileTokenizer = Hostile\n"
    )


def header_of(path: str, length: int) -> Write:
    """A safetensors file whose header is said to be of such a length."""

    def write(place: Path) -> None:
        found = (place / path).read_bytes()
        (place / path).write_bytes(struct.pack("<Q", length) + found[8:])
        os.truncate(place / path, length + (1 << 20))

    return write


def index_of_weights(name: str) -> Write:
    """An index of weights that names a file which is not in the directory."""

    def write(place: Path) -> None:
        from safetensors import safe_open

        weights = place / "model" / "model.safetensors"
        with safe_open(weights, "pt") as file:
            names = list(file.keys())
        weights.rename(place / "outside" / "x.safetensors")
        index = {"metadata": {}, "weight_map": dict.fromkeys(names, name)}
        weights.with_name("model.safetensors.index.json").write_text(json.dumps(index))

    return write


def renamed_domain(name: str) -> Write:
    def write(place: Path) -> None:
        path = place / "data" / "manifest.json"
        found = json.loads(path.read_text())
        found["domains"][name] = found["domains"].pop("law")
        path.write_text(json.dumps(found))
        shutil.copytree(place / "data" / "law", place / "outside" / "law")

    return write


def renamed_split(name: str) -> Write:
    def write(place: Path) -> None:
        path = place / "data" / "manifest.json"
        found = json.loads(path.read_text())
        splits = found["domains"]["law"]["splits"]
        splits[name] = splits.pop("prune")
        path.write_text(json.dumps(found))

    return write


def gzip_bomb(place: Path) -> None:
    with gzip.open(place / "text" / "law.jsonl.gz", "wb", compresslevel=1) as file:
        for _ in range(80):
            file.write(bytes(1 << 24))


def zstd_bomb(place: Path) -> None:
    import zstandard

    compressor = zstandard.ZstdCompressor().compressobj()
    with (place / "text" / "law.jsonl.zst").open("wb") as file:
        for _ in range(80):
            file.write(compressor.compress(bytes(1 << 24)))
        file.write(compressor.flush())


def zstd_window(place: Path) -> None:
    header = b"\x28\xb5\x2f\xfd\x00" + bytes([21 << 3])  # no size, a window of 2^31 bytes
    (place / "text" / "law.jsonl.zst").write_bytes(header + b"\x01\x00\x00" * 100)


def deflated(place: Path) -> None:
    rewritten(place / "step=000002.ckpt", lambda found: found, zipfile.ZIP_DEFLATED)


def mds_claims(key: str, value: Any) -> Write:
    return json_change("mds/index.json", **{f"shards__0__raw_data__{key}": value})


PYTHON_OBJECT = "!!python/object/apply:os.mkdir [made]\n"
ALIASES = "a: &a [x,x,x,x,x,x,x,x,x]\n" + "".join(
    f"{b}: &{b} [{','.join([f'*{a}'] * 9)}]\n" for a, b in zip("abcdefghi", "bcdefghij", strict=True)
)
DEEP = "[" * 20_000


def _of_every_file() -> Iterator[Kind]:
    """Pipes, terabytes and links in the place of each file; the suite tries another of them for each file in turn."""
    for number, (name, file) in enumerate(FILES.items()):
        if name == "SentencePiece":
            continue
        own = file.commands if name == "shard" else ()  # what lies behind its records is not read
        named = ("export gates", "fit with gates") if name == "gates" else ()
        kinds = [Kind(f"pipe as {name}", fifo(file.path), file.commands)]
        if name not in ("jsonl", "gzip", "zstd", "txt"):
            kinds.append(Kind(f"terabyte as {name}", sparse(file.path), file.commands, harmless_for=own))
        if file.inside:
            kinds.append(Kind(f"link out as {name}", moved(file.path), file.commands, harmless_for=named))
            kinds.append(Kind(f"link to a secret as {name}", link(file.path), file.commands))
        tried = number % len(kinds)
        yield from (replace(kind, nightly=at != tried) for at, kind in enumerate(kinds))


_TOKENIZER_CODE = {"auto_map": {"AutoTokenizer": ["tokenization_hostile.HostileTokenizer", None]}}
_MODEL_CODE = {
    "AutoConfig": "modeling_hostile.HostileConfig",
    "AutoModelForCausalLM": "modeling_hostile.HostileModel",
}

HOSTILE: tuple[Kind, ...] = (
    # Code
    Kind("optimizer's entry that runs code", code_in_shard("optimizer_0.param_groups", ".lr"), ("fit from shards",)),
    Kind(
        "optimizer's entry that runs code, which is not read",
        code_in_shard("optimizer_0.param_groups", ".lr"),
        ("export shards", "validate shards"),
        harmless=True,
    ),
    Kind("weight's entry that runs code", code_in_shard("state_dict.model"), _SHARDS),
    Kind("checkpoint that runs code", saved(hostile_file, "step=000002.ckpt"), _FILE),
    Kind("checkpoint of an old form that runs code", saved(hostile_legacy_file, "step=000002.ckpt"), _FILE),
    Kind("pickle as checkpoint", saved(hostile_pickle, "step=000002.ckpt"), _FILE),
    Kind("meta.pt that runs code", saved(hostile_file, f"{_CHECKPOINT}/{META}"), _SHARDS),
    Kind("pickle as meta.pt", pickled(f"{_CHECKPOINT}/{META}"), _SHARDS),
    Kind("pickle as index of shards", pickled(f"{_CHECKPOINT}/{INDEX}"), _SHARDS),
    Kind("pickle as shard", pickled(f"{_CHECKPOINT}/{SHARD}"), _SHARDS),
    *(
        Kind(f"pickle as {name}", pickled(FILES[name].path), FILES[name].commands)
        for name in ("weights", "scores", "gates", "gates of an earlier version", "chunk", "shard of MDS")
    ),
    Kind("pickle beside no weights", lambda place: _only_pickle(place), _MODEL),
    Kind(
        "tokenizer with code",
        with_code("model/tokenizer_config.json", **_TOKENIZER_CODE),
        (*_TOKENIZER, "verify", "mend model"),
        harmless=True,
    ),
    Kind(
        "tokenizer of a class of its own",
        with_code("model/tokenizer_config.json", tokenizer_class="HostileTokenizer", **_TOKENIZER_CODE),
        (*_TOKENIZER, "verify", "mend model"),
        harmless=True,
    ),
    Kind("config with code", with_code("model/config.json", auto_map=_MODEL_CODE), _MODEL, harmless=True),
    Kind(
        "config of a type of its own",
        with_code("model/config.json", auto_map=_MODEL_CODE, model_type="hostile"),
        _MODEL,
    ),
    *(
        Kind(f"Python object in {name}", content(FILES[name].path, PYTHON_OBJECT), FILES[name].commands)
        for name in ("references", "config")
    ),
    Kind("Python object in the card", content("model/README.md", f"---\nlicense: {PYTHON_OBJECT}---\n"),
         ("export scores",), harmless=True),
    # Places
    Kind("link to a secret as LICENSE", link("model/LICENSE"), _MODEL),
    Kind("link to a secret as card", link("model/README.md"), ("export scores",), harmless=True),
    Kind("link to a secret as tokenizer.model", link("model/tokenizer.model"), ("export scores", "rank")),
    Kind("index of weights in the folder above", index_of_weights("../outside/x.safetensors"), _MODEL),
    Kind("index of weights in a far folder", index_of_weights("/etc/x.safetensors"), _MODEL),
    *(
        Kind(f"{what} that leads out", json_change("data/manifest.json", **{f"domains__law__{key}": value}), _DATA)
        for what, key, value in (
            ("name of a chunk", "splits__prune__chunks__0__file", "../../../outside/secret"),
            ("hash of a chunk", "splits__prune__chunks__0__sha256", "../../../outside/secret"),
        )
    ),
    Kind(
        "hash of the inputs that leads out",
        json_change("data/manifest.json", domains__law__inputs_fingerprint="../../../outside/secret"),
        _DATA, harmless=True,
    ),
    Kind("name of a domain that leads out", renamed_domain("../outside/law"), _DATA),
    Kind("name of a split that leads out", renamed_split("../../outside/law"), _DATA),
    Kind(
        "name in an index of chunks that leads out",
        json_change("data/law/prune/index.json", chunks__0__filename="../../../outside/secret"),
        FILES["index of chunks"].commands,
    ),
    Kind("folder of a domain that is elsewhere", moved("data/law"), _DATA),
    Kind("folder of a split that is elsewhere", moved("data/law/prune"), _DATA),
    Kind("ledger that is elsewhere", moved("data/.ledger"), ("prepare more",)),
    Kind("run of the ledger that is elsewhere", moved("data/.ledger/1"), ("prepare more",)),
    Kind("number of a ledger that leads out", json_change("data/manifest.json", runs="../../outside"), _DATA),
    Kind("name of an MDS shard that leads out", mds_claims("basename", "../outside/secret"), ("from mds",)),
    Kind(
        "gates of a far source",
        lambda place: (place / "export" / "gates.json").write_text('{"source": "../../outside"}') and None,
        ("gates of export",),
        harmless=True,
    ),
    *(
        Kind(f"recipe whose {key} leads out", json_change(f"old/{RECIPE}", **{key: value}), ("mend",), harmless=True)
        for key, value in (("source", "/etc"), ("gates", "../outside/secret"), ("licence_files", ["../outside/secret"]))
    ),
    Kind("recipe of lists", content(f"old/{RECIPE}", DEEP), ("mend",)),
    Kind("recipe that is no object", content(f"old/{RECIPE}", "[1]"), ("mend",)),
    # Changed bytes
    Kind("zeros in a checkpoint's weights", zeroed("step=000002.ckpt", numbers_in_file("data/1")), _FILE),
    Kind("zeros in a checkpoint", zeroed("step=000002.ckpt", lambda found, _: numbers_of(found, "data.pkl")[0]), _FILE),
    Kind("zeros in the weights of shards", zeroed(f"{_CHECKPOINT}/{SHARD}", numbers_in_shard("state_dict.model")),
         _SHARDS),
    Kind("zeros in the moments of shards",
         zeroed(f"{_CHECKPOINT}/{SHARD}", numbers_in_shard("optimizer_0.state", "exp_avg")), ("fit from shards",)),
    Kind("zeros in meta.pt", zeroed(f"{_CHECKPOINT}/{META}", lambda found, _: numbers_of(found, "data.pkl")[0]),
         _SHARDS),
    *(
        Kind(f"zeros in {name}", zeroed(FILES[name].path, where), FILES[name].commands, begins=("fit",))
        for name, where in (
            ("index of shards", middle), ("gates", last), ("gates of an earlier version", last), ("scores", last),
            ("chunk", middle), ("chunk of the validation", middle),
            ("documents of a chunk", last), ("hashes of the ledger", middle),
            ("shard of MDS", middle),
        )
    ),
    # Sizes
    Kind("config of a billion layers", json_change("model/config.json", num_hidden_layers=10**9), _MODEL),
    Kind("config of a trillion channels", json_change("model/config.json", hidden_size=10**12), _MODEL),
    Kind("config of a trillion words", json_change("model/config.json", vocab_size=10**12), _MODEL),
    *(
        Kind(f"header of 2 GB in {name}", header_of(FILES[name].path, 2 * 10**9), FILES[name].commands)
        for name in ("weights", "scores", "gates", "gates of an earlier version")
    ),
    *(
        Kind(f"aliases in {name}", content(FILES[name].path, ALIASES), FILES[name].commands, nightly=name == "config")
        for name in ("references", "config")
    ),
    *(
        Kind(f"nesting in {name}", content(FILES[name].path, DEEP), FILES[name].commands,
             harmless_for=("export scores",) if name == "tokenizer.json" else (),
             nightly=name not in ("config.json", "manifest.json", "mixture", "tokenizer.json"))
        for name in ("config.json", "manifest.json", "index of chunks", "mixture", "references", "config",
                     "index of MDS", "tokenizer.json", "tokenizer_config.json", "generation_config.json",
                     "inputs of the ledger", "tails of the ledger")
    ),
    Kind("mixture of ten million updates",
         content(MIXTURE_LOG, '{"format": 1, "updates": [' + "{}," * 10_000_000 + "{}]}"), FILES["mixture"].commands),
    Kind("mixture that is none", content(MIXTURE_LOG, "[]"), FILES["mixture"].commands),
    Kind("gzip of zeros", gzip_bomb, ("prepare gz",), nightly=True),
    Kind("zstd of zeros", zstd_bomb, ("prepare zst",), nightly=True),
    Kind("zstd with a window of 2 GB", zstd_window, ("prepare zst",)),
    Kind("line without end", sparse("text/law.jsonl"), ("prepare",), nightly=True),
    Kind("deflated checkpoint", deflated, _FILE),
    Kind("MDS shard of a terabyte", mds_claims("bytes", TERABYTE), ("from mds",)),
    Kind("MDS shard of a trillion samples", json_change("mds/index.json", shards__0__samples=TERABYTE), ("from mds",)),
    # In the place of each file: pipes, terabytes, links
    *_of_every_file(),
)  # fmt: skip
CASES = tuple(Case(kind, command) for kind in HOSTILE for command in kind.commands)


def _only_pickle(place: Path) -> None:
    (place / "model" / "model.safetensors").unlink()
    (place / "model" / "pytorch_model.bin").write_bytes(pickle.dumps(RunsCode(place / MADE)))


# How they end


def places_of(cases: Sequence[Case], good: Path, work: Path) -> Iterator[tuple[Case, Path]]:
    """Each case with a directory of its own: the good files, what lies outside of them, and what is hostile."""
    for number, case in enumerate(cases):
        place = work / f"case-{number}"
        copied(good, place, case.command)
        (place / "outside").mkdir()
        (place / "outside" / "secret").write_text(SECRET)
        case.kind.write(place)
        yield case, place


def faults(case: Case, ending: Ending, place: Path, own: int = 0) -> list[str]:
    """What is wrong with how a case ended; nothing, if it did what it may."""
    assert case.command in COMMANDS
    left = [name for name in ending.left if not _is_result(case, ending, name)]
    said = ending.said
    found = {
        "it ran": (place / MADE).exists(),
        "it hangs": ending.code == -1,
        f"it left or changed {left[:5]}": bool(left),
        "it tells the secret": SECRET in said or any(_tells(place / name) for name in ending.left),
        "it asks": "[y/N]" in said,
        "it shows a traceback": "Traceback" in said or "Nobody foresaw" in said,
        f"it took {ending.memory >> 20} MiB": ending.memory > MOST_BYTES + own,
        f"it ends with {ending.code}": ending.code not in ((0, 1, 2) if case.may_end_well else (1, 2)),
        "it does not end with one line": ending.code > 0
        and not (case.may_end_well and case.command.startswith("verify"))  # which compares, and ends with 1
        and not (len(ending.lines) == 1 and said.rstrip().endswith(ending.lines[0])),
    }
    return [what for what, is_so in found.items() if is_so]


def _is_result(case: Case, ending: Ending, name: str) -> bool:
    """Whether a file is what the command is there to write, or what it mends."""
    places = {"mend": "old", "mend model": "model", "prepare more": "data"}
    written = ending.code == 0 or case.command in case.kind.begins
    return written and name.split("/")[0] in ("out", "out.yaml", "out.html", places.get(case.command))


def _tells(path: Path) -> bool:
    return path.is_file() and path.stat().st_size < 1 << 24 and SECRET.encode() in path.read_bytes()


def run(cases: Sequence[Case], good: Path, work: Path) -> Iterator[tuple[Case, Path, Ending]]:
    """How each case ends; a place is removed once the next is asked for."""
    work.mkdir(parents=True)
    for start in range(0, len(cases), 20):
        part = list(places_of(cases[start : start + 20], good, work / f"part-{start}"))
        commands = [(command_line(case.command, place), place) for case, place in part]
        for (case, place), ending in zip(part, endings(commands, work / f"log-{start}"), strict=True):
            yield case, place, ending
        shutil.rmtree(work / f"part-{start}")
