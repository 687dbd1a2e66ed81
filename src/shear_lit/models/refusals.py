"""Models that no table describes, refused by name before any weight is read, with what to use instead."""

from collections.abc import Sequence

from transformers import PretrainedConfig

from shear_lit.models.family import Family, FamilyError
from shear_lit.models.source_files import KEY, name_of

_TOWERS = ("vision_config", "audio_config", "text_config", "thinker_config")
_EXPERTS = ("num_local_experts", "num_experts", "n_routed_experts", "moe_num_experts", "num_moe_experts")
_NOT_PER_LAYER = ("architectures",)
_PAGE = "docs/adding_a_family.md"


def check_has_table(config: PretrainedConfig, families: Sequence[str]) -> None:
    """Refuse a config whose model type is not among ``families``, or with an option that no table covers.

    Raises:
        FamilyError: there is no table for it.
    """
    tables = f"Tables exist for: {', '.join(families)}."
    _refuse_towers(config, tables)
    _refuse_experts(config, tables)
    if config.model_type not in families:
        raise FamilyError(
            f"{name_of(config)} has model_type={config.model_type!r}, for which there is no family table. {tables} "
            f"Use such a model, or add a table ({_PAGE}).",
            key=KEY,
        )
    _refuse_other_heads(config)


def check_lists_are_known(config: PretrainedConfig, family: Family) -> None:
    """Refuse a list with an entry per block that the table does not know: it would describe blocks that are gone.

    Raises:
        FamilyError: there is one.
    """
    for name, value in config.to_dict().items():
        known = name in family.per_layer or name in _NOT_PER_LAYER or name.endswith(("token_id", "token_ids"))
        if isinstance(value, list) and len(value) == family.shape.layers and not known:
            raise FamilyError(
                f"{name_of(config)} has {name}={value}, as long as there are blocks, and the {family.model_type} table "
                f"does not say what becomes of it when blocks go. Add it to per_layer there, if it describes blocks, "
                f"or take it out of the config.",
                key=KEY,
            )


def _refuse_towers(config: PretrainedConfig, tables: str) -> None:
    towers = [name for name in _TOWERS if getattr(config, name, None) is not None]
    if towers:
        text = getattr(getattr(config, "text_config", None), "model_type", None)
        raise FamilyError(
            f"{name_of(config)} has model_type={config.model_type!r} with {', '.join(towers)}: a multi-modal model is "
            f"not pruned as a whole. Save its language model"
            + (f" (model_type={text!r})" if text else "")
            + f" as a directory of its own, as {_PAGE} shows, and name that. {tables}",
            key=KEY,
        )


def _refuse_experts(config: PretrainedConfig, tables: str) -> None:
    entries = config.to_dict()  # by the names that the user sees
    for name in _EXPERTS:
        count = entries.get(name)
        if isinstance(count, int) and count > 1:
            raise FamilyError(
                f"{name_of(config)} has model_type={config.model_type!r} with {name}={count}: mixtures of experts are "
                f"not pruned, only dense models are. {tables} Use such a model.",
                key=KEY,
            )


def _refuse_other_heads(config: PretrainedConfig) -> None:
    others = [name for name in config.architectures or () if not name.endswith("ForCausalLM")]
    if others:
        raise FamilyError(
            f"{name_of(config)} has architectures={others}: only language models, whose architecture ends in "
            f"ForCausalLM, are pruned. Use the {config.model_type} language model that this one was made from.",
            key=KEY,
        )
