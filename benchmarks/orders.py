"""Whether stops anywhere are resumed exactly on other ranks and workers: real files, real worker processes."""

import json
import random
import time
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from shear_lit.data.order.schedule import MixtureSchedule
from shear_lit.data.prepared.chunks import SequenceDocuments, write_chunk, write_index
from shear_lit.data.prepared.manifest import (
    DomainRecord,
    Manifest,
    SplitRecord,
    TokenizerRecord,
    write_manifest,
)
from shear_lit.data.serving.loader import MixtureLoader
from shear_lit.data.serving.store import SequenceStore

WORLDS, WORKERS = (1, 2, 4, 8), (0, 1, 2)
SIZES = {"capped": 100, "endless": 40, "one": 1, "short": 30}  # in the order that a manifest has
CAPS = {"short": 2.0, "capped": 0.9}
STEPS, EVERY, GLOBAL, LENGTH = 24, 4, 16, 8

Read = list[tuple[int, ...]]


def write_split(folder: Path, tokens: NDArray[np.uint16], *, per_chunk: int) -> SplitRecord:
    """Write sequences, [sequences, length], as a split in which each is a document."""
    sequences, length = tokens.shape
    folder.mkdir(parents=True)
    chunks = []
    for number, first in enumerate(range(0, sequences, per_chunk)):
        part = tokens[first : first + per_chunk]
        starts = np.arange(len(part), dtype=np.int64) * length
        documents = SequenceDocuments.of_stream(starts, len(part), length)
        chunks.append(write_chunk(folder, number, [part.reshape(-1)], documents, length))
    write_index(folder, chunks, length=length, per_chunk=per_chunk, token_type="uint16")
    return SplitRecord(documents=sequences, tokens=tokens.size, tail_tokens=0, chunks=tuple(chunks))


def write_domains(directory: Path, splits: dict[str, SplitRecord], *, length: int, vocabulary: int) -> None:
    """Write the manifest of data whose domains have a split ``prune`` and no other."""
    tokenizer = TokenizerRecord(
        name="none", fingerprint="0" * 64, vocabulary=vocabulary, bos_id=None, eos_id=None
    )
    manifest = Manifest(
        tokenizer=tokenizer,
        sequence_length=length,
        token_type="uint16",
        prepend_bos=False,
        append_eos=False,
        domains={
            name: DomainRecord(documents=record.documents, rejected={}, splits={"prune": record})
            for name, record in splits.items()
        },
    )
    write_manifest(directory, manifest)


def write_numbered(directory: Path) -> None:
    """Write data in which sequence s of domain d is the tokens [d, s, 0, …]."""
    splits = {}
    for index, (name, sequences) in enumerate(SIZES.items()):
        tokens = np.zeros((sequences, LENGTH), dtype=np.uint16)
        tokens[:, 0], tokens[:, 1] = index, np.arange(sequences)
        splits[name] = write_split(directory / name / "prune", tokens, per_chunk=7)
    write_domains(directory, splits, length=LENGTH, vocabulary=1000)


def check_orders(directory: Path, *, stops: int) -> dict[str, Any]:
    """Count the differences over all (ranks, workers), and over ``stops`` random stops and resumes among them."""
    start, chance = time.perf_counter(), random.Random(11)
    combinations = list(product(WORLDS, WORKERS))
    expected, state = read(loader(directory))
    whole = [c for c in combinations if read_by_all(directory, *c) != expected]
    resumed = []
    for _ in range(stops):
        before, after = chance.choice(combinations), chance.choice(combinations)
        # Ranks stop after as many micro-batches each; what is left must divide among those that go on.
        unit = max(before[0], after[0])
        position, rank = chance.randrange(STEPS * GLOBAL // unit) * unit, chance.randrange(before[0])
        seen, saved = read(loader(directory, rank, *before), position // before[0])
        rest = read_by_all(directory, *after, state=saved)
        mine = [item for item in expected[:position] if item[1] % before[0] == rank]
        if seen != mine or rest != expected[position:]:
            resumed.append((before, after, position))
    return {
        "question": "mixture_orders",
        "combinations": len(combinations),
        "combinations_with_differences": whole,
        "stops": stops,
        "stops_with_differences": resumed,
        "exhausted_in_the_run": state["exhausted"],
        "epochs": {n: d / s for (n, s), d in zip(SIZES.items(), state["drawn"], strict=True)},
        "seconds": round(time.perf_counter() - start, 1),
    }


def loader(directory: Path, rank: int = 0, world: int = 1, workers: int = 0) -> MixtureLoader:
    store = SequenceStore(directory, "prune")
    return MixtureLoader(
        store,
        MixtureSchedule(store.chunk_sizes, global_batch=GLOBAL, seed=5, max_epochs=CAPS),
        (0.3, 0.3, 0.1, 0.3),
        steps=STEPS,
        update_every_steps=EVERY,
        micro_batch=1,
        rank=rank,
        world_size=world,
        workers=workers,
    )


def read(each: MixtureLoader, micro_batches: int | None = None) -> tuple[Read, dict[str, Any]]:
    """What a rank reads, with the mixture moved at each boundary, and its state where it stops."""
    seen: Read = []
    batches = iter(each)
    while micro_batches is None or len(seen) < micro_batches:
        if each.at_boundary and 0 < each.state.batch < STEPS:
            chance = random.Random(each.state.batch)
            weights = [chance.uniform(0.1, 1) for _ in SIZES]
            each.set_weights([weight / sum(weights) for weight in weights])
        batch = next(batches, None)
        if batch is None:
            break
        domain, sequence = batch["tokens"][0, :2].tolist()
        assert domain == batch["domain"].item()
        seen.append((each.state.batch - (each.position == 0), batch["micro_batch"], domain, sequence))
    return seen, json.loads(json.dumps(each.state_dict()))


def read_by_all(directory: Path, world: int, workers: int, state: dict[str, Any] | None = None) -> Read:
    """What all ranks together read from ``state`` to the end."""
    together: Read = []
    for rank in range(world):
        each = loader(directory, rank, world, workers)
        if state is not None:
            each.load_state_dict(state)
        together += read(each)[0]
    return sorted(together)
