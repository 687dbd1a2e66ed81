"""``prepare --format chat``: from files of conversations to packed sequences, and what of them is to be predicted."""

import json
import pickle
import random
from dataclasses import replace
from functools import partial
from itertools import pairwise

import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from shear_lit.data.errors import DataError
from shear_lit.data.order.mixture import MixtureSettings
from shear_lit.data.prepared.reading import read_manifest
from shear_lit.data.preparing.chat_settings import ChatSettings
from shear_lit.data.preparing.plan import PartNumber
from shear_lit.data.preparing.prepare import prepare, prepare_stage
from shear_lit.data.preparing.settings import SplitShares
from shear_lit.data.serving.batch import model_inputs
from shear_lit.data.serving.datamodule import DomainData
from shear_lit.data.serving.store import SequenceStore
from shear_lit.theory.losses import IGNORED
from tests.data.chat.subjects import (
    random_conversation,
    reference,
    renderer,
    text_tokenizer,
    write_tokenizer,
)
from tests.data.chat.test_rendering import chat
from tests.data.preparing.corpora import in_parts
from tests.trees import tree

LENGTH = 160


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory):
    return str(write_tokenizer(tmp_path_factory.mktemp("tokenizer"), "bytes"))


@pytest.fixture
def chat_settings(tmp_path, tokenizer):
    return partial(settings_in, tmp_path, tokenizer)


def settings_in(folder, own, domains, **changes):
    defaults = {
        "domains": domains,
        "tokenizer": own,
        "output": str(folder / "out"),
        "sequence_length": LENGTH,
        "template": "chatml",
        "shares": SplitShares(prune=0, pretrain=0.7, validation=0.3),
        "workers": 1,
    }
    return ChatSettings(**(defaults | changes))


@pytest.fixture(scope="module")
def expected(tmp_path_factory, tokenizer):
    """What is made of the conversations in a file of messages."""
    folder = tmp_path_factory.mktemp("expected")
    path = write(folder / "talk.jsonl", conversations())
    return prepare(settings_in(folder, tokenizer, {"talk": path}))


def conversations(seed=0, count=40, **options):
    numbers = random.Random(seed)
    return [random_conversation(numbers, **options) for _ in range(count)]


def write(path, found):
    path.write_text("".join(json.dumps({"messages": one.messages}) + "\n" for one in found))
    return str(path)


def packed(directory, split):
    """The tokens, labels and positions of every document of a split."""
    store = SequenceStore(directory, split)
    found = []
    for domain in range(len(store.domains)):
        for number in range(store.sequences(domain)):
            batch = store.read([(domain, number)], documents_apart=True)
            tokens, mask, positions = (batch[name][0] for name in ("tokens", "loss_mask", "positions"))
            starts = [*torch.nonzero(positions == 0).flatten().tolist(), len(tokens)]
            found += [
                (tokens[a:b].tolist(), mask[a:b].tolist()) for a, b in pairwise(starts) if mask[a:b].any()
            ]
    return found


def test_conversations_are_packed_whole_with_the_assistants_tokens_as_labels(tmp_path, chat_settings):
    found = conversations()
    manifest = prepare(chat_settings({"talk": write(tmp_path / "talk.jsonl", found)}))
    own, splits = renderer("bytes", "chatml"), manifest.domains["talk"].splits
    expected = []
    for one in found:
        rendered = own.render(one)
        if len(rendered.ids) <= LENGTH:
            expected.append((rendered.ids.tolist(), rendered.learned.tolist()))
    there = packed(tmp_path / "out", "pretrain") + packed(tmp_path / "out", "validation")
    assert len(expected) > 10 and all(one in there for one in expected)
    assert sum(record.documents for record in splits.values()) == len(found)
    assert sum(record.cuts for record in splits.values()) == len(there) - len(found) > 0
    answers = sum(message["role"] == "assistant" for one in found for message in one.messages)
    assert sum(record.turns for record in splits.values()) == answers
    assert sum(record.learned for record in splits.values()) == sum(sum(mask) for _, mask in there)
    assert manifest.domains["talk"].rejected == {} and list(splits) == ["pretrain", "validation"]


def test_manifest_says_what_made_the_tokens(tmp_path, chat_settings, tokenizer):
    prepare(chat_settings({"talk": write(tmp_path / "talk.jsonl", conversations())}, allowed=["</s>"]))
    manifest = read_manifest(tmp_path / "out")
    own = renderer("bytes", "chatml").template
    assert manifest.chat is not None and manifest.packing == "best_fit"
    assert (manifest.chat.sha256, manifest.chat.template) == (own.sha256, own)
    assert manifest.chat.allowed == ("</s>",)
    assert (manifest.prepend_bos, manifest.append_eos, manifest.text_field) == (False, False, "")
    page = (tmp_path / "out" / "README.md").read_text()
    assert f"chatml (SHA-256 {own.sha256[:12]})" in page and "| turns | cuts | learned |" in page


def test_a_template_that_was_changed_in_a_manifest_is_noticed(tmp_path, chat_settings):
    prepare(chat_settings({"talk": write(tmp_path / "talk.jsonl", conversations())}))
    file = tmp_path / "out" / "manifest.json"
    content = json.loads(file.read_text())
    content["chat"]["template"]["source"] += " "
    file.write_text(json.dumps(content))
    with pytest.raises(DataError, match=r"chat.sha256 is .*the template in it is another one"):
        read_manifest(tmp_path / "out")


def test_the_tokenizers_own_template_is_the_default(tmp_path, chat_settings):
    source = renderer("bytes", "llama-2").template.source
    own = write_tokenizer(tmp_path / "with template", "bytes", source)
    path = write(tmp_path / "talk.jsonl", conversations())
    options = chat_settings({"talk": path}, tokenizer=str(own), template="tokenizer")
    manifest = prepare(options)
    assert manifest.chat.template.source == source and manifest.chat.template.name == "tokenizer"
    tokens = packed(tmp_path / "out", "validation")[0][0]
    assert text_tokenizer("bytes").backend.decode(tokens, skip_special_tokens=False).startswith("<s>[INST] ")


def test_rejects_are_named_with_their_file_and_line(tmp_path, chat_settings, caplog):
    found = [*conversations(), chat("x", "<|im_end|>"), chat("x"), chat("y" * 500, "z")]
    path = write(tmp_path / "talk.jsonl", found)
    with pytest.raises(DataError) as refused:
        prepare(chat_settings({"talk": path}))
    for line, reason in (
        (41, "text that is a special token (<|im_end|>)"),
        (42, "no message of the assistant"),
        (43, "a question and its answer longer than sequence_length"),
    ):
        assert f"{path}:{line}: {reason}" in str(refused.value)
    assert "Repair the files, correct messages_field" in str(refused.value)
    manifest = prepare(chat_settings({"talk": path}, max_rejected_fraction=0.1))
    assert sum(manifest.domains["talk"].rejected.values()) == 3
    assert f"{path}:41: text that is a special token" in caplog.text


@pytest.fixture
def table(tmp_path):
    arrow = pytest.importorskip("pyarrow")
    rows = [{"messages": one.messages, "id": 3} for one in conversations()]
    return arrow.Table.from_pylist(rows)


@pytest.mark.parametrize("form", ["parquet", "arrow", "json", "jsonl.gz", "sharegpt"])
def test_conversations_of_every_kind_of_input_are_the_same(tmp_path, chat_settings, table, form, expected):
    import gzip

    from pyarrow import ipc, parquet

    path = tmp_path / f"other.{'jsonl' if form == 'sharegpt' else form}"
    rows = [{"messages": one.messages} for one in conversations()]
    if form == "parquet":
        parquet.write_table(table, path)
    elif form == "arrow":
        with ipc.new_file(str(path), table.schema) as file:
            file.write_table(table)
    elif form == "json":
        path.write_text(json.dumps(rows, indent=1))
    elif form == "jsonl.gz":
        path.write_bytes(gzip.compress("".join(json.dumps(row) + "\n" for row in rows).encode()))
    else:
        names = {"user": "human", "assistant": "gpt", "system": "system"}
        talks = [[{"from": names[m["role"]], "value": m["content"]} for m in row["messages"]] for row in rows]
        path.write_text("".join(json.dumps({"conversations": talk}) + "\n" for talk in talks))
    found = prepare(chat_settings({"talk": str(path)}, output=str(tmp_path / "other")))
    assert found.fingerprint == expected.fingerprint


def test_csv_of_instructions_is_read(tmp_path, chat_settings):
    import csv

    path = tmp_path / "alpaca.csv"
    with path.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["instruction", "input", "output"])
        writer.writerows([f"ask {n}", "about, this" if n % 2 else "", f'say "{n}"'] for n in range(80))
    manifest = prepare(chat_settings({"talk": str(path)}))
    assert sum(record.documents for record in manifest.domains["talk"].splits.values()) == 80


def test_what_has_no_records_is_refused(tmp_path, chat_settings):
    (tmp_path / "a.txt").write_text("text")
    with pytest.raises(DataError, match=r"domains.talk=.*a.txt' has no records"):
        prepare(chat_settings({"talk": str(tmp_path / "a.txt")}))
    (tmp_path / "a.jsonl").write_text('{"text": "x"}\n' * 9)
    with pytest.raises(DataError, match=r"messages_field='': .*a.jsonl' has no such field; it has 'text'"):
        prepare(chat_settings({"talk": str(tmp_path / "a.jsonl")}))


def test_conversations_are_added_in_the_same_way_only(tmp_path, chat_settings, settings):
    path = write(tmp_path / "talk.jsonl", conversations())
    more = write(tmp_path / "more.jsonl", conversations(7))
    first = prepare(chat_settings({"talk": path}))
    for key, value in (("template", "llama-2"), ("allowed", ["</s>"]), ("messages_field", "messages")):
        with pytest.raises(DataError, match=f"^{key}=.*can only be added in the same way"):
            prepare(chat_settings({"talk": [path, more]}, **{key: value}))
    text = tmp_path / "text.jsonl"
    text.write_text('{"text": "a text"}\n' * 40)
    with pytest.raises(DataError, match=r"^output=.*holds conversations, to which no text can be added"):
        prepare(settings({"talk": str(text)}, output=str(tmp_path / "out")))
    both = prepare(chat_settings({"talk": [path, more]}))
    before, after = (m.domains["talk"].splits["pretrain"] for m in (first, both))
    assert after.chunks[: len(before.chunks)] == before.chunks
    assert (
        after.documents > before.documents and after.turns > before.turns and after.learned > before.learned
    )


def test_the_same_conversation_counts_once(tmp_path, chat_settings):
    found = conversations()
    again = [{"conversations": [{"from": "human", "value": " X \n y "}, {"from": "gpt", "value": "Z"}]}] * 3
    path = tmp_path / "talk.jsonl"
    write(path, [*found, chat("x Y", "z")])
    with path.open("a") as file:
        file.writelines(json.dumps(row) + "\n" for row in again)
    manifest = prepare(chat_settings({"talk": str(path)}))
    assert manifest.domains["talk"].duplicates == 3


class Elsewhere:
    """Does tasks as other processes do: in another order, and by what reaches them."""

    def run(self, do, tasks):
        for task in reversed(list(tasks)):
            yield task, pickle.loads(pickle.dumps(do))(task)  # noqa: S301


def test_who_does_the_work_changes_nothing(tmp_path, chat_settings, expected):
    path = write(tmp_path / "talk.jsonl", conversations())
    found = prepare(chat_settings({"talk": path}, unit_bytes=4000), Elsewhere())
    assert found.fingerprint == expected.fingerprint


def test_data_of_conversations_is_read_with_documents_apart_only(tmp_path, chat_settings):
    prepare(chat_settings({"talk": write(tmp_path / "talk.jsonl", conversations())}))
    with pytest.raises(DataError, match=r"^data.cross_document_attention=true: .* is conversations"):
        data_of(tmp_path / "out", cross_document_attention=True).check_data()
    data_of(tmp_path / "out").check_data()


def data_of(directory, **changes):
    options = {"cross_document_attention": False, "split": "pretrain", "micro_batch": 2, "global_batch": 4}
    mixture = MixtureSettings(proportions={"talk": 1.0}, rule="static")
    return DomainData(str(directory), mixture, **(options | changes))


def model():
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=512,
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=LENGTH,
        initializer_range=0.3,
    )
    return LlamaForCausalLM(config).double()


def summed(network, inputs):
    """The sum of the losses of all labels, and how many there are."""
    labels = inputs.pop("labels")
    logits = network(**inputs, use_cache=False).logits[:, :-1]
    losses = torch.nn.functional.cross_entropy(
        logits.flatten(0, 1), labels[:, 1:].flatten(), ignore_index=IGNORED, reduction="sum"
    )
    return losses, int((labels[:, 1:] != IGNORED).sum())


def test_packed_is_unpacked_in_loss_and_gradients(tmp_path, chat_settings):
    """The loss of packed sequences, as they are served, is that of each conversation alone, as transformers has it."""
    found = [one for one in conversations() if len(renderer("bytes", "chatml").render(one).ids) <= LENGTH]
    prepare(
        chat_settings(
            {"talk": write(tmp_path / "talk.jsonl", found)},
            shares=SplitShares(prune=0, pretrain=0, validation=1),
        )
    )
    together, alone = model(), model()
    store, count, total = SequenceStore(tmp_path / "out", "validation"), 0, 0.0
    for at in range(0, store.sequences(0), 2):
        keys = [(0, number) for number in range(at, min(at + 2, store.sequences(0)))]
        loss, labels = summed(together, model_inputs(store.read(keys, documents_apart=True)))
        loss.backward()
        count, total = count + labels, total + loss.item()
    of_each, total_of_each = 0, 0.0
    for one in found:
        ids = reference("bytes").apply_chat_template(
            one.messages, chat_template=renderer("bytes", "chatml").template.source, return_dict=False
        )
        learned = renderer("bytes", "chatml").render(one).learned
        labels = [index if wanted else IGNORED for index, wanted in zip(ids, learned, strict=True)]
        loss, number = summed(alone, {"input_ids": torch.tensor([ids]), "labels": torch.tensor([labels])})
        loss.backward()
        of_each, total_of_each = of_each + number, total_of_each + loss.item()
    assert count == of_each > 300
    assert total / count == pytest.approx(total_of_each / of_each, rel=1e-5)
    for packed_weight, weight in zip(together.parameters(), alone.parameters(), strict=True):
        scale = weight.grad.abs().max().clamp(min=1e-9)
        assert float((packed_weight.grad - weight.grad).abs().max() / scale) <= 1e-5


def test_conversations_are_prepared_in_parts_and_a_part_with_another_template_is_refused(
    chat_settings, tmp_path
):
    domains = {"talk": [write(tmp_path / f"{n}.jsonl", conversations(n, 20)) for n in range(3)]}
    options = chat_settings(domains, output=str(tmp_path / "parts"), unit_bytes=3000, chunk_bytes=4000)
    prepare_stage(options, "tokenise", PartNumber(1, 2))
    with pytest.raises(
        DataError, match=r"^template='zephyr': other parts of this run were begun with 'chatml'"
    ):
        prepare_stage(replace(options, template="zephyr"), "tokenise", PartNumber(2, 2))
    in_parts(options, 2)
    prepare(replace(options, output=str(tmp_path / "whole")))
    assert tree(options.output) == tree(tmp_path / "whole")
