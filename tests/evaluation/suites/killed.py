"""A suite by two processes, and one that is killed at any moment and begun again: the figures stay the same.

``python -m tests.evaluation.suites.killed --kills 12 --work runs/scores``
"""

import argparse
import json
import random
import shutil
import time
from pathlib import Path

from tests.evaluation.suites.measure import measured
from tests.evaluation.suites.questions import LINES, write_model, write_questions
from tests.training.forks import start


def whole(suite: str, model: str, kept: str, datasets: str) -> str:
    found, answered = measured(suite, model, kept, datasets=datasets)
    return json.dumps({"found": found, "answered": answered}, sort_keys=True)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--kills", type=int, default=12)
    parser.add_argument("--work", type=Path, required=True)
    arguments = parser.parse_args()
    work = arguments.work.resolve()
    shutil.rmtree(work, ignore_errors=True)
    (work / "questions").mkdir(parents=True)
    write_questions(work / "questions")
    options = dict(
        suite=str(work / "questions" / "suite.yaml"),
        model=write_model(work / "model"),
        datasets=str(work / "datasets"),
    )
    (expected,) = start(whole, work / "whole", kept=str(work / "kept-whole"), **options).wait()
    pair = start(whole, work / "pair", processes=2, kept=str(work / "kept-pair"), **options).wait()
    ours = [json.loads(each) for each in (expected, *pair)]
    assert ours[0]["found"] == ours[1]["found"] == ours[2]["found"], "two processes find something else"
    assert ours[0]["answered"] == ours[1]["answered"] + ours[2]["answered"], "a request was answered twice"
    print(json.dumps({"processes": 2, "answered": [each["answered"] for each in ours]}))
    numbers = random.Random(0)
    for kill in range(arguments.kills):
        kept = work / f"kept-{kill}"
        run = start(whole, work / f"killed-{kill}", kept=str(kept), **options)
        done = numbers.randrange(len(LINES))
        run.until(lambda done=done, kept=kept: len(list(kept.rglob("*.json"))) >= done)
        time.sleep(numbers.uniform(0, 0.5))
        run.kill()
        before = {path.name: path.stat().st_mtime_ns for path in kept.rglob("*.json")}
        (found,) = start(whole, work / f"again-{kill}", kept=str(kept), **options).wait()
        after = {path.name: path.stat().st_mtime_ns for path in kept.rglob("*.json")}
        assert json.loads(found)["found"] == json.loads(expected)["found"]
        assert {name: after[name] for name in before} == before, "a task was measured twice"
        assert len(after) == len(LINES) and not list(kept.rglob("*.partial"))
        print(json.dumps({"kill": kill, "kept": len(before), "measured after": len(after) - len(before)}))


if __name__ == "__main__":
    main()
