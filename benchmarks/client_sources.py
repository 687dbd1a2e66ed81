"""Write the sources of ``clients.py`` with the transformers of the interpreter that runs this: 4.57, or 5.x.

    PYTHON -P client_sources.py SOURCES.jsonl

One JSON a line: ``directory`` (to write), ``model_type``, ``entries`` (of the config, named as that version names
them), ``made_smaller`` (parts of parameters' names, factors, and what the model adds to the parameter before it is
used), ``files`` (to copy beside the model), ``tokens`` and ``logits`` (the .npy file of the writer's own logits). A
source is written wholly or not at all; one that is there is left alone. Nothing of this package is imported: an old
transformers does not know it.
"""

import json
import logging
import shutil
import sys
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers


def weighed_model(model_type: str, entries: dict[str, Any], made_smaller: list[Any]) -> Any:
    """A model in which every weight matters: norms and biases are random, too."""
    torch.manual_seed(0)
    config = transformers.AutoConfig.for_model(model_type, **entries)
    model = transformers.AutoModelForCausalLM.from_config(config, attn_implementation="eager").float().eval()
    for parameter in model.parameters():
        if parameter.ndim == 1:
            parameter.data.add_(torch.randn_like(parameter) * 0.3)
    for part, factor, added in made_smaller:
        for name, parameter in model.named_parameters():
            if part in name:
                parameter.data.add_(added).mul_(factor).sub_(added)
    return model


@torch.inference_mode()
def logits_of(model: Any, tokens: list[int]) -> np.ndarray:
    logits: np.ndarray = model(input_ids=torch.tensor([tokens]), use_cache=False).logits[0].numpy()
    return logits


def write(source: dict[str, Any]) -> None:
    directory = Path(source["directory"])
    if directory.is_dir():
        return
    partial = directory.with_name(f"{directory.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    model = weighed_model(source["model_type"], source["entries"], source["made_smaller"])
    model.save_pretrained(partial)
    for file in source["files"]:
        shutil.copy(file, partial)
    np.save(source["logits"], logits_of(model, source["tokens"]))
    partial.rename(directory)


def main() -> None:
    torch.set_num_threads(2)
    logging.getLogger("transformers").setLevel(logging.ERROR)
    for line in Path(sys.argv[1]).read_text(encoding="utf-8").splitlines():
        write(json.loads(line))


if __name__ == "__main__":
    main()
