"""Texts of many kinds for tests of counting: prose in nine languages, code, JSON, tool arguments, digits and more.

Written for this project and put together at random, but the same for the same seed.
"""

from __future__ import annotations

import base64
import json
import random
from collections.abc import Callable

SENTENCES = {
    "en": (
        "The harbour was quiet when the last ferry came in.",
        "Nobody expected the report to be finished before Thursday.",
        "She counted the apples twice and wrote the number on the door.",
        "A committee was established to investigate the administrative irregularities.",
        "If it rains tomorrow, we will meet in the old library instead.",
    ),
    "de": (
        "Der Hafen war still, als die letzte Fähre einlief.",
        "Die Wiederaufnahme des Genehmigungsverfahrens verzögert sich voraussichtlich.",
        "Sie zählte die Äpfel zweimal und schrieb die Zahl an die Tür.",
        "Wenn es morgen regnet, treffen wir uns in der alten Bücherei.",
    ),
    "fr": (
        "Le port était calme quand le dernier bac est arrivé.",
        "Personne ne pensait que le rapport serait prêt avant jeudi.",
        "Elle a compté les pommes deux fois et noté le nombre sur la porte.",
        "S'il pleut demain, nous nous verrons dans l'ancienne bibliothèque.",
    ),
    "es": (
        "El puerto estaba tranquilo cuando llegó el último barco.",
        "Nadie esperaba que el informe estuviera listo antes del jueves.",
        "Contó las manzanas dos veces y apuntó el número en la puerta.",
    ),
    "tr": (
        "Son vapur geldiğinde liman çok sessizdi.",
        "Kimse raporun perşembeden önce biteceğini düşünmüyordu.",
        "Elmaları iki kez saydı ve sayıyı kapıya yazdı.",
    ),
    "ru": (
        "В порту было тихо, когда пришёл последний паром.",
        "Никто не ожидал, что отчёт будет готов до четверга.",
        "Она дважды пересчитала яблоки и записала число на двери.",
    ),
    "zh": (
        "最后一班渡轮到达时，港口很安静。",
        "没有人想到报告会在星期四之前完成。",
        "她把苹果数了两遍，把数字写在门上。",
    ),
    "ja": (
        "最後のフェリーが着いたとき、港は静かだった。",
        "木曜日までに報告書ができるとは誰も思っていなかった。",
        "彼女はりんごを二度数えて、その数をドアに書いた。",
    ),
    "ar": (
        "كان الميناء هادئا عندما وصلت العبارة الأخيرة.",
        "لم يتوقع أحد أن ينتهي التقرير قبل يوم الخميس.",
        "عدت التفاح مرتين وكتبت الرقم على الباب.",
    ),
}
LINES = (
    "def total(rows: list[int]) -> int:",
    "    return sum(row for row in rows if row > 0)",
    "for (let i = 0; i < items.length; i++) {",
    "  console.log(`${items[i].name}: ${items[i].price.toFixed(2)}`);",
    "SELECT id, name FROM customers WHERE created_at > now() - interval '7 days';",
    'if err != nil { return fmt.Errorf("open %s: %w", path, err) }',
    "",
)
EMOJI = "😀🎉👍🏽🇩🇪👩‍👩‍👧🌋🍎🚀❤️✨"


def _until(size: int, draw: random.Random, piece: Callable[[], str], joint: str = " ") -> str:
    parts: list[str] = []
    length = 0
    while length < size:
        parts.append(piece())
        length += len((parts[-1] + joint).encode())
    return joint.join(parts)


def prose(language: str, size: int, draw: random.Random) -> str:
    """Return sentences in this language, of about `size` bytes."""
    return _until(size, draw, lambda: draw.choice(SENTENCES[language]))


def code(size: int, draw: random.Random) -> str:
    """Return lines of code."""
    return _until(size, draw, lambda: draw.choice(LINES), "\n")


def records(size: int, draw: random.Random) -> str:
    """Return a JSON document."""

    def record() -> dict[str, object]:
        return {"id": draw.randrange(10**6), "name": draw.choice(("pear", "plum", "fig")), "ok": draw.random() < 0.5}

    rows: list[dict[str, object]] = []
    while len(json.dumps(rows)) < size:
        rows.append(record())
    return json.dumps(rows, indent=draw.choice((None, 2)))


def arguments(size: int, draw: random.Random) -> str:
    """Return the arguments of a tool call."""
    query = prose("en", max(1, size - 60), draw)
    return json.dumps({"query": query, "limit": draw.randrange(50), "tags": ["a", "b"]}, separators=(",", ":"))


def digits(size: int, draw: random.Random) -> str:
    """Return numbers."""
    return _until(size, draw, lambda: str(draw.randrange(10 ** draw.randint(1, 12))))


def noise(size: int, draw: random.Random) -> str:
    """Return random bytes in base64."""
    return base64.b64encode(draw.randbytes(size * 3 // 4)).decode()


def emoji(size: int, draw: random.Random) -> str:
    """Return emoji between words."""
    return _until(size, draw, lambda: draw.choice(("yes", "so", draw.choice(EMOJI), draw.choice(EMOJI))))


KINDS: dict[str, Callable[[int, random.Random], str]] = {
    **{name: lambda size, draw, name=name: prose(name, size, draw) for name in SENTENCES},  # type: ignore[misc]
    "code": code,
    "json": records,
    "arguments": arguments,
    "digits": digits,
    "base64": noise,
    "emoji": emoji,
}


def corpus() -> dict[str, str]:
    """Return sixty texts of 200 to 20,000 bytes."""
    draw = random.Random(60)
    return {f"{kind}-{size}": make(size, draw) for kind, make in KINDS.items() for size in (300, 1000, 5000, 19_000)}
