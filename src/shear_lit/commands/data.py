"""``shear-lit data DIR``: look at prepared data, and at what a run would draw from it."""

from typing import Literal

from shear_lit.data.decoding import decoder_of
from shear_lit.data.errors import DataError
from shear_lit.data.inspection import described, shown_text
from shear_lit.data.manifest import Manifest
from shear_lit.data.remote import REMOTE, RemoteSettings, read_prepared
from shear_lit.data.simulation import Supply, read_history
from shear_lit.data.simulation import simulate as simulated
from shear_lit.data.store import SequenceStore


def data(
    directory: str,
    split: Literal["prune", "pretrain", "validation"] = "prune",
    sequences: int = 0,
    characters: int = 600,
    tokenizer: str | None = None,
    simulate: str | None = None,
    steps: int | None = None,
    global_batch: int | None = None,
    remote: RemoteSettings = REMOTE,
) -> str:
    """Show the manifest of prepared data, some of its text, and what each domain would supply to a run.

    Args:
        directory: Directory that `shear-lit prepare` wrote, or its address: s3://, gs:// or hf://datasets/.
        split: Split to show text of and to simulate a run on.
        sequences: Sequences of each domain to show as text, evenly spread over it.
        characters: Characters of each sequence to show; 0 shows all.
        tokenizer: Directory or name of the data's tokenizer, where it is no longer where the manifest says.
        simulate: A run's `mixture.json` or its directory, or JSON with `updates` of `step` and `weights`.
        steps: Optimizer steps of the run to simulate.
        global_batch: Sequences of one of its steps; not needed where the file says it.
        remote: How data in remote storage is read.
    """
    manifest = read_prepared(directory, remote)
    parts = [described(manifest)]
    if sequences:
        store = SequenceStore(directory, split, manifest, remote)
        decode = decoder_of(manifest, tokenizer)
        parts.append(shown_text(store, decode, sequences=sequences, characters=characters))
    elif tokenizer is not None:
        raise DataError(
            f"tokenizer={tokenizer!r} has no effect without --sequences. Add it, or leave it out."
        )
    if simulate is not None:
        parts.append(str(_supply(manifest, directory, split, simulate, steps, global_batch)))
    elif steps is not None or global_batch is not None:
        raise DataError(
            "steps and global_batch have no effect without --simulate. Add it, or leave them out."
        )
    return "\n\n".join(parts)


def _supply(
    manifest: Manifest, directory: str, split: str, file: str, steps: int | None, global_batch: int | None
) -> Supply:
    if steps is None:
        raise DataError(f"simulate={file!r} needs the length of the run. Give it with --steps.")
    history = read_history(file, tuple(manifest.domains), f"the data in {directory}")
    return simulated(manifest, split, history, steps=steps, global_batch=global_batch)
