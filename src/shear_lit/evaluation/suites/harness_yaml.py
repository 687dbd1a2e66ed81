"""What a task of a file may tell the harness: templates, numbers and names of its own functions, and no code."""

import difflib
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from shear_lit.disk.names import is_plain_name
from shear_lit.evaluation.suites.errors import SuiteError

_KEY = "suite"
_TEXTS = {
    *("task", "task_alias", "dataset_path", "output_type", "doc_to_text", "description", "target_delimiter"),
    *("fewshot_delimiter", "doc_to_decontamination_query", "gen_prefix"),
    *("training_split", "validation_split", "test_split", "fewshot_split"),
}
_OTHERS = {
    *("dataset_kwargs", "doc_to_target", "doc_to_choice", "fewshot_config", "num_fewshot", "metric_list"),
    *("generation_kwargs", "repeats", "filter_list", "should_decontaminate", "metadata", "tag"),
}
_RUN_CODE = {
    *("class", "custom_dataset", "process_docs", "process_results", "unsafe_code", "use_prompt"),
    *("doc_to_image", "doc_to_audio", "include", "group"),
}
_FEWSHOT = {
    *("sampler", "split", "fewshot_indices", "samples", "doc_to_text", "doc_to_choice", "doc_to_target"),
    *("gen_prefix", "fewshot_delimiter", "target_delimiter"),
}
_KINDS = ("loglikelihood", "loglikelihood_rolling", "generate_until", "multiple_choice")


def check_task_name(name: object, where: str) -> None:
    """Refuse what is no name of a task, under which files are written.

    Raises:
        SuiteError: it is none.
    """
    if not is_plain_name(name):
        raise SuiteError(f"{where}: task={name!r}: a name without slashes is expected. Correct it.", key=_KEY)


def check_entries(entries: Mapping[str, Any], where: str) -> None:
    """Refuse keys of a task that run code, fetch something, or are not known.

    Raises:
        SuiteError: there is one.
    """
    for name, value in entries.items():
        if name in _RUN_CODE:
            raise _refusal(
                where, name, "code, prompts and files from elsewhere are never run or read", "Remove it"
            )
        if name not in _TEXTS | _OTHERS:
            alike = difflib.get_close_matches(str(name), _TEXTS | _OTHERS, n=1)
            raise _refusal(
                where, name, "it is no key of a task", f"Did you mean {alike[0]}" if alike else "Remove it"
            )
        if name in _TEXTS and not isinstance(value, str):
            raise _refusal(where, name, f"it is {value!r}, and text is expected", "Correct it")
    if entries.get("output_type") not in _KINDS:
        kind = entries.get("output_type")
        raise _refusal(where, "output_type", f"it is {kind!r}: one of {', '.join(_KINDS)}", "Correct it")
    shots = entries.get("num_fewshot", 0)
    if type(shots) is not int or shots < 0:
        raise _refusal(
            where, "num_fewshot", f"it is {shots!r}: a whole number from 0 is expected", "Correct it"
        )
    _check_fewshot(entries.get("fewshot_config", {}), where)
    _check_metrics(entries.get("metric_list"), where)
    _check_filters(entries.get("filter_list", []), where)


def _check_fewshot(config: object, where: str) -> None:
    if not isinstance(config, Mapping) or not set(config) <= _FEWSHOT:
        raise _refusal(where, "fewshot_config", f"keys of it are {', '.join(sorted(_FEWSHOT))}", "Correct it")
    if config.get("sampler", "default") not in ("default", "first_n"):
        raise _refusal(where, "fewshot_config.sampler", "it is default or first_n", "Correct it")


def _check_metrics(metrics: object, where: str) -> None:
    """Metrics that the harness has itself: of another name it would fetch a script and run it."""
    import lm_eval.api.metrics  # noqa: F401  (fills the registries)
    from lm_eval.api.registry import aggregation_registry, metric_registry

    if not isinstance(metrics, Sequence) or not metrics or not all(isinstance(m, Mapping) for m in metrics):
        raise _refusal(
            where, "metric_list", "a list of metrics is expected", "Write `- metric: acc` below it"
        )
    for entry in metrics:
        for key, known in (("metric", metric_registry), ("aggregation", aggregation_registry)):
            if key in entry and entry[key] not in known:
                raise _refusal(where, key, f"{entry[key]!r} is none of the harness's own", "Name one of them")
        if "metric" not in entry or entry.get("hf_evaluate"):
            raise _refusal(
                where, "metric_list", "each entry names a metric of the harness's own", "Correct it"
            )


def _check_filters(filters: object, where: str) -> None:
    import lm_eval.filters  # noqa: F401  (fills the registry)
    from lm_eval.api.registry import filter_registry

    if not isinstance(filters, list) or not all(isinstance(each, Mapping) for each in filters):
        raise _refusal(where, "filter_list", "a list of filters is expected", "Correct it")
    for step in _steps(filters):
        function = step.get("function")
        if function == "custom" or function not in filter_registry:
            raise _refusal(
                where, "filter_list", f"{function!r} is none of the harness's own filters", "Name one"
            )


def _steps(filters: Sequence[Mapping[str, Any]]) -> Iterator[Mapping[str, Any]]:
    for each in filters:
        for step in each.get("filter") or ():
            yield step if isinstance(step, Mapping) else {"function": step}


def reported_figure(config: Mapping[str, Any], asked: str | None, where: str) -> tuple[str, str]:
    """The metric that counts, and the filter that it is taken after: the first ones, unless a metric is asked for.

    Raises:
        SuiteError: the task has no such metric.
    """
    metrics = [str(entry["metric"]) for entry in config["metric_list"]]
    if asked is not None and asked not in metrics:
        raise _refusal(
            where, "metric", f"it is {asked!r}, and the task has {', '.join(metrics)}", "Name one of them"
        )
    filters = config.get("filter_list") or [{"name": "none"}]
    return asked or metrics[0], str(filters[0].get("name", "none"))


def _refusal(where: str, name: object, rule: str, remedy: str) -> SuiteError:
    return SuiteError(f"{where}: {name}: {rule}. {remedy}.", key=_KEY)
