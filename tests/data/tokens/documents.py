"""Texts in which tokenizers differ, the same ones each time: scripts, code, numbers, white space, names of tokens."""
# ruff: noqa: RUF001, E501  (characters that look like others are what these texts are for)

import random
import sysconfig
from collections.abc import Callable, Iterator
from functools import cache
from itertools import count as counted
from pathlib import Path

LETTERS = {
    "latin": "aàáâbcçdðeéèêfgğhiíîïjklłmnñoóöøœpqrsşßtuúüvwxyýzžABCÇDEÉFGHIJKLMNOÖPQRSTUÜVWXYZ",
    "cyrillic": "абвгдеёжзийклмнопрстуфхцчшщъыьэюяіїєґАБВГДЕЖЗИКЛМНОПРСТУ",
    "greek": "αάβγδεέζηήθιίϊκλμνξοόπρσςτυύφχψωώΑΒΓΔΕΖΗΘ",
    "arabic": "ابتثجحخدذرزسشصضطظعغفقكلمنهويىةءآأؤإئ" + "\u064b\u064e\u0650\u0651\u0652",
    "hebrew": "אבגדהוזחטיכךלמםנןסעפףצץקרשת" + "\u05b0\u05b8\u05bc",
    "devanagari": "अआइईउऊएऐओऔकखगघचछजझटठडढतथदधनपफबभमयरलवशषसह" + "\u093e\u093f\u0940\u0947\u094b\u094d\u0902",
    "thai": "กขคงจฉชซญดตถทธนบปผฝพฟภมยรลวศสหอฮะาำเแโใไ" + "\u0e31\u0e34\u0e35\u0e48\u0e49",
    "tamil": "அஆஇஈஉஊஎஏஐஒகஙசஞடணதநபமயரலவழளறன" + "\u0bbe\u0bbf\u0bc0\u0bc1\u0bcd",
    "bengali": "অআইঈউএওকখগঘচছজটডতথদধনপফবভমযরলশষসহ" + "\u09be\u09bf\u09c0\u09c7\u09cd",
    "georgian": "აბგდევზთიკლმნოპჟრსტუფქღყშჩცძწჭხჯჰ",
    "armenian": "աբգդեզէըթժիլխծկհձղճմյնշոչպջռսվտրցւփքօֆԱԲԳԴ",
    "simplified": "的一是不了人我在有他这为之大来以个中上们到说国和地也子时道出而要于就下得可你年生",
    "traditional": "這個國家說時會過來學對發後經點電話車馬鳥魚龍門開關東長愛樂聽書畫體臺灣萬與無",
    "japanese": "あいうえおかがきくけこさしすせそたちつてとなにのはひふへほまみむもやゆよらりるれろわをんアイウエオカキ日本語東京駅食",
    "korean": "가각간갈감강개거건게고공과교구국기길나남내너노는다대도동들라로리마만말면명모문무물미",
}
_UNSPACED = {
    "simplified": "，。、；：？！",
    "traditional": "，。、「」；",
    "japanese": "、。「」・ー",
    "thai": " ",
}
SPECIAL = ("<s>", "</s>", "<unk>", "<pad>", "<|endoftext|>", "<|im_start|>", "<|im_end|>", "[INST]", "<0x0A>")
_EMOJI = "🦊 👩‍👩‍👧 👍🏽 🏳️‍🌈 🇩🇪 ❤️ ☃ 🤷🏿‍♀️ 1️⃣ 👨‍💻 🫠"
_MATHS = (
    "∀ε>0 ∃δ ∑_{i=1}^{n} x_i² ≤ ∫₀^∞ e^{-x} dx ≠ ½ ∮ ℝⁿ → ⟨ψ|φ⟩ $\\alpha$ \\frac{a}{b} ﬁ Å e\u0301 ｱ ㎏ ①"
)
_CONTROL = "\x00 \x01 \x07 \x08 \x0b \x0c \x1b[0m \x7f \x85 \u00a0 \u00ad \u200b \u200e \u2028 \u2029 \ufeff \ufffd \u2581"


def _words(letters: str, draw: random.Random, length: int) -> Iterator[str]:
    for _ in range(max(1, length // 6)):
        yield "".join(draw.choices(letters, k=draw.randint(1, 10)))


def _script(name: str) -> Callable[[random.Random, int], str]:
    def text(draw: random.Random, length: int) -> str:
        signs = _UNSPACED.get(name)
        ends = list(signs) if signs else [" ", " ", " ", ", ", ". ", "; ", "\n", " — ", "! "]
        return "".join(word + draw.choice(ends) for word in _words(LETTERS[name], draw, length))

    return text


@cache
def _sources() -> tuple[str, ...]:
    """Python's own library, as written."""
    paths = sorted(Path(sysconfig.get_path("stdlib")).glob("*.py"))
    return tuple(path.read_text(encoding="utf-8", errors="ignore") for path in paths)


def _code(draw: random.Random, length: int) -> str:
    source = draw.choice(_sources())
    start = draw.randrange(max(1, len(source) - length))
    return source[start : start + length]


def _numbers(draw: random.Random, length: int) -> str:
    forms = [str, "{:,}".format, hex, "{:.3e}".format, "-{}".format, "{:012d}".format, "2026-{}".format]
    numbers = (draw.choice(forms)(draw.randrange(10 ** draw.randint(1, 12))) for _ in range(length // 8))
    return "".join(number + draw.choice([" ", ", ", "\n", "", "٣٤ ", "五 ", "Ⅻ ", "%"]) for number in numbers)


def _spaces(draw: random.Random, length: int) -> str:
    kinds = [" ", "\t", "\n", "\r\n", "\u00a0", "\u3000"]
    runs = (draw.choice(kinds) * draw.choice([1, 2, 3, 4, 8, 16, 25, 60]) for _ in range(length // 12))
    return "".join(run + draw.choice(["x", "the", "}", "", "1", "if"]) for run in runs)


def _pool(pool: str) -> Callable[[random.Random, int], str]:
    def text(draw: random.Random, length: int) -> str:
        entries = [*pool.split(" "), "a", "word", " ", " "]
        return "".join(draw.choices(entries, k=length // 3)).replace("  ", " ")

    return text


def _special(draw: random.Random, length: int) -> str:
    glue = ["", " ", "  ", "a", "\n", ".", "b ", " c", "x" * 3]
    return "".join(draw.choice(SPECIAL) + draw.choice(glue) for _ in range(max(1, length // 12)))


def _prose(draw: random.Random, length: int) -> str:
    """Words of Python's documentation strings, in which letters are as frequent as in English."""
    words = draw.choice(_sources()).replace("#", " ").replace('"""', " ").split()
    start = draw.randrange(max(1, len(words)))
    return " ".join(words[start : start + length // 6]) + draw.choice(["", ".", "\n", "  "])


def _mixed(draw: random.Random, length: int) -> str:
    kinds = [kind for name, kind in KINDS.items() if name != "mixed"]
    return "".join(draw.choice(kinds)(draw, max(12, length // 8)) for _ in range(8))


KINDS: dict[str, Callable[[random.Random, int], str]] = {
    **{name: _script(name) for name in LETTERS},
    "prose": _prose,
    "code": _code,
    "numbers": _numbers,
    "spaces": _spaces,
    "emoji": _pool(_EMOJI),
    "maths": _pool(_MATHS),
    "control": _pool(_CONTROL),
    "special": _special,
    "mixed": _mixed,
}


def documents(number: int, *, length: int = 600, seed: int = 0) -> list[str]:
    """So many documents, each kind in turn, of about ``length`` characters or a fraction of that."""
    draw, names = random.Random(seed), list(KINDS)
    found: list[str] = []
    for index in counted():
        if len(found) == number:
            return found
        size = max(12, int(length * draw.choice([0.05, 0.3, 1.0, 1.0])))
        found.append(KINDS[names[index % len(names)]](draw, size))
    return found
