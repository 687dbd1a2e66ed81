"""The shipped suites in the harness's whole registry, and two processes of gloo that share a text.

``python -m tests.evaluation.suites.whole_registry --work runs/scores-registry``
"""

import argparse
import json
import shutil
from dataclasses import asdict
from pathlib import Path

import pytest

from shear_lit.commands.evaluate import evaluate
from shear_lit.evaluation.suites.registry import registry, resolve
from shear_lit.evaluation.suites.suite import read_suite
from tests.evaluation.suites.harness_folders import SUITES, partial_registry
from tests.evaluation.test_document_loss import evaluated
from tests.toy import write_toy
from tests.training.forks import run


def check_registry() -> None:
    part = partial_registry()
    for name in SUITES:
        for each in resolve(read_suite(name)):
            assert each.problem == "", each
            for leaf in each.leaves:
                assert part.task_index[leaf].cfg == registry().task_index[leaf].cfg, leaf
            print(json.dumps({"suite": name, "task": each.task.name, "single tasks": len(each.leaves)}))


def check_processes(work: Path) -> None:
    shutil.rmtree(work, ignore_errors=True)
    work.mkdir(parents=True)
    toy = write_toy(work)
    paths = dict(model=str(toy.source()), data=str(toy.data))
    first, second = run(evaluated, work / "log", processes=2, **paths)
    alone = evaluate(**paths, sequences_per_domain=5, micro_batch=2)
    assert second is None and alone is not None
    for name, figures in alone.figures.items():
        assert first[name] == pytest.approx(asdict(figures), rel=1e-9, nan_ok=True)
    print(json.dumps({"processes": 2, "domains": sorted(first)}))


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--work", type=Path, required=True)
    check_registry()
    check_processes(parser.parse_args().work.resolve())


if __name__ == "__main__":
    main()
