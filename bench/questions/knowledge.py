"""Facts, arithmetic and seven languages: a question is answered if its answer has one of the expected words."""

from __future__ import annotations

import re
from typing import NamedTuple


class Question(NamedTuple):
    """A question, and a regular expression that a right answer matches, whatever its case."""

    kind: str
    text: str
    expected: str

    def is_right(self, answer: str) -> bool:
        """Return True if the answer is right."""
        return re.search(self.expected, answer.replace(",", ""), re.IGNORECASE) is not None


FACTS = [
    Question("facts", text, expected)
    for text, expected in (
        ("What is the largest U.S. state by area? One sentence.", r"alaska"),
        ("Which planet of our solar system has the largest mass? One sentence.", r"jupiter"),
        ("Who wrote the play Hamlet? One sentence.", r"shakespeare"),
        ("What is the chemical symbol of gold? One sentence.", r"\bAu\b"),
        ("In which year did the Berlin Wall fall? One sentence.", r"1989"),
        ("What is the capital of Australia? One sentence.", r"canberra"),
        ("Which gas do plants take from the air for photosynthesis? One sentence.", r"carbon dioxide|CO2|CO₂"),
        ("How many bits does a byte have? One sentence.", r"\b8\b|eight"),
        ("On which continent is Egypt? One sentence.", r"africa"),
        ("Which ocean lies between Europe and North America? One sentence.", r"atlantic"),
        ("At how many degrees Celsius does water boil at sea level? One sentence.", r"\b100\b|hundred"),
        ("Who painted the Mona Lisa? One sentence.", r"leonardo|vinci"),
        ("Which language has the most native speakers in Brazil? One sentence.", r"portuguese"),
        ("What does HTTP stand for? One sentence.", r"hypertext transfer protocol"),
    )
]

ARITHMETIC = [
    Question("arithmetic", f"{text} Answer with the number only.", rf"(?<![\d.]){expected}(?![\d]|\.\d)")
    for text, expected in (
        ("What is 17 + 26?", "43"),
        ("What is 84 - 39?", "45"),
        ("What is 12 * 9?", "108"),
        ("What is 144 / 12?", "12"),
        ("What is 15 % of 200?", "30"),
        ("What is 2 to the power of 10?", "1024"),
        ("What is the square root of 81?", "9"),
        ("A pen costs 3 dollars. What do 7 pens cost in dollars?", "21"),
        ("A train travels 60 km per hour. How many km does it travel in 3 hours?", "180"),
        ("What is 1000 - 250 + 50?", "800"),
    )
]

LANGUAGES = [
    Question("languages", text, expected)
    for text, expected in (
        ("Translate to German, nothing else: The house is big.", r"das haus ist (groß|gross)"),
        ("Wie heißt die Hauptstadt von Österreich? Antworte in einem Satz.", r"wien"),
        ("Was ist das Gegenteil von „kalt“? Antworte mit einem Wort.", r"warm|heiß"),
        ("Translate to French, nothing else: Good morning, my friend.", r"bonjour.*\bami"),
        ("Quelle est la capitale de l'Italie ? Réponds en une phrase.", r"rome"),
        ("Combien de jours y a-t-il dans une semaine ? Réponds en une phrase.", r"\b7\b|sept"),
        ("Translate to Spanish, nothing else: The red car.", r"(coche|carro|auto) rojo"),
        ("¿Cuál es la capital de Francia? Responde en una frase.", r"par[ií]s"),
        ("¿De qué color es la nieve? Responde en una frase.", r"blanc[ao]"),
        ("Translate to Portuguese, nothing else: Thank you very much.", r"muito obrigad[ao]|obrigad[ao] muito"),
        ("Qual é a capital de Portugal? Responde numa frase.", r"lisboa"),
        ("Quantos meses tem um ano? Responde numa frase.", r"\b12\b|doze"),
        ("Translate to Indonesian, nothing else: I eat rice.", r"(saya|aku) (makan|memakan) nasi"),
        ("Apa ibu kota Jepang? Jawab dalam satu kalimat.", r"tokyo"),
        ("Apa warna langit yang cerah? Jawab dalam satu kalimat.", r"biru"),
        ("Translate to Turkish, nothing else: Good evening.", r"iyi akşamlar"),
        ("Türkiye'nin başkenti neresidir? Bir cümleyle yanıtla.", r"ankara"),
        ("Bir yılda kaç ay vardır? Bir cümleyle yanıtla.", r"\b12\b|on iki"),
        ("Which language is this sentence in? 'Selamat pagi, apa kabar?' One sentence.", r"indonesian|malay"),
        ("Which language is this sentence in? 'Obrigado pela ajuda.' One sentence.", r"portuguese"),
        ("Translate to English, nothing else: Ich habe Hunger.", r"i('m| am) hungry|have hunger"),
    )
]

KNOWLEDGE = [*FACTS, *ARITHMETIC, *LANGUAGES]
