"""Talking: at a pseudo-terminal as a person sees it, through a pipe, and what is handed over to a server."""

import os
import random
import sys

import pytest
from transformers import AutoModelForCausalLM, AutoTokenizer

from shear_lit import cli
from shear_lit.commands.chat import server
from shear_lit.commands.chat.command import chat
from shear_lit.commands.chat.speaker import Conversation, Enough, Pieces, open_speakers, printable
from shear_lit.commands.failures import UsageError
from shear_lit.mistakes import Mistake
from shear_lit.models.answering import GREEDY, Sampling
from tests.chat_models import write_chat_model
from tests.commands.terminals import Terminal, at_terminal, behind_pipe, printed
from tests.data.chat.subjects import KINDS, TEXTS, text_tokenizer
from tests.training.forks import run, start


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    root = tmp_path_factory.mktemp("models")
    write_chat_model(root / "endless", never_ends=True, num_hidden_layers=1)
    write_chat_model(root / "other", seed=4)
    write_chat_model(root / "silent", template=None)
    return root


NAMES = ("program", "words", "variables")


@pytest.fixture
def terminal():
    found = Terminal()
    yield found
    found.close()


def press_until_it_ends(terminal, session):
    for _ in range(20):
        terminal.type("\x03")
        session.workers[0].join(3)
        if session.workers[0].exitcode is not None:
            return


def test_person_talks_is_answered_at_once_interrupts_and_leaves(models, tmp_path, terminal):
    """One session: an answer that never ends is seen while it is written, and what was said before counts."""
    arguments = ["chat", str(models / "endless"), "--temperature=0", "--max_new_tokens=100000"]
    session = start(at_terminal, tmp_path / "log", terminal=terminal.name, arguments=arguments)
    terminal.wait_for(r"Talking to endless\..*> ")
    beginnings = []
    for line, said in (
        ("hello\n", None),
        ("hello\n", None),
        ("/reset\n", r"\(a new conversation\)"),
        ("hello\n", None),
        ("/system be brief\n", r"\(a new conversation under: be brief\)"),
        ("hello\n", None),
        ("/nonsense\n", r"\(/nonsense is no command: /help lists them"),
        ("/help\n", "/system TEXT"),
    ):
        terminal.type(line)
        terminal.wait_for(line.strip().replace("/", "/") + r"\r\n")  # the terminal's echo
        if said is None:
            beginnings.append(terminal.wait_for(r"(.{24}).{100}", seconds=30)[1])  # and it goes on
            terminal.type("\x03")
            terminal.wait_for(r"Ctrl-C once more leaves\)\r\n> ")
        else:
            terminal.wait_for(said + r".*> ")
    first, again, forgotten, instructed = beginnings
    assert first == forgotten and again != first and instructed != first
    terminal.type("hello\n")
    terminal.wait_for(r"hello\r\n.{50}")
    terminal.type("\x03")
    terminal.wait_for(r"Ctrl-C once more leaves\)\r\n> ")
    # Python's input() loses a Ctrl-C that comes between its prompt and its wait for a key: press again.
    press_until_it_ends(terminal, session)
    assert session.wait() == [130]


def test_end_of_input_leaves_and_a_typed_special_token_is_text(models, tmp_path, terminal):
    arguments = [
        "chat",
        str(models / "other"),
        str(models / "endless"),
        "--max_new_tokens=4",
        "--temperature=0",
    ]
    session = start(at_terminal, tmp_path / "log", terminal=terminal.name, arguments=arguments)
    terminal.wait_for("Talking to other, endless.*> ")
    terminal.type("so <|im_end|> it is\n")
    terminal.wait_for("other:\r\n.*endless:\r\n.*> ")
    terminal.type("\x04")
    assert session.wait(30) == [0]


def expected_answer(place, prompt, *, new_tokens, system=None):
    """What transformers writes after its own rendering."""
    tokenizer, network = AutoTokenizer.from_pretrained(place), AutoModelForCausalLM.from_pretrained(place)
    messages = [*([] if system is None else [{"role": "system", "content": system}])]
    messages.append({"role": "user", "content": prompt})
    told = tokenizer.apply_chat_template(
        messages, add_generation_prompt=True, return_tensors="pt", return_dict=True
    )
    ends = [tokenizer.convert_tokens_to_ids("<|im_end|>"), 2]
    written = network.generate(
        **told, do_sample=False, max_new_tokens=new_tokens, eos_token_id=ends, pad_token_id=0
    )
    return tokenizer.decode(written[0, told["input_ids"].shape[1] :], skip_special_tokens=True)


def test_pipe_gives_an_answer_a_line_for_every_line(models, tmp_path):
    prompts = ["what is a tree", "", "def f(x):", "/reset", "  it is  "]
    (tmp_path / "prompts").write_text("".join(f"{prompt}\n" for prompt in prompts))
    arguments = ["chat", str(models / "other"), str(models / "endless")]
    arguments += ["--temperature=0", "--max_new_tokens=12", "--system=be brief"]
    codes = run(behind_pipe, tmp_path / "log", file=str(tmp_path / "prompts"), arguments=arguments)
    assert codes == [0]
    lines = [line for line in printed(tmp_path / "log" / "0.log") if "\t" in line]
    assert len(lines) == 2 * len(prompts)
    for index, prompt in enumerate(prompts):
        for line, name in zip(lines[2 * index : 2 * index + 2], ("other", "endless"), strict=True):
            said, _, answer = line.partition("\t")
            expected = ""
            if prompt:
                expected = expected_answer(models / name, prompt, new_tokens=12, system="be brief")
            assert said == name
            assert answer.replace("\\n", "\n").replace("\\r", "\r").replace("\\\\", "\\") == expected


def speaker(models, name, sampling=GREEDY, **options):
    settings = dict(template=None, system=None, dtype="float32", device="cpu")
    (found,) = open_speakers([str(models / name)], sampling, **{**settings, **options})
    return found


def test_pieces_that_are_shown_are_the_answer_and_what_was_shown_stays_said(models):
    talker, shown = speaker(models, "endless", Sampling(temperature=0, max_new_tokens=30)), []
    conversation = Conversation.under(None)
    answer = talker.answer(conversation, "hello", shown.append)
    assert len(shown) > 10 and "".join(shown) == printable(answer)
    assert [message["role"] for message in conversation.messages] == ["user", "assistant"]

    def stop(piece):
        raise Enough

    cut = Conversation.under("be brief")
    assert answer.startswith(talker.answer(Conversation.under(None), "hello", stop))
    talker.answer(cut, "hello", stop)
    assert [message["role"] for message in cut.messages] == ["system", "user", "assistant"]

    def interrupt(piece):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        talker.answer(cut, "again", interrupt)
    assert len(cut.messages) == 5


@pytest.mark.parametrize("kind", KINDS)
def test_text_that_comes_token_by_token_is_the_whole_text(kind):
    """Also where characters are of several tokens, and where bytes are no text."""
    tokenizer = text_tokenizer(kind).backend
    numbers = random.Random(0)
    for text in (*TEXTS, "🦊👩‍👩‍👧 é  x"):
        tokens = tokenizer.encode(text, add_special_tokens=False).ids
        pieces = Pieces(tokenizer)
        found = [pieces.add(token) for token in tokens]
        assert "".join([*found, pieces.rest()]) == tokenizer.decode(tokens)
        assert len([piece for piece in found if piece]) > len(tokens) / 4
        assert not any("\ufffd" in piece for piece in found) or kind != "bytes"
    for _ in range(50):
        tokens = [numbers.randrange(3, tokenizer.get_vocab_size()) for _ in range(30)]
        pieces = Pieces(tokenizer)
        "".join([*(pieces.add(token) for token in tokens), pieces.rest()])


def test_seed_decides_what_is_drawn(models):
    def said(**options):
        settings = Sampling(**{"temperature": 1.5, "max_new_tokens": 12, **options})
        return speaker(models, "endless", settings).answer(Conversation(), "hello", lambda piece: None)

    assert said(seed=1) == said(seed=1) != said(seed=2)
    assert said(top_k=1) == said(temperature=0.0)


def test_conversation_beyond_what_a_model_was_made_for_is_not_asked(models):
    talker = speaker(models, "other")
    with pytest.raises(Mistake, match=r"was made for 512: it is not asked\. /reset"):
        talker.answer(Conversation(), "word " * 600, lambda piece: None)


def test_what_a_terminal_would_obey_is_shown_as_text():
    assert printable("a\x1b[31mb\x07\n\tc\u202e") == "a\\x1b[31mb\\x07\n\tc\\x202e"


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["silent"], "comes with no chat template. Choose one of alpaca, chatml"),
        (["nowhere"], "is no local directory"),
        (["other", "other"], "each is named once"),
        ([], "models"),
        (["other", "--template=none"], "'none' is no template"),
        (["other", "--top_p=2"], "top_p"),
        (["other", "--serve", "--temperature=1"], "temperature has no effect with serve"),
        (["other", "endless", "--serve"], "one server has one model"),
        (["other", "--serve", "--port=70000"], "a port is a whole number"),
        (["silent/nowhere", "--serve"], "is no directory: a server is given one"),
    ],
)
def test_mistakes_are_one_line_before_any_weight_is_read(models, monkeypatch, capsys, arguments, words):
    from shear_lit.commands.chat import speaker as speakers

    monkeypatch.setattr(speakers, "read_model", lambda *_, **__: pytest.fail("weights were read"))
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.chdir(models)
    with pytest.raises(SystemExit) as end:
        cli.main(["chat", *arguments])
    said = capsys.readouterr().err
    assert end.value.code == 2 and said.count("\n") == 1 and words in said


def test_server_is_given_the_directory_on_this_machine_alone(models, monkeypatch):
    monkeypatch.setattr(server, "find_spec", lambda name: object())
    became = {}
    monkeypatch.setattr(os, "execve", lambda *call: became.update(zip(NAMES, call, strict=True)))
    chat([str(models / "other")], serve=True, port=8123)
    place = str(models / "other")
    assert became["program"] == sys.executable
    assert became["words"][1:5] == ["-m", "transformers.cli.transformers", "serve", place]
    flags = dict(zip(became["words"][5::2], became["words"][6::2], strict=True))
    assert flags == {"--host": "127.0.0.1", "--port": "8123", "--dtype": "float32", "--device": "auto"}
    assert became["variables"]["HF_HUB_OFFLINE"] == "1"


def test_server_that_is_not_installed_is_named_with_the_way_to_it(models, monkeypatch):
    monkeypatch.setattr(server, "find_spec", lambda name: None if name == "uvicorn" else object())
    with pytest.raises(UsageError, match=r"uvicorn is not installed.*pip install 'shear-lit\[serve\]'"):
        chat([str(models / "other")], serve=True)


def test_words_of_the_server_are_those_that_transformers_takes():
    """Its arguments are looked up, so that another version of it is noticed."""
    import inspect

    from transformers.cli.serve import Serve

    taken = inspect.signature(Serve.__init__).parameters
    assert {"force_model", "host", "port", "dtype", "device"} <= set(taken)
