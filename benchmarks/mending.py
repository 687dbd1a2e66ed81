"""Are exports of an earlier version mended? Ten families, exported by its own code, before and after `shear-lit mend`.

    python benchmarks/mending.py --work runs/clients --environments .clients

The code of ``--commit`` is taken out of this repository's history, and run with the transformers that it was released
with (``--transformers``, installed by name into the work folder). Its exports are copied, mended, and loaded by every
client before and after; logits are compared with those that stock transformers has of the old export here. Prints one
JSON line; ``--results`` writes the page.
"""

import argparse
import hashlib
import json
import shutil
import subprocess
import sys
from dataclasses import asdict
from pathlib import Path

import numpy as np
import torch

import client_sources
from client_cells import BROKEN, EQUAL, FAMILIES, PLAIN, SCALED, USUAL, Cell, all_cells
from clients import Environment, Outcome, Work, environments, facts_of, outcome, scores_of, write_sources
from shear_lit.commands.mend import mend
from shear_lit.evaluation.clients.asking import Job, ask
from shear_lit.models.huggingface import read_model

REPOSITORY = Path(__file__).parent.parent
_EXPORT = """
import json, sys
from shear_lit.commands.export import export
from shear_lit.theory.shape import ModelShape
gates, output, target = sys.argv[1:]
export(gates=gates, output=output, target=ModelShape(**json.loads(target)))
"""


def code_of(commit: str, release: str, work: Path) -> list[str]:
    """The folders to look for modules in: the sources of a commit, and a release of transformers."""
    code, library = work / f"code-{commit}", work / f"transformers-{release}"
    if not code.exists():
        archive = subprocess.run(
            ["git", "archive", commit, "src"], cwd=REPOSITORY, capture_output=True, check=True
        )
        code.mkdir(parents=True)
        subprocess.run(["tar", "-x", "-C", str(code)], input=archive.stdout, check=True)
    if not library.exists():
        pip = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--target", str(library)]
        subprocess.run([*pip, f"transformers=={release}"], check=True)
    return [str(library), str(code / "src")]


def write_old(work: Work, cell: Cell, output: Path, path: list[str]) -> None:
    """Export one cell with the earlier code."""
    scores = output.with_suffix(".scores")
    scores.write_bytes(scores_of(cell, work.source(cell.source)["directory"]))
    subprocess.run(
        [sys.executable, "-c", _EXPORT, str(scores), str(output), json.dumps(cell.target.to_dict())],
        env={"PYTHONPATH": ":".join(path), "PATH": "/usr/bin:/bin", "HF_HUB_OFFLINE": "1"},
        check=True,
    )


def one_of(cells: list[Cell]) -> Cell:
    """A cell of a family that says much: a usual or scaled rotary embedding, heads that are not hidden / head size."""
    ropes = (USUAL, SCALED, PLAIN)
    kept = [cell for cell in cells if cell.period != BROKEN and cell.source.writer == "4.57"]
    return min(
        kept, key=lambda cell: (ropes.index(cell.source.rope), cell.width == EQUAL, cell.source.windowed)
    )


def hashes(directory: Path) -> dict[str, str]:
    return {
        file.name: hashlib.sha256(file.read_bytes()).hexdigest()
        for file in sorted(directory.glob("model*.safetensors"))
    }


def answered(
    environment: Environment, directories: list[Path], tokens: dict[Path, list[int]], root: Path
) -> list[Outcome]:
    """What a client makes of each directory, against the logits beside it."""
    jobs = [
        Job(
            directory=str(directory),
            tokens=[tokens[directory]],
            logits=str(root / f"{directory.name}-{environment.name}.npy"),
        )
        for directory in directories
    ]
    found = ask(environment.client, environment.python, jobs, seconds_per_job=180.0)
    return [
        outcome(answer, directory.with_name(f"{directory.name.partition('.')[0]}.npy"))
        for answer, directory in zip(found, directories, strict=True)
    ]


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--work", type=Path, required=True, help="where sources are kept between runs")
    parser.add_argument(
        "--environments", type=Path, required=True, help="virtual environments named after clients"
    )
    parser.add_argument("--clients", nargs="+", default=["transformers-4.57", "vllm", "llama.cpp"])
    parser.add_argument("--commit", default="4f32d1a", help="whose exports are mended")
    parser.add_argument("--transformers", default="5.23.0", help="what they were written with")
    parser.add_argument("--results", type=Path, help="page to write")
    options = parser.parse_args()
    work = Work(options.work)
    cells = [one_of(all_cells([family])) for family in FAMILIES]
    old_python = options.environments / "transformers-4.57" / "bin" / "python"
    write_sources(work, [cell.source for cell in cells], {"4.57": str(old_python), "5": sys.executable})
    root = work.root / "mending"
    shutil.rmtree(root, ignore_errors=True)
    root.mkdir()
    path = code_of(options.commit, options.transformers, work.root)
    before, after, tokens, rows = [], [], {}, []
    for cell in cells:
        old, new = root / cell.source.family, root / f"{cell.source.family}.mended"
        write_old(work, cell, old, path)
        ids = work.source(cell.source)["tokens"]
        model = read_model(str(old), dtype=torch.float32, attention="eager").eval()
        np.save(old.with_name(f"{old.name}.npy"), client_sources.logits_of(model, ids))
        shutil.copytree(old, new)
        files, weights = mend(str(new)).files, hashes(old)
        changed = [name for name, digest in hashes(new).items() if digest != weights[name]]
        rows.append({"cell": str(cell), "files": list(files), "weights_changed": changed, "clients": {}})
        before.append(old)
        after.append(new)
        tokens |= {old: ids, new: ids}
    for environment in environments(options.environments, options.clients):
        for when, directories in (("before", before), ("after", after)):
            for row, found in zip(rows, answered(environment, directories, tokens, root), strict=True):
                row["clients"].setdefault(environment.name, {})[when] = asdict(found)
    facts = facts_of(0.0)
    if options.results:
        write_page(options.results, rows, facts, options)
    print(json.dumps({"benchmark": "mending", "rows": rows, **facts}))


def write_page(file: Path, rows: list[dict], facts: dict, options: argparse.Namespace) -> None:
    names = list(rows[0]["clients"])
    lines = [
        "# Mending: exports of an earlier version, before and after",
        "",
        f"Command: `python benchmarks/mending.py --work runs/clients --environments .clients`; commit "
        f"{facts['commit']}, {facts['date']}; {facts['cores']} cores, {facts['processor']}.",
        f"Exports of commit {options.commit} with transformers {options.transformers}, one of each family, all five "
        f"axes cut; then `shear-lit mend`. Figures: max |difference| of float32 logits to those of the old export in "
        f"stock transformers here, as a fraction of the largest logit (at most 1e-4 is `reads`). "
        f"Where a client still refuses, it refuses that shape in exports of today, too, and the card says so.",
        "",
        "| export | weight files that changed | "
        + " | ".join(f"{name}: before → after" for name in names)
        + " |",
        "|---" * (2 + len(names)) + "|",
    ]

    def shown(found: dict) -> str:
        return found["verdict"] if found["figure"] is None else f"{found['verdict']} {found['figure']:.1e}"

    for row in rows:
        figures = [
            f"{shown(row['clients'][name]['before'])} → {shown(row['clients'][name]['after'])}"
            for name in names
        ]
        changed = "its head's name" if row["weights_changed"] else "none"
        lines.append(f"| {row['cell']} | {changed} | {' | '.join(figures)} |")
    file.write_text("\n".join(lines) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
