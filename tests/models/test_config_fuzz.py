"""Whatever stands in a config: it is read, or refused in one line, in no time and without memory.

Every entry of every family's config takes every odd value; of these pairs the suite tries every 23rd, and with
``SHEAR_LIT_FUZZ=whole`` in the environment all of them are tried (about a minute).
"""

import copy
import json
import os
import resource
import time
from collections.abc import Iterator
from typing import Any

import pytest

from shear_lit.models.family import FamilyError
from shear_lit.models.huggingface import read_config
from shear_lit.models.registry import family_of, parameter_count
from shear_lit.models.source_files import SourceError
from tests.toy_families import ONE_OF_EACH

EVERY = 1 if os.environ.get("SHEAR_LIT_FUZZ") == "whole" else 23
VALUES = (None, "x", -1, 0, 10**12, 10**400, 1.5, [], {}, True, float("nan"), [None], {"x": {}})
MORE = {
    "num_labels": 2,
    "sliding_window": 4,
    "attn_implementation": "sdpa",
    "rope_theta": 1e4,
    "rope_scaling": None,
    "no_rope_layer_interval": 4,
    "quantization_config": None,
    "torch_dtype": "float32",
}
"""Entries that older configs have, or that only some classes know."""
SECONDS, BYTES = 5.0, 2**30


def paths(entries: dict[str, Any], above: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
    for name, value in entries.items():
        yield (*above, name)
        if isinstance(value, dict):
            yield from paths(value, (*above, name))


def changed(entries: dict[str, Any], path: tuple[str, ...], value: object) -> dict[str, Any]:
    entries = copy.deepcopy(entries)
    place = entries
    for name in path[:-1]:
        place = place[name]
    place[path[-1]] = value
    return entries


def peak_bytes() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


@pytest.mark.parametrize("form", ONE_OF_EACH, ids=lambda form: form.family)
def test_odd_value_is_refused_in_one_line_or_harmless(tmp_path, form):
    entries = {**MORE, **json.loads(form.config().to_json_string(use_diff=False))}
    entries.pop("_name_or_path", None)
    pairs = [(path, value) for path in paths(entries) for value in VALUES]
    before, refused = peak_bytes(), 0
    for path, value in pairs[::EVERY]:
        (tmp_path / "config.json").write_text(json.dumps(changed(entries, path, value)))
        start = time.process_time()
        try:
            config = read_config(str(tmp_path))
            family_of(config)
            parameter_count(config)
        except (SourceError, FamilyError) as error:
            refused += 1
            assert "\n" not in str(error) and len(str(error)) < 1000, (path, value)
            assert error.key == "model.source" and str(error).endswith((".", "...")), (path, value)
        assert time.process_time() - start < SECONDS, (path, value)
    assert peak_bytes() - before < BYTES
    assert refused > len(pairs[::EVERY]) / 3
