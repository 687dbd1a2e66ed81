"""How fast is ``prepare``, how much memory does it take, and does it survive being killed? One JSON line each.

``throughput``: tokens per second of the whole of ``prepare`` beside the tokenizer's own ``encode_batch_fast`` over the
same text, already in memory, on the same cores, alternating. The bar is 0.90 of it with 1 and with 2 workers.
``memory``: the largest sum of PSS over all processes, for files of several sizes, for one whose only line has 256 MB,
and for documents of 16 MiB. The bar is 1.5 GiB each.
``kill``: kill -9 at random moments, a third of them while chunks are packed, then the same command again. The bar is
the same bytes each time.
``stages``: tokens per second of each stage, done apart by one process, and the bytes that it leaves for the next.

Without ``--tokenizer`` a byte-level BPE tokenizer is trained on the text; without ``--text`` that is Python's own
library, each document with a line of its own, so that none is a duplicate.
"""

import argparse
import hashlib
import json
import os
import platform
import random
import shutil
import signal
import statistics
import subprocess
import sys
import sysconfig
import tempfile
import threading
import time
from collections.abc import Iterator
from functools import partial
from itertools import islice
from pathlib import Path

from tokenizers import Tokenizer, models, pre_tokenizers, trainers

ENCODE = """
import json, os, sys, time
options = json.loads(sys.argv[1])
os.sched_setaffinity(0, options["cores"])
os.environ["RAYON_NUM_THREADS"] = str(len(options["cores"]))
os.environ["TOKENIZERS_PARALLELISM"] = "true"
from shear_lit.data.tokens.encoder import names_as_text
from shear_lit.data.tokens.tokenizer import load_tokenizer
tokenizer = names_as_text(load_tokenizer(options["tokenizer"]).backend)
texts = [json.loads(line)["text"] for line in open(options["text"], encoding="utf-8")]
batches = [texts[start : start + 1000] for start in range(0, len(texts), 1000)]
start = time.perf_counter()
tokens = sum(len(e.ids) for batch in batches for e in tokenizer.encode_batch_fast(batch, add_special_tokens=False))
print(json.dumps({"tokens": tokens, "seconds": time.perf_counter() - start}))
"""
PREPARE = """
import json, os, sys, time
options = json.loads(sys.argv[1])
os.sched_setaffinity(0, options.pop("cores", os.sched_getaffinity(0)))
from shear_lit.data.preparing.prepare import PrepareSettings, prepare
start = time.perf_counter()
manifest = prepare(PrepareSettings(**options))
seconds = time.perf_counter() - start
records = [split for domain in manifest.domains.values() for split in domain.splits.values()]
ends = sum(record.documents for record in records)  # each has an EOS, which encode_batch_fast does not add
print(json.dumps({"tokens": sum(record.tokens for record in records) - ends, "seconds": seconds}))
"""


def library_texts() -> Iterator[str]:
    """The source files of Python's own library."""
    for path in sorted(Path(sysconfig.get_path("stdlib")).rglob("*.py")):
        text = path.read_text(encoding="utf-8", errors="ignore")
        if text.strip() and "site-packages" not in path.parts:
            yield text


def texts_of(path: str) -> list[str]:
    if not path:
        return list(library_texts())
    return [json.loads(line)["text"] for line in Path(path).read_text(encoding="utf-8").splitlines()]


def write_text(path: Path, texts: list[str], megabytes: int) -> None:
    """Write so much text, each document once, by giving every copy a first line of its own."""
    size = number = 0
    with path.open("wb") as file:
        while size < megabytes << 20:
            text = f"{number}\n{texts[number % len(texts)]}"
            size += file.write(json.dumps({"text": text}).encode() + b"\n")
            number += 1


def random_texts() -> Iterator[str]:
    """Documents of random words, of about two thousand characters."""
    numbers = random.Random(0)
    words = ["".join(numbers.choices("etaoinshrdlu", k=numbers.randint(2, 9))) for _ in range(5000)]
    while True:
        yield " ".join(numbers.choices(words, k=numbers.randint(100, 600)))


def write_words(path: Path, megabytes: int) -> None:
    """Write so much text of random words."""
    size, texts = 0, random_texts()
    with path.open("wb") as file:
        while size < megabytes << 20:
            size += file.write(json.dumps({"text": next(texts)}).encode() + b"\n")


def write_long_line(path: Path) -> None:
    """Write 10 MB of text and a line of 256 MB."""
    write_words(path, 10)
    with path.open("ab") as file:
        file.write(b'{"text": "')
        for _ in range(256):
            file.write(b"some words " * 90_909 + b"and more ")
        file.write(b'"}\n')


def write_long_documents(path: Path) -> None:
    """Write 12 documents of almost 16 MiB."""
    texts = random_texts()
    with path.open("wb") as file:
        for _ in range(12):
            text = ""
            while len(text) < (16 << 20) - 10_000:
                text += "\n".join(islice(texts, 1000)) + "\n"
            file.write(json.dumps({"text": text[: (16 << 20) - 10_000]}).encode() + b"\n")


def train_tokenizer(path: Path, texts: list[str], vocabulary: int) -> str:
    """A byte-level BPE tokenizer in a Hugging Face directory."""
    from transformers import PreTrainedTokenizerFast

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    trainer = trainers.BpeTrainer(
        vocab_size=vocabulary,
        special_tokens=["<s>", "</s>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, bos_token="<s>", eos_token="</s>")
    fast.save_pretrained(path)
    return str(path)


def result_of(code: str, options: dict) -> dict:
    found = subprocess.run(
        [sys.executable, "-c", code, json.dumps(options)], check=True, stdout=subprocess.PIPE, text=True
    )
    return json.loads(found.stdout.splitlines()[-1])


def measure_throughput(folder: Path, options: argparse.Namespace) -> dict:
    texts = texts_of(options.text)
    text = folder / "text.jsonl"
    write_text(text, texts, options.megabytes)
    tokenizer = options.tokenizer or train_tokenizer(folder / "tokenizer", texts[:300], 8000)
    cores = sorted(os.sched_getaffinity(0))
    result: dict = {"bar": 0.90}
    for workers in options.workers:
        asked = {"tokenizer": tokenizer, "cores": cores[:workers]}
        settings = {
            **asked,
            "domains": {"text": str(text)},
            "output": str(folder / "out"),
            "workers": workers,
        }
        rates: dict[str, list[float]] = {"encode_batch_fast": [], "prepare": []}
        for _ in range(options.repeats):
            shutil.rmtree(folder / "out", ignore_errors=True)
            encoded = result_of(ENCODE, {**asked, "text": str(text)})
            prepared = result_of(PREPARE, settings)
            assert encoded["tokens"] == prepared["tokens"], (encoded, prepared)
            rates["encode_batch_fast"].append(encoded["tokens"] / encoded["seconds"])
            rates["prepare"].append(prepared["tokens"] / prepared["seconds"])
        ratios = [ours / theirs for ours, theirs in zip(*reversed(rates.values()), strict=True)]
        result[f"workers_{workers}"] = {
            **{f"{name}_tokens_per_second": round(statistics.median(found)) for name, found in rates.items()},
            "ratio": round(statistics.median(ratios), 3),
            "spread": [round(min(ratios), 3), round(max(ratios), 3)],
        }
    return result


def family(process: int) -> list[int]:
    """A process and its descendants."""
    try:
        children = [
            int(child)
            for task in Path(f"/proc/{process}/task").iterdir()
            for child in (task / "children").read_text().split()
        ]
    except OSError:
        return [process]
    return [process, *(found for child in children for found in family(child))]


def proportional_bytes(process: int) -> int:
    """PSS of a process; 0 if it has ended."""
    try:
        lines = Path(f"/proc/{process}/smaps_rollup").read_text().splitlines()
        return next(int(line.split()[1]) << 10 for line in lines if line.startswith("Pss:"))
    except (OSError, StopIteration):
        return 0


def peak_memory(settings: dict) -> tuple[int, float]:
    """The largest sum of PSS of a run, sampled, and how long it took."""
    start = time.perf_counter()
    process = subprocess.Popen(
        [sys.executable, "-c", PREPARE, json.dumps(settings)], stdout=subprocess.DEVNULL
    )
    done, peak = threading.Event(), 0

    def sample() -> None:
        nonlocal peak
        while not done.wait(0.2):
            peak = max(peak, sum(proportional_bytes(member) for member in family(process.pid)))

    sampler = threading.Thread(target=sample)
    sampler.start()
    failed = process.wait()
    done.set()
    sampler.join()
    assert not failed
    return peak, time.perf_counter() - start


def measure_memory(folder: Path, options: argparse.Namespace) -> dict:
    tokenizer = options.tokenizer or train_tokenizer(
        folder / "tokenizer", list(islice(random_texts(), 200)), 8000
    )
    inputs = {
        **{f"{size} MiB": partial(write_words, megabytes=size) for size in options.sizes},
        "a line of 256 MB": write_long_line,
        "documents of 16 MiB": write_long_documents,
    }
    peaks, seconds = {}, {}
    for name, write in inputs.items():
        text = folder / "text.jsonl"
        write(text)
        settings = {"domains": {"text": str(text)}, "tokenizer": tokenizer, "output": str(folder / "out")}
        peak, took = peak_memory(settings | {"workers": options.workers[-1], "max_rejected_fraction": 0.5})
        peaks[name], seconds[name] = round(peak / (1 << 20), 1), round(took, 1)
        shutil.rmtree(folder / "out")
        text.unlink()
    return {"bar_gibibytes": 1.5, "peak_mebibytes": peaks, "seconds": seconds}


def tree(directory: Path) -> dict[str, str]:
    return {
        str(path.relative_to(directory)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(directory.rglob("*"))
        if path.is_file()
    }


def killed(settings: dict, moment: float, *, packing: bool) -> str:
    """Run, and kill it so many seconds after it began to write, or to pack; what it was doing, if it was not done."""
    output, partial = Path(settings["output"]), Path(settings["output"] + ".partial")
    process = subprocess.Popen(
        [sys.executable, "-c", PREPARE, json.dumps(settings)], stdout=subprocess.DEVNULL
    )
    while process.poll() is None and not (partial / "chunks" if packing else partial).exists():
        time.sleep(0.0005)
    time.sleep(moment)
    ended = process.poll() is not None
    process.send_signal(signal.SIGKILL)
    process.wait()
    if ended:
        return ""
    if output.exists():
        return "clearing"
    if not (partial / "chunks").exists():
        return "tokenising" if not (partial / "packed").exists() else "selecting"
    return "packing"


def measure_kill(folder: Path, options: argparse.Namespace) -> dict:
    texts = texts_of(options.text)
    for name in ("one", "two"):
        write_text(folder / f"{name}.jsonl", texts if name == "one" else texts[::-1], options.megabytes)
    tokenizer = options.tokenizer or train_tokenizer(folder / "tokenizer", texts[:100], 2000)
    common = {
        "domains": {name: str(folder / f"{name}.jsonl") for name in ("one", "two")},
        "tokenizer": tokenizer,
        "workers": options.workers[-1],
        "sequence_length": 512,
        "unit_bytes": 1 << 19,
        "chunk_bytes": 1 << 16,
    }
    took = result_of(PREPARE, {**common, "output": str(folder / "whole")})["seconds"]
    wanted, numbers, moments, same = tree(folder / "whole"), random.Random(options.seed), [], 0
    longest = took / 4  # of packing, at first
    for kill in range(options.kills):
        settings, packing = {**common, "output": str(folder / "out")}, kill % 3 == 0
        while not (
            moment := killed(settings, numbers.uniform(0, longest if packing else took), packing=packing)
        ):
            shutil.rmtree(folder / "out")  # it was done before
            longest *= 0.8 if packing else 1
        moments.append(moment)
        result_of(PREPARE, settings)
        same += tree(folder / "out") == wanted and not (folder / "out.partial").exists()
        shutil.rmtree(folder / "out")
    counts = {moment: moments.count(moment) for moment in sorted(set(moments))}
    return {"bar": options.kills, "kills": options.kills, "identical": same, "killed_while": counts}


def measure_stages(folder: Path, options: argparse.Namespace) -> dict:
    from shear_lit.data.preparing.prepare import PrepareSettings, prepare_stage

    texts = texts_of(options.text)
    text = folder / "text.jsonl"
    write_text(text, texts, options.megabytes)
    tokenizer = options.tokenizer or train_tokenizer(folder / "tokenizer", texts[:300], 8000)
    settings = PrepareSettings(
        domains={"text": str(text)}, tokenizer=tokenizer, output=str(folder / "out"), workers=1
    )
    os.environ["RAYON_NUM_THREADS"], os.environ["TOKENIZERS_PARALLELISM"] = "1", "true"
    seconds, left = {}, {}
    for stage in ("tokenise", "select", "pack", "commit"):
        start = time.perf_counter()
        manifest = prepare_stage(settings, stage)
        seconds[stage] = time.perf_counter() - start
        files = [path for path in folder.glob("out*/**/*") if path.is_file()]
        left[stage] = round(sum(path.stat().st_size for path in files) / 1e6, 1)
    assert manifest is not None
    records = [split for domain in manifest.domains.values() for split in domain.splits.values()]
    tokens, size = sum(record.tokens for record in records), text.stat().st_size
    return {
        "tokens_per_second": {stage: round(tokens / took) for stage, took in seconds.items()},
        "seconds": {stage: round(took, 2) for stage, took in seconds.items()},
        "megabytes_there_afterwards": left,
        "bytes_of_text_per_token": round(size / tokens, 2),
    }


MEASURES = {
    "stages": measure_stages,
    "throughput": measure_throughput,
    "memory": measure_memory,
    "kill": measure_kill,
}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("measure", choices=MEASURES)
    parser.add_argument("--tokenizer", default="", help="Hugging Face directory or SentencePiece .model file")
    parser.add_argument("--text", default="", help="jsonl file to take documents from")
    parser.add_argument(
        "--megabytes", type=int, default=64, help="text of a repeat (throughput) or domain (kill)"
    )
    parser.add_argument(
        "--sizes", type=int, nargs="+", default=[200, 2048], help="mebibytes of the files (memory)"
    )
    parser.add_argument(
        "--workers", type=int, nargs="+", default=[1, 2], help="memory and kill take the last"
    )
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--folder", default=None, help="where to make the temporary directory")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=options.folder) as folder:
        result = MEASURES[options.measure](Path(folder), options)
    machine = f"{platform.machine()}, {os.cpu_count()} cores"
    settings = {name: value for name, value in vars(options).items() if name != "measure"}
    print(
        json.dumps(
            {"question": f"prepare_{options.measure}", **result, "settings": settings, "machine": machine}
        )
    )

    if options.measure == "kill" and result["identical"] != options.kills:
        sys.exit(1)


if __name__ == "__main__":
    main()
