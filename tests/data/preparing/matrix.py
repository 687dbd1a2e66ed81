"""Is what is prepared in parts, by other engines, and after kills, byte for byte what one machine prepares?

``python -m tests.data.preparing.matrix parts datatrove ray slurm kills --work runs/corpus`` prints one JSON line each:
how many runs there were and how many differ, over all files of the output. ``parts`` deals stages to 4 and to 13 parts,
in several orders, and to processes that work beside each other, also two of the same number. ``datatrove`` runs 8
tasks of its local executor, and has a pipeline of 8 tasks read the files itself. ``ray`` begins a cluster of two
processes. ``slurm`` runs the script of launch/ with stand-ins for ``sbatch`` and ``srun``. ``kills`` sends SIGKILL to a
part at a random moment of a random stage, of a first run or of one that adds files, and has another number of parts
take it up.
"""

import argparse
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import asdict, replace
from pathlib import Path

import yaml
from tokenizers import Tokenizer, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

from shear_lit.data.errors import DataError
from shear_lit.data.preparing import sections as sections_module
from shear_lit.data.preparing.plan import PartNumber
from shear_lit.data.preparing.prepare import prepare, prepare_stage
from shear_lit.data.preparing.settings import PrepareSettings, SplitShares, SplitTokens
from tests.data.preparing.corpora import in_parts, lines_of, texts, write_corpus
from tests.slurm import stand_ins
from tests.trees import tree

STAGES = ("tokenise", "select", "pack", "commit")
DOCUMENTS = 1200


def corpus(work, *, many_sections):
    """Settings of a first run and of one that adds to it, and what both leave."""
    sections_module.SECTION_PIECES = 8 if many_sections else 256
    folder = work / "corpus"
    domains = write_corpus(folder, DOCUMENTS)
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=500, special_tokens=["<s>", "</s>"], initial_alphabet=alphabet, show_progress=False
    )
    tokenizer.train_from_iterator(texts(50), trainer)
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, bos_token="<s>", eos_token="</s>").save_pretrained(
        folder / "tokenizer"
    )
    first = PrepareSettings(
        domains=domains,
        tokenizer=str(folder / "tokenizer"),
        output=str(work / "whole"),
        sequence_length=64,
        shares=SplitShares(prune=0.4, pretrain=0.4, validation=0.2),
        tokens=SplitTokens(validation=2000),
        unit_bytes=4000,
        chunk_bytes=64 * 2 * 20,
        max_rejected_fraction=0.1,
        workers=1,
    )
    (folder / "more.jsonl").write_text(
        lines_of(texts(DOCUMENTS // 3, seed=0) + texts(DOCUMENTS // 3, seed=9))
    )
    added = replace(first, domains=domains | {"web": [*domains["web"], str(folder / "more.jsonl")]})
    prepare(first)
    wanted = tree(first.output)
    shutil.copytree(first.output, work / "first")
    prepare(added)
    return first, added, wanted, tree(added.output)


def parts(work, first, added, wanted, more):
    """4 and 13 parts, in order, backwards and shuffled; then beside each other."""
    runs = differ = 0
    for number in (4, 13):
        for order in (Ordered(), Backwards(), random.Random(number)):
            output = str(work / f"parts-{runs}")
            in_parts(replace(first, output=output), number, order=order)
            differ += tree(output) != wanted
            in_parts(replace(added, output=output), number, order=order)
            differ += tree(output) != more
            runs += 2
            shutil.rmtree(output)
    for number in (4, 13):
        options = replace(first, output=str(work / f"beside-{number}"))
        for stage in STAGES:
            numbers = (
                [PartNumber(n, number) for n in range(1, number + 1)] if stage in ("tokenise", "pack") else []
            )
            children = [forked(options, stage, part) for part in [*numbers, *numbers[:2]] or [None]]
            assert all(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0 for child in children)
        differ += tree(options.output) != wanted
        runs += 1
    return {"runs": runs, "differ": differ}


class Ordered:
    def shuffle(self, numbers):
        pass


class Backwards:
    def shuffle(self, numbers):
        numbers.reverse()


def forked(options, stage, part):
    """Do a part in a process of its own."""
    child = os.fork()
    if not child:
        try:
            prepare_stage(options, stage, part)
            os._exit(0)
        except BaseException as error:
            print(f"{stage} {part}: {error!r}", file=sys.stderr)
            os._exit(1)
    return child


def kills(work, first, added, wanted, more, *, count, seed):
    """Kill a part, and have others take it up."""
    numbers, differ, where = random.Random(seed), 0, dict.fromkeys(STAGES, 0)
    lasts = {stage: 0.5 for stage in STAGES}
    done = 0
    while done < count:
        options, result = (first, wanted) if done % 2 else (added, more)
        options = replace(options, output=str(work / "killed"), workers=2 if done % 5 == 0 else 1)
        if options.domains == added.domains:
            shutil.copytree(work / "first", options.output)
        chosen, killed = numbers.choices(STAGES, (4, 1, 4, 2))[0], False
        for stage in STAGES[: STAGES.index(chosen)]:
            prepare_stage(options, stage)
        of = numbers.randint(1, 4)
        part = PartNumber(numbers.randint(1, of), of) if chosen in ("tokenise", "pack") else None
        start, moment = time.monotonic(), numbers.uniform(0, lasts[chosen])
        child = forked(options, chosen, part)
        while not killed and os.waitpid(child, os.WNOHANG) == (0, 0):
            if time.monotonic() - start >= moment:
                os.kill(child, signal.SIGKILL)
                os.waitpid(child, 0)
                killed = True
            time.sleep(0.001)
        if not killed:  # it was done before
            lasts[chosen] = max(0.05, 0.9 * (time.monotonic() - start))
        else:
            where[chosen] += 1
            done += 1
            take_up(options, chosen, numbers.randint(1, 5))
            differ += tree(options.output) != result or Path(options.output + ".partial").exists()
        for path in (options.output, options.output + ".partial"):
            shutil.rmtree(path, ignore_errors=True)
    return {"runs": count, "differ": differ, "killed_in": where}


def take_up(options, stage, parts):
    """Do what is left from a stage on; where a commit was stopped, chunks may have to be packed again."""
    for each in STAGES[STAGES.index(stage) :]:
        numbers = (
            [PartNumber(n, parts) for n in range(1, parts + 1)] if each in ("tokenise", "pack") else [None]
        )
        for part in numbers:
            try:
                prepare_stage(options, each, part)
            except DataError as error:
                if "chunks are not packed" not in str(error) and "nothing is tokenised" not in str(error):
                    raise
                if "chunks are not packed" in str(error):
                    prepare_stage(options, "pack")
                    prepare_stage(options, "commit")
                elif not (each == "commit" and Path(options.output, "manifest.json").exists()):
                    prepare_stage(options, "tokenise")
                    take_up(options, "select", parts)


def with_datatrove(work, first, added, wanted, more):
    """Its local executor, with 8 tasks of which 2 run at once."""
    from datatrove.executor import LocalPipelineExecutor

    from shear_lit.data.preparing.datatrove import HandOver, PrepareStep
    from tests.data.preparing.test_datatrove import Reads

    differ = 0
    for options, result in ((first, wanted), (added, more)):
        options = replace(options, output=str(work / "datatrove"))
        for stage in STAGES:
            logs = work / f"logs-{stage}-{len(result)}"
            tasks = 8 if stage in ("tokenise", "pack") else 1
            LocalPipelineExecutor(
                [PrepareStep(options, stage)],
                tasks=tasks,
                workers=min(2, tasks),
                logging_dir=str(logs),
                start_method="fork",
            ).run()
        differ += tree(options.output) != result
    files = {f"{n:02}.jsonl": texts(100, seed=n) for n in range(20)}
    for name, documents in files.items():
        (work / "corpus" / name).write_text(lines_of(documents))
    plain = replace(first, domains={"web": str(work / "corpus" / "??.jsonl")}, output=str(work / "read-here"))
    prepare(plain)
    given = replace(plain, domains={"web": "datatrove://"}, output=str(work / "handed-over"))
    pipeline = [Reads(work / "corpus", files), HandOver(given, "web")]
    logs = str(work / "logs-reads")
    LocalPipelineExecutor(pipeline, tasks=8, workers=2, logging_dir=logs, start_method="fork").run()
    for stage in STAGES[1:]:
        prepare_stage(given, stage)
    ours, theirs = tree(given.output), tree(plain.output)
    # The bytes of an input are those of its text, which three files of the output say.
    names = {n for n in ours.keys() | theirs.keys() if ours.get(n) != theirs.get(n)}
    differ += names != {"README.md", "manifest.json", ".ledger/1/inputs.jsonl"}
    return {"runs": 3, "differ": differ}


def with_ray(work, first, added, wanted, more):
    """A cluster on this machine."""
    differ = 0
    for options, result in ((first, wanted), (added, more)):
        options = replace(options, output=str(work / "ray"), executor="ray", workers=2)
        prepare(options)
        differ += tree(options.output) != result
    in_parts(replace(first, output=str(work / "ray-parts"), executor="ray", workers=2), 2)
    differ += tree(work / "ray-parts") != wanted
    return {"runs": 3, "differ": differ}


def with_slurm(work, first, added, wanted, more):
    """The example in launch/, with stand-ins for ``sbatch`` and ``srun``."""
    env = stand_ins(work / "bin") | {"PARTS": "3"}
    differ = 0
    for options, result in ((first, wanted), (added, more)):
        keys = {name: value for name, value in asdict(options).items() if value not in (None, "")}
        del keys["workers"]  # the script says it
        keys["output"] = str(work / "slurm")
        config = work / "config.yaml"
        config.write_text(yaml.safe_dump(keys))
        subprocess.run(["bash", "launch/prepare.sbatch", str(config)], env=env, check=True)
        differ += tree(work / "slurm") != result
    return {"runs": 2, "differ": differ}


ENGINES = {"slurm": with_slurm, "parts": parts, "datatrove": with_datatrove, "ray": with_ray, "kills": kills}


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("engines", nargs="+", choices=ENGINES)
    parser.add_argument("--kills", type=int, default=40)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--work", type=Path, required=True)
    options = parser.parse_args()
    if len(options.engines) > 1:  # each in a process of its own: engines leave threads behind
        shared = ["--kills", str(options.kills), "--seed", str(options.seed), "--work", str(options.work)]
        calls = [
            [sys.executable, "-m", "tests.data.preparing.matrix", one, *shared] for one in options.engines
        ]
        sys.exit(max([subprocess.run(call, check=False).returncode for call in calls]))
    engine = options.engines[0]
    work = options.work.resolve() / engine
    shutil.rmtree(work, ignore_errors=True)
    work.mkdir(parents=True)
    more = {"count": options.kills, "seed": options.seed} if engine == "kills" else {}
    start = time.monotonic()
    result = ENGINES[engine](work, *corpus(work, many_sections=engine != "slurm"), **more)
    print(json.dumps({"engine": engine, **result, "seconds": round(time.monotonic() - start)}))
    shutil.rmtree(work)
    sys.exit(bool(result["differ"]))


if __name__ == "__main__":
    main()
