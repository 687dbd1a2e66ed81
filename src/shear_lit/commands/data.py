"""``shear-lit data DIR``: look at prepared data, and at what a run would draw from it."""

from typing import Literal

from shear_lit.commands.failures import UsageError
from shear_lit.data.serving.remote import REMOTE, RemoteSettings
from shear_lit.ranges import Count, CountFrom0, PositiveNumber


def data(
    directory: list[str] | str,
    split: Literal["prune", "pretrain", "validation"] = "prune",
    sequences: CountFrom0 = 0,
    characters: CountFrom0 = 600,
    tokenizer: str | None = None,
    simulate: str | None = None,
    steps: Count | None = None,
    global_batch: Count | None = None,
    max_epochs: PositiveNumber | dict[str, PositiveNumber] | None = None,
    remote: RemoteSettings = REMOTE,
) -> str:
    """Show the manifest of prepared data, some of its text, and what each domain would supply to a run.

    Args:
        directory: Directory that `shear-lit prepare` wrote, or its address: s3://, gs:// or hf://datasets/; or a list.
        split: Split to show text of and to simulate a run on.
        sequences: Sequences of each domain to show as text, evenly spread over it.
        characters: Characters of each sequence to show; 0 shows all.
        tokenizer: Directory or name of the data's tokenizer, where it is no longer where the manifest says.
        simulate: A run's `mixture.json` or its directory, its config (YAML), or JSON with `updates` of `step` and
            `weights`.
        steps: Optimizer steps of the run to simulate; not needed with its config.
        global_batch: Sequences of one of its steps; not needed where the file says it.
        max_epochs: How often a domain may be read, each or by domain, as data.mixture.max_epochs of a run.
        remote: How data in remote storage is read.
    """
    if tokenizer is not None and not sequences:
        raise UsageError(
            f"tokenizer={tokenizer!r} has no effect without --sequences. Add it, or leave it out."
        )
    if simulate is None and any(given is not None for given in (steps, global_batch, max_epochs)):
        raise UsageError(
            "steps, global_batch and max_epochs have no effect without --simulate. Add it, or leave them out."
        )
    is_config = simulate is not None and simulate.endswith((".yaml", ".yml"))
    if simulate is not None and steps is None and not is_config:
        raise UsageError(f"simulate={simulate!r} needs the length of the run. Give it with --steps.")
    from shear_lit.data.looking.inspection import decoder_of, described, shown_text
    from shear_lit.data.serving.directories import read_data

    manifest = read_data(directory, remote)
    parts = [described(manifest)]
    if sequences:
        from shear_lit.data.serving.store import SequenceStore

        store = SequenceStore(directory, split, manifest, remote)
        decode = decoder_of(manifest, tokenizer)
        parts.append(shown_text(store, decode, sequences=sequences, characters=characters))
    if simulate is not None:
        from shear_lit.data.looking import simulation

        told = simulate, tuple(manifest.domains), f"the data in {manifest.place}"
        if is_config:
            history, planned, caps = simulation.read_plan(*told)
            steps, max_epochs = steps or planned, caps if max_epochs is None else max_epochs
        else:
            history = simulation.read_history(*told)
        assert steps is not None
        supply = simulation.simulate(
            manifest, split, history, steps=steps, global_batch=global_batch, max_epochs=max_epochs
        )
        parts.append(str(supply))
    return "\n\n".join(parts)
