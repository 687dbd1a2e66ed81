"""``shear-lit export``: a checkpoint to a Hugging Face directory that has shown that it computes the same."""

from typing import TYPE_CHECKING, Literal

from shear_lit.commands.failures import UsageError
from shear_lit.data.serving.remote import REMOTE, RemoteSettings
from shear_lit.disk.names import expanded
from shear_lit.models.choices import (
    GENERATED_FRACTION,
    REPAIR_TOKENS,
    Device,
    PresetName,
    RepairParts,
    WrittenAs,
)
from shear_lit.models.directories import check_new_directory
from shear_lit.ranges import Count, Fraction, OpenFraction, PositiveNumber
from shear_lit.theory.shape import TargetShape

if TYPE_CHECKING:
    from shear_lit.commands.exporting import ExportResult
    from shear_lit.commands.pushing import PushResult


def export(
    checkpoint: str | None = None,
    output: str = "",
    gates: str | None = None,
    target: TargetShape | None = None,
    target_parameters: PositiveNumber | None = None,
    target_flops_fraction: OpenFraction | None = None,
    target_preset: PresetName | None = None,
    dtype: Literal["source", "float32", "bfloat16", "float16"] = "source",
    source: str | None = None,
    write_as: WrittenAs = "source",
    keep_layer_period: bool = False,  # noqa: FBT001, FBT002  (a key of the command line)
    repair: str | None = None,
    repair_tokens: Count = REPAIR_TOKENS,
    repair_generated_fraction: Fraction = GENERATED_FRACTION,
    repair_split: Literal["prune", "pretrain"] = "prune",
    repair_parts: RepairParts = "embedding",
    device: Device = "auto",
    cross_document_attention: bool = True,  # noqa: FBT001, FBT002  (a key of the command line)
    remote: RemoteSettings = REMOTE,
    push: str | None = None,
    push_private: bool = True,  # noqa: FBT001, FBT002  (a key of the command line)
    push_over: bool = False,  # noqa: FBT001, FBT002  (a key of the command line)
) -> "ExportResult | PushResult":
    """Cut a model at exactly a target and write it as a Hugging Face directory, verified.

    Either the model in a checkpoint, at its run's target (without gates, as after stage 2, it is written as it is), or
    the source that gates are of, untrained, at any target: all gates of kept units are 1 then.
    Nothing is left behind if a check fails. With `push`, and neither, what an earlier export wrote is pushed as it is.

    Args:
        checkpoint: File step=NNNNNN.ckpt or directory step=NNNNNN of a run.
        output: Directory to write; it must be new or empty.
        gates: Scores of `shear-lit rank`, or the gates of an export or a run, instead of a checkpoint.
        target: Shape to cut the source to, with `gates`; it may name only the axes that shrink.
        target_parameters: Parameters of the shape to find, instead of `target`.
        target_flops_fraction: Share of the source's multiplications per token of the shape to find, instead.
        target_preset: Name of a published shape, instead.
        dtype: What to store the weights in; `source`: what the source's config names, or else most of its numbers are
            stored in.
        source: Where the source model is now, if it has moved: with `gates` it is cut, and with a checkpoint its
            tokenizer and licence are copied.
        write_as: Model type of what is written, with `gates`: the source's, or `mistral` for a llama model, which
            computes the same and takes any hidden size.
        keep_layer_period: Keep blocks whose kinds alternate as the family's do, with `gates`: some programs take that
            for granted (gemma2, gemma3, smollm3).
        repair: Directory that `shear-lit prepare` wrote, or its address: the cut is refitted on its text in closed
            form, block after block, towards the source. Of a checkpoint it pulls what training has learned back
            towards the source.
        repair_tokens: Tokens to repair on: whole sequences, as many of each domain.
        repair_generated_fraction: Tokens beside them that the source generates, as a fraction of them, each sequence
            from a token by lot on, some in other scripts: a repair keeps what the source knows and no domain has.
        repair_split: Documents to repair on; never those that a run validates on.
        repair_parts: What is refitted: `writers`, what adds to the residual stream; `readers`, what reads it as well;
            `embedding`, the embedding of a tied head, too; `norms`, and the last norm before it.
        device: Where the repair computes, a block at a time; `auto`: a CUDA device if there is one, otherwise the CPU.
        cross_document_attention: Whether a token may attend to earlier documents in the repair.
        remote: How data in remote storage is read.
        push: Name on the Hugging Face hub (organisation/model) to push the model to once it is verified, in one commit,
            with the token of `hf auth login` or HF_TOKEN.
        push_private: Whether a repository that is made for it is private.
        push_over: Whether a repository that holds files becomes this model; its history keeps them.
    """
    if not output:
        raise UsageError("output is missing: say where to write the model. Use --output DIRECTORY.")
    directory = expanded(output)
    if push is None:
        _refuse_options_of_push(private=not push_private, over=push_over)
    elif checkpoint is None and gates is None:
        _refuse_options_of_a_cut(
            target=any(
                way is not None for way in (target, target_parameters, target_flops_fraction, target_preset)
            ),
            dtype=dtype != "source",
            source=source is not None,
            write_as=write_as != "source",
            keep_layer_period=keep_layer_period,
            repair=repair is not None,
        )
        from shear_lit.commands.pushing import push_export

        return push_export(directory, push, private=push_private, overwrite=push_over)
    check_new_directory(directory)
    ways = (target, target_parameters, target_flops_fraction, target_preset)
    if (checkpoint is None) == (gates is None):
        raise UsageError(
            "checkpoint and gates: exactly one says what is cut. Use --checkpoint for the model of a run, "
            "or --gates with --target for its source, cut without training."
        )
    if checkpoint is not None:
        _refuse_options_of_gates(ways, write_as, keep_layer_period=keep_layer_period)
    from shear_lit.commands import exporting
    from shear_lit.models.targets import TargetRequest

    request = None
    if repair is not None:
        from shear_lit.commands.repairing import RepairRequest

        request = RepairRequest(
            data=repair,
            tokens=repair_tokens,
            generated_fraction=repair_generated_fraction,
            split=repair_split,
            parts=repair_parts,
            device=device,
            cross_document_attention=cross_document_attention,
            remote=remote,
        )
    else:
        _refuse_options_of_repair(
            repair_tokens=repair_tokens != REPAIR_TOKENS,
            repair_generated_fraction=repair_generated_fraction != GENERATED_FRACTION,
            repair_split=repair_split != "prune",
            repair_parts=repair_parts != "embedding",
            device=device != "auto",
            cross_document_attention=not cross_document_attention,
        )
    if push is not None:
        from shear_lit.models.publishing import open_repository

        open_repository(push, overwrite=push_over)  # all refusals, before any weight is read
    if checkpoint is not None:
        result = exporting.from_checkpoint(checkpoint, directory, dtype=dtype, source=source, repair=request)
        return result if push is None else _pushed(result, push, private=push_private, overwrite=push_over)
    assert gates is not None
    wanted = TargetRequest(
        shape=target,
        parameters=target_parameters,
        flops_fraction=target_flops_fraction,
        preset=target_preset,
    )
    result = exporting.from_gates(
        gates,
        directory,
        request=wanted,
        dtype=dtype,
        source=source,
        write_as=write_as,
        keep_layer_period=keep_layer_period,
        repair=request,
    )
    return result if push is None else _pushed(result, push, private=push_private, overwrite=push_over)


def _pushed(result: "ExportResult", name: str, *, private: bool, overwrite: bool) -> "ExportResult":
    """The same, pushed; what was written stays if that fails, and can be pushed by itself."""
    from dataclasses import replace
    from pathlib import Path

    from shear_lit.commands.pushing import push_export

    found = push_export(Path(result.directory), name, private=private, overwrite=overwrite)
    return replace(result, pushed=found.pushed)


def _refuse_options_of_push(*, private: bool, over: bool) -> None:
    """Refuse what says how a model is pushed, where it is not."""
    for name, is_given in (("push_private", private), ("push_over", over)):
        if is_given:
            raise UsageError(
                f"{name} has no effect without push: it says how a model is pushed. Remove it, or add --push NAME."
            )


def _refuse_options_of_a_cut(**given: bool) -> None:
    """Refuse what says how a model is cut and written, where one is pushed as it is."""
    for name, is_given in given.items():
        if is_given:
            raise UsageError(
                f"{name} has no effect where an export is pushed as it is. Remove it, or say with --checkpoint or "
                f"--gates what is to be cut."
            )


def _refuse_options_of_repair(**given: bool) -> None:
    """Refuse what says how a cut is repaired, where none is."""
    for name, is_given in given.items():
        if is_given:
            raise UsageError(
                f"{name} has no effect without repair: it says how a cut is repaired. Remove it, or add --repair DATA."
            )


def _refuse_options_of_gates(
    ways: tuple[object, ...], write_as: WrittenAs, *, keep_layer_period: bool
) -> None:
    """Refuse what says how a source is cut, where a run has said so."""
    if any(way is not None for way in ways):
        raise UsageError(
            "target has no effect with a checkpoint, which is cut at the target that its gates were trained for. "
            "Remove it, or cut the source with --gates instead of --checkpoint."
        )
    if write_as != "source":
        raise UsageError(
            f"write_as={write_as} has no effect with a checkpoint, which is cut as the type that its run was told. "
            f"Remove it, or say model.pruning.write_as={write_as} in the run's configuration."
        )
    if keep_layer_period:
        raise UsageError(
            "keep_layer_period=true has no effect with a checkpoint, which is cut as its run was told. Remove it, or "
            "say model.pruning.keep_layer_period=true in the run's configuration."
        )
