"""The architecture is a test: which room imports which, where the frameworks live, and what the code never does.

Each rule takes the folder of a package and returns the lines that break it: it can be shown to fail on a bad one.
"""

import ast
import functools
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

PACKAGE = "shear_lit"
SOURCE = Path(__file__).parent.parent / "src" / PACKAGE

EVERYWHERE = {"mistakes", "disk", "ranges", "progress"}
BELOW_TRAINING = {"theory", "models", "ranking", "pruning", "data", "evaluation", "reporting"} | EVERYWHERE
ROOMS = {
    "mistakes": set(),
    "ranges": set(),
    "progress": set(),
    "disk": {"mistakes"},
    "theory": {"mistakes"},
    "models": {"theory"} | EVERYWHERE,
    "ranking": {"theory", "models"} | EVERYWHERE,
    "pruning": {"theory", "models", "ranking"} | EVERYWHERE,
    "data": {"theory"} | EVERYWHERE,
    "evaluation": {"theory", "models", "ranking", "data"} | EVERYWHERE,
    "reporting": {"theory", "models", "ranking"} | EVERYWHERE,
    "training": BELOW_TRAINING,
    "commands": BELOW_TRAINING | {"training"},
    "cli": BELOW_TRAINING | {"training", "commands"},
    "__main__": {"cli"},
    "__init__": set(),
}
"""What each room may import besides itself."""

ROOMS_OF_DATA = {
    "errors": set(),
    "prepared": {"errors"},
    "storage": {"errors"},
    "text": {"errors", "prepared", "storage"},
    "tokens": {"errors", "prepared", "text"},
    "chat": {"errors", "prepared", "text", "tokens"},
    "order": {"errors", "prepared"},
    "taught": {"errors", "prepared", "order"},
    # Whether the references were measured with the tokenizer of the data is asked of tokens/ before a run.
    "serving": {"errors", "prepared", "storage", "order", "tokens"},
    "preparing": {"errors", "prepared", "storage", "text", "tokens", "chat"},
    "looking": {"errors", "prepared", "text", "tokens", "chat", "order", "serving", "preparing"},
}
"""What each room of data/ may import of data/ besides itself."""
LONGEST = 300
"""Lines of a file of data/."""
KNOWN = {
    "data/text/units.py: text/ may not import tokens/",
    "data/preparing/mds.py has more than 300 lines",
}
"""What breaks these two rules today."""

FRAMEWORKS = {
    ("lightning", "lightning_fabric", "pytorch_lightning"): (
        "training/",
        "data/serving/datamodule.py",
        "commands/fit.py",
    ),
    ("transformers",): (
        "models/",
        "pruning/",
        "training/repairing.py",
        "data/tokens/conversions.py",
        "data/chat/rendering.py",
        "evaluation/",
        "commands/demo.py",
        "commands/demo/",
    ),
    ("peft",): ("models/adapters.py",),
}
"""Where each framework may be imported: whole folders, and single files."""

VAGUE_NAMES = {"utils", "util", "helpers", "helper", "common", "core", "misc"}
# Its unpicklers look up torch's records and nothing else: they are what makes another's unpickling safe.
MAY_PICKLE = ("training", "pickles.py")
# A thread can only end a process whose main thread waits for another one by leaving at once.
THREADS = ("peers.py", "launcher.py", "run_mark.py")
PICKLES = {"pickle", "_pickle", "cPickle", "cloudpickle", "dill", "joblib", "shelve", "marshal"}


class Imported(NamedTuple):
    """One imported name: ``from module import name as alias``, or a whole module where ``name`` is empty."""

    module: str
    name: str
    alias: str
    line: int

    @property
    def path(self) -> str:
        return f"{self.module}.{self.name}" if self.name else self.module


def files(source: Path) -> list[Path]:
    return sorted(source.rglob("*.py"))


def parse(path: Path) -> ast.Module:
    return _parsed(path.read_text(encoding="utf-8"), str(path))


@functools.cache  # every rule reads every file
def _parsed(text: str, name: str) -> ast.Module:
    return ast.parse(text, filename=name)


@functools.cache
def nodes(tree: ast.Module) -> tuple[ast.AST, ...]:
    """All that a file consists of."""
    return tuple(ast.walk(tree))


def room_of(path: Path, source: Path) -> str:
    first = path.relative_to(source).parts[0]
    return first.removesuffix(".py")


def dotted(node: ast.AST) -> str:
    """``a.b.c`` of an expression that is only names and dots, otherwise an empty string."""
    if isinstance(node, ast.Name):
        return node.id
    if isinstance(node, ast.Attribute) and (left := dotted(node.value)):
        return f"{left}.{node.attr}"
    return ""


def absolute_module(node: ast.ImportFrom, path: Path, source: Path) -> str:
    if not node.level:
        return node.module or ""
    package = [PACKAGE, *path.relative_to(source).parts[:-1]]
    parents = package[: len(package) - node.level + 1]
    return ".".join([*parents, *([node.module] if node.module else [])])


def imported_at_run_time(call: ast.Call) -> str:
    """The literal name that is given to ``import_module`` or ``__import__``, or an empty string."""
    if dotted(call.func).endswith(("import_module", "__import__")) and call.args:
        name = call.args[0]
        if isinstance(name, ast.Constant) and isinstance(name.value, str):
            return name.value
    return ""


def imports(path: Path, source: Path) -> Iterator[Imported]:
    """Every import of a file: nested, relative, conditional, and by a literal name at run time."""
    for node in nodes(parse(path)):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield Imported(alias.name, "", alias.asname or alias.name.partition(".")[0], node.lineno)
        elif isinstance(node, ast.ImportFrom):
            for alias in node.names:
                module = absolute_module(node, path, source)
                yield Imported(module, alias.name, alias.asname or alias.name, node.lineno)
        elif isinstance(node, ast.Call) and (module := imported_at_run_time(node)):
            yield Imported(module, "", "", node.lineno)


def room_imported(imported: Imported) -> str:
    """The room of this package that an import reaches, or an empty string."""
    parts = imported.path.split(".")
    if parts[0] != PACKAGE or len(parts) == 1:
        return ""
    return parts[1] if parts[1] in ROOMS or imported.module != PACKAGE else ""


def where(path: Path, source: Path, line: int) -> str:
    return f"{path.relative_to(source).as_posix()}:{line}"


def imports_that_point_up(source: Path) -> list[str]:
    found = []
    for path in files(source):
        room = room_of(path, source)
        if room not in ROOMS:
            found.append(f"{where(path, source, 1)}: {room} is no room of the design")
            continue
        for imported in imports(path, source):
            other = room_imported(imported)
            if other and other != room and other not in ROOMS[room]:
                found.append(f"{where(path, source, imported.line)}: {room}/ may not import {other}/")
    return found


def imports_between_rooms_of_data(source: Path) -> list[str]:
    found = set()
    for path in files(source / "data"):
        name, room = path.relative_to(source).as_posix(), room_of(path, source / "data")
        for imported in imports(path, source):
            package, _, rest = imported.path.partition(f"{PACKAGE}.data.")
            other = rest.partition(".")[0]
            if not package and other and other != room and other not in ROOMS_OF_DATA.get(room, set()):
                found.add(f"{name}: {room}/ may not import {other}/")
    return sorted(found - KNOWN)


def long_files_of_data(source: Path) -> list[str]:
    long = {
        f"{path.relative_to(source).as_posix()} has more than {LONGEST} lines"
        for path in files(source / "data")
        if len(path.read_text(encoding="utf-8").splitlines()) > LONGEST
    }
    return sorted(long - KNOWN)


def frameworks_outside_their_rooms(source: Path) -> list[str]:
    found = []
    for path in files(source):
        name = path.relative_to(source).as_posix()
        for imported in imports(path, source):
            for names, places in FRAMEWORKS.items():
                if imported.module.split(".")[0] in names and not name.startswith(places):
                    found.append(f"{where(path, source, imported.line)}: imports {imported.module}")
    return found


def modules_with_vague_names(source: Path) -> list[str]:
    everything = [*files(source), *(path for path in source.rglob("*") if path.is_dir())]
    return [path.relative_to(source).as_posix() for path in everything if path.stem.strip("_") in VAGUE_NAMES]


def is_private(name: str) -> bool:
    return name.startswith("_") and not name.startswith("__")


def private_names_across_rooms(source: Path) -> list[str]:
    """Imported (``from room.module import _name``) or reached through an imported module (``module._name``)."""
    found = []
    for path in files(source):
        room, foreign = room_of(path, source), {}
        for imported in imports(path, source):
            other = room_imported(imported)
            if not other or other == room:
                continue
            if imported.name:
                foreign[imported.alias] = imported.path
            elif imported.alias:
                foreign[imported.alias if imported.alias != PACKAGE else imported.module] = imported.path
            if any(is_private(part) for part in imported.path.split(".")):
                found.append(f"{where(path, source, imported.line)}: imports {imported.path}")
        for node in nodes(parse(path)):
            if isinstance(node, ast.Attribute) and is_private(node.attr) and dotted(node.value) in foreign:
                found.append(f"{where(path, source, node.lineno)}: reads {dotted(node)}")
    return found


def aliases(path: Path, source: Path) -> dict[str, str]:
    """What the names of a file stand for: ``{"np": "numpy", "load": "torch.load"}``."""
    return {
        imported.alias: imported.path
        if imported.name or imported.alias != imported.module.partition(".")[0]
        else imported.alias
        for imported in imports(path, source)
        if imported.alias
    }


def is_constant(node: ast.AST | None, value: object) -> bool:
    return isinstance(node, ast.Constant) and node.value is value


def unsafe_call(call: ast.Call, function: str) -> str:
    keywords = {keyword.arg: keyword.value for keyword in call.keywords}
    if is_constant(keywords.get("strict"), False) and function != "zip":
        return "strict=False"
    for name in ("trust_remote_code", "allow_pickle"):
        if name in keywords and not is_constant(keywords[name], False):
            return f"{name} other than False"
    # Also of what has no name, as in type(model).from_pretrained.
    method = call.func.attr if isinstance(call.func, ast.Attribute) else ""
    reads = method in ("from_pretrained", "from_config")
    if reads and not is_constant(keywords.get("trust_remote_code"), False):
        return f"{method} without trust_remote_code=False"
    if function == "torch.load" and not is_constant(keywords.get("weights_only"), True):
        return "torch.load without weights_only=True"
    if function in ("sys.exit", "exit", "quit", "os._exit") or function == "SystemExit":
        return "exit"
    return ""


def unsafe_code(source: Path) -> list[str]:
    found = []
    for path in files(source):
        for imported in imports(path, source):
            if imported.module.split(".")[0] in PICKLES and path.relative_to(source).parts != MAY_PICKLE:
                found.append(f"{where(path, source, imported.line)}: imports {imported.module}")
        names = aliases(path, source)
        for node in nodes(parse(path)):
            if not isinstance(node, ast.Call):
                continue
            first, _, rest = dotted(node.func).partition(".")
            function = ".".join(filter(None, [names.get(first, first), rest]))
            reason = unsafe_call(node, function)
            if reason == "exit" and path.name in ("cli.py", "__main__.py", *THREADS):
                continue
            if reason:
                found.append(f"{where(path, source, node.lineno)}: {reason}")
    return found


def clients_that_need_the_package(source: Path) -> list[str]:
    """What runs in a client's interpreter finds neither this package nor a file beside it."""
    found = []
    for path in [*source.glob("evaluation/clients/in_*.py"), *source.glob("evaluation/clients/answering.py")]:
        beside = {other.stem for other in path.parent.glob("*.py")}
        for imported in imports(path, source):
            first = imported.module.partition(".")[0]
            if first == PACKAGE or first in beside:
                found.append(f"{where(path, source, imported.line)}: imports {imported.path}")
    return found


RULES = [
    clients_that_need_the_package,
    imports_that_point_up,
    imports_between_rooms_of_data,
    long_files_of_data,
    frameworks_outside_their_rooms,
    modules_with_vague_names,
    private_names_across_rooms,
    unsafe_code,
]


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.__name__)
def test_package_keeps_the_rule(rule):
    assert rule(SOURCE) == []


def test_rules_look_at_every_file_of_the_package():
    assert SOURCE / "theory" / "hard_concrete.py" in files(SOURCE)
    assert {room_of(path, SOURCE) for path in files(SOURCE)} >= {"theory", "__init__"}


BAD = {
    clients_that_need_the_package: [
        ("evaluation/clients/in_vllm.py", "from shear_lit.theory import shape"),
        ("evaluation/clients/in_vllm.py", "from . import asking"),
        ("evaluation/clients/in_vllm.py", "def late():\n    import in_vllm"),
        ("evaluation/clients/answering.py", "import importlib\nimportlib.import_module('shear_lit.cli')"),
    ],
    imports_that_point_up: [
        ("theory/gates.py", "from shear_lit.models import family"),
        ("theory/gates.py", "from shear_lit import models"),
        ("theory/gates.py", "import shear_lit.models.family"),
        ("theory/gates.py", "import shear_lit.models.family as family"),
        ("theory/gates.py", "from ..models import family"),
        ("theory/gates.py", "from .. import models"),
        ("theory/deep/gates.py", "from ...models.family import Family"),
        ("theory/gates.py", "def late():\n    from shear_lit.models.family import Family"),
        ("theory/gates.py", "if False:\n    import shear_lit.cli"),
        ("theory/gates.py", "import importlib\nimportlib.import_module('shear_lit.models')"),
        ("models/family.py", "from shear_lit.pruning import attach"),
        ("ranking/gradients.py", "from shear_lit.pruning import attach"),
        ("models/family.py", "from shear_lit.data.order import schedule"),
        ("pruning/attach.py", "from shear_lit.data.order import schedule"),
        ("pruning/attach.py", "from shear_lit.training import module"),
        ("data/order/schedule.py", "from shear_lit.models import family"),
        ("evaluation/losses.py", "from shear_lit.pruning import attach"),
        ("reporting/page.py", "from shear_lit.training import module"),
        ("reporting/page.py", "from shear_lit.data.order import schedule"),
        ("training/module.py", "from shear_lit.commands import demo"),
        ("commands/demo.py", "from shear_lit import cli"),
        ("cli.py", "from shear_lit import __main__"),
        ("__init__.py", "from shear_lit.theory import shape"),
        ("__init__.py", "from .theory import shape"),
        ("kitchen/sink.py", ""),
    ],
    imports_between_rooms_of_data: [
        ("data/prepared/chunks.py", "from shear_lit.data.order import schedule"),
        ("data/text/sources.py", "from ..tokens import spool"),
        ("data/tokens/spool.py", "from shear_lit.data.preparing.run import x"),
        ("data/order/mixture.py", "def late():\n    from shear_lit.data.serving import store"),
        ("data/order/references.py", "from shear_lit.data.tokens.tokenizer import is_same"),
        ("data/serving/store.py", "import shear_lit.data.looking.inspection"),
        ("data/serving/store.py", "from shear_lit.data import preparing"),
        (
            "data/preparing/run.py",
            "import importlib\nimportlib.import_module('shear_lit.data.serving.store')",
        ),
        ("data/errors.py", "from shear_lit.data.prepared import manifest"),
        ("data/kitchen/sink.py", "from shear_lit.data.prepared import manifest"),
    ],
    long_files_of_data: [("data/order/schedule.py", "\n" * 301)],
    frameworks_outside_their_rooms: [
        ("theory/gates.py", "import lightning"),
        ("commands/demo.py", "from lightning.pytorch import Trainer"),
        ("data/preparing/prepare.py", "import lightning.fabric"),
        ("pruning/attach.py", "def late():\n    import lightning_fabric"),
        ("training/module.py", "from transformers import AutoModelForCausalLM"),
        ("training/module.py", "def late():\n    import transformers.models.llama as llama"),
        ("data/serving/datamodule.py", "import transformers"),
        ("commands/export.py", "import transformers"),
        ("cli.py", "__import__('transformers')"),
    ],
    modules_with_vague_names: [
        ("data/utils.py", ""),
        ("data/_helpers.py", ""),
        ("training/common/losses.py", ""),
        ("core.py", ""),
    ],
    private_names_across_rooms: [
        ("models/family.py", "from shear_lit.theory.shape import _secret"),
        ("models/family.py", "from ..theory.shape import _secret as public"),
        ("models/family.py", "from shear_lit.theory import _shape"),
        ("models/family.py", "import shear_lit.theory._shape"),
        ("models/family.py", "from shear_lit.theory import shape\nprint(shape._secret)"),
        ("models/family.py", "import shear_lit.theory.shape as shape\nprint(shape._secret)"),
        ("models/family.py", "import shear_lit.theory.shape\nprint(shear_lit.theory.shape._secret)"),
    ],
    unsafe_code: [
        ("models/read.py", "model.load_state_dict(state, strict=False)"),
        ("models/read.py", "AutoModel.from_pretrained(name, trust_remote_code=True)"),
        ("models/read.py", "AutoModel.from_pretrained(name, trust_remote_code=trust)"),
        ("models/read.py", "AutoModel.from_pretrained(name)"),
        ("models/read.py", "type(model).from_pretrained(None, config=config)"),
        ("models/read.py", "transformers.AutoTokenizer.from_pretrained(name)"),
        ("models/read.py", "AutoModelForCausalLM.from_config(config)"),
        ("models/read.py", "import torch\ntorch.load(path)"),
        ("models/read.py", "import torch\ntorch.load(path, weights_only=False)"),
        ("models/read.py", "import torch as t\nt.load(path)"),
        ("models/read.py", "from torch import load as read\nread(path)"),
        ("models/read.py", "import pickle"),
        ("models/read.py", "def late():\n    from pickle import loads"),
        ("models/read.py", "import numpy as np\nnp.load(path, allow_pickle=True)"),
        ("models/read.py", "import sys\nsys.exit(1)"),
        ("models/read.py", "from sys import exit as leave\nleave(1)"),
        ("models/read.py", "raise SystemExit(1)"),
    ],
}
GOOD = {
    clients_that_need_the_package: [
        ("evaluation/clients/in_vllm.py", "import vllm\nimport numpy as np\nfrom pathlib import Path"),
        ("evaluation/clients/asking.py", "from shear_lit.theory import shape"),
    ],
    imports_that_point_up: [
        (
            "pruning/attach.py",
            "from shear_lit.theory import shape\nfrom ..models import family\nfrom . import carve",
        ),
        ("training/module.py", "from shear_lit import __version__\nfrom shear_lit.reporting import page"),
        ("__main__.py", "from shear_lit.cli import main"),
        ("theory/gates.py", "import torch\nfrom collections import models"),
    ],
    imports_between_rooms_of_data: [
        ("data/serving/store.py", "from shear_lit.data.errors import DataError\nfrom . import batch"),
        (
            "data/looking/inspection.py",
            "from shear_lit.data.serving import store\nfrom shear_lit import ranges",
        ),
        ("training/module.py", "from shear_lit.data.serving import store"),
    ],
    long_files_of_data: [("data/order/schedule.py", "\n" * 300), ("training/module.py", "\n" * 400)],
    frameworks_outside_their_rooms: [
        ("training/module.py", "import lightning"),
        ("data/serving/datamodule.py", "from lightning import LightningDataModule"),
        ("commands/fit.py", "from lightning.pytorch.cli import LightningCLI"),
        ("pruning/attach.py", "import transformers"),
        ("commands/demo.py", "import transformers"),
    ],
    modules_with_vague_names: [("data/common_crawl.py", ""), ("training/core_count.py", "")],
    private_names_across_rooms: [
        ("theory/gates.py", "from shear_lit.theory.shape import _secret\nfrom . import _other"),
        ("models/family.py", "from shear_lit import __version__\nself._secret\nimport torch\ntorch._C"),
    ],
    unsafe_code: [
        ("models/read.py", "import torch\ntorch.load(path, weights_only=True)"),
        ("models/read.py", "model.load_state_dict(state, strict=True)\nzip(a, b, strict=False)"),
        ("models/read.py", "AutoModel.from_pretrained(name, trust_remote_code=False)\nload(path)"),
        ("cli.py", "import sys\nsys.exit(main())"),
    ],
}


def write(tree: Path, name: str, text: str) -> Path:
    source = tree / PACKAGE
    path = source / name
    path.parent.mkdir(parents=True)
    path.write_text(text)
    return source


def cases(examples):
    return [
        pytest.param(rule, name, text, id=f"{rule.__name__}-{number}")
        for rule, entries in examples.items()
        for number, (name, text) in enumerate(entries)
    ]


@pytest.mark.parametrize(("rule", "name", "text"), cases(BAD))
def test_rule_finds_what_breaks_it(tmp_path, rule, name, text):
    assert rule(write(tmp_path, name, text)) != []


@pytest.mark.parametrize(("rule", "name", "text"), cases(GOOD))
def test_rule_passes_what_keeps_it(tmp_path, rule, name, text):
    assert rule(write(tmp_path, name, text)) == []


def test_shapes_are_checked_in_every_module_that_computes():
    """The option of pytest names modules one by one: settings have ranges that are classes of numbers, and sizes are
    asked for a million times."""
    named = set(
        (SOURCE.parents[1] / "pyproject.toml")
        .read_text()
        .partition("--jaxtyping-packages=")[2]
        .split('"')[0]
        .split(",")
    )
    modules = {
        f"shear_lit.{room}.{path.stem}"
        for room in ("pruning", "theory")
        for path in (SOURCE / room).glob("*.py")
    }
    left_out = {f"pruning.{name}" for name in ("__init__", "settings", "gate_settings")}
    left_out |= {"theory.__init__", "theory.shape"}
    assert modules - named == {f"shear_lit.{name}" for name in left_out}
    assert "shear_lit.ranking" in named


def test_the_home_directory_is_expanded_in_one_place():
    """``Path.expanduser`` raises where there is no such user, which is a mistake of the user's like any other."""
    found = [
        where(path, SOURCE, 1) for path in files(SOURCE) if "expanduser" in path.read_text(encoding="utf-8")
    ]
    assert found == ["disk/names.py:1"]
