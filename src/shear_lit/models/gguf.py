"""A GGUF file, as llama.cpp keeps models, read into a plain float32 Hugging Face directory."""

from pathlib import Path

import numpy as np
import torch
from tokenizers import pre_tokenizers
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedModel,
    PreTrainedTokenizerFast,
)

from shear_lit.mistakes import Mistake
from shear_lit.models.companions import rewrite_tokenizer_config
from shear_lit.models.writing import write_config


class GgufError(Mistake):
    """A GGUF file that cannot be read faithfully."""


# Transformers drops the file's ``tokenizer.ggml.pre``; without it numbers are cut into other tokens than in training.
_PRE_TOKENIZERS = {
    "smollm": pre_tokenizers.Sequence(
        [
            pre_tokenizers.Digits(individual_digits=True),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True),
        ]
    )
}


def convert_gguf(file: Path, directory: Path) -> None:
    """Write the LLaMA model in ``file`` to ``directory``: float32 safetensors, config, tokenizer, generation config.

    Quantised weights are dequantised; nothing brings back what the quantisation lost.

    Raises:
        GgufError: the file is of another architecture, or uses a pre-tokenizer unknown here.
    """
    facts = _facts(file)
    tokenizer = _tokenizer(file, facts)
    model = _model(file)
    model.save_pretrained(directory)
    write_config(directory, model.config, dtype="float32")
    tokenizer.save_pretrained(directory)
    rewrite_tokenizer_config(directory / "tokenizer_config.json")


def _facts(file: Path) -> dict[str, str | int]:
    """The entries of the file's header that decide how it must be read."""
    from gguf import GGUFReader  # needed by the demo only

    reader = GGUFReader(str(file))
    names = ("general.architecture", "tokenizer.ggml.pre", "llama.context_length")
    facts = {name: field.contents() for name in names if (field := reader.get_field(name))}
    for name, known in (("general.architecture", ("llama",)), ("tokenizer.ggml.pre", tuple(_PRE_TOKENIZERS))):
        if facts.get(name) not in known:
            raise GgufError(
                f"{file.name}: {name}={facts.get(name)!r} cannot be converted faithfully: "
                f"only {', '.join(known)} is known. Use a Hugging Face directory of this model instead."
            )
    return facts


def _model(file: Path) -> PreTrainedModel:
    """The weights under a config that no longer speaks of quantisation, which ``save_pretrained`` would refuse."""
    read = AutoModelForCausalLM.from_pretrained(
        file.parent, gguf_file=file.name, dtype=torch.float32, trust_remote_code=False
    )
    entries = read.config.to_dict()
    for name in ("quantization_config", "_name_or_path", "_model_name_or_path", "transformers_version"):
        entries.pop(name, None)
    # The file holds a float32: 9.999999747e-06 was written as 1e-05.
    entries["rms_norm_eps"] = float(str(np.float32(entries["rms_norm_eps"])))
    clean = LlamaForCausalLM(LlamaConfig(**entries))
    clean.load_state_dict(read.state_dict(), strict=True)
    clean.generation_config = read.generation_config
    return clean


def _tokenizer(file: Path, facts: dict[str, str | int]) -> PreTrainedTokenizerFast:
    """The vocabulary, special tokens and chat template of the file, with its own pre-tokenizer put back."""
    read = AutoTokenizer.from_pretrained(file.parent, gguf_file=file.name, trust_remote_code=False)
    backend = read.backend_tokenizer
    backend.pre_tokenizer = _PRE_TOKENIZERS[str(facts["tokenizer.ggml.pre"])]
    return PreTrainedTokenizerFast(  # type: ignore[no-untyped-call]
        tokenizer_object=backend,
        bos_token=read.bos_token,
        eos_token=read.eos_token,
        unk_token=read.unk_token,
        pad_token=read.pad_token,
        chat_template=read.chat_template,
        model_max_length=int(facts["llama.context_length"]),
        clean_up_tokenization_spaces=False,
    )
