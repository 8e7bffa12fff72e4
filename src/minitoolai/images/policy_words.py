"""The vocabulary of the default policy, and the reading of a prompt that sees through disguises.

Words of harm stand here because a refusal has to know them. Every list is of whole words or phrases, never of parts:
`Essex` has no sex in it.
"""

from __future__ import annotations

import re
import unicodedata

#: Refused by themselves, in whatever company.
ALONE = (
    "child porn|child pornography|kiddie porn|kiddy porn|childporn|pedo porn|pedophilia|paedophilia|pedophilic|"
    "paedophilic|lolicon|lolicons|shotacon|shotacons|toddlercon|jailbait|csam|underage sex|underage nude|"
    "preteen sex|child erotica|pthc|pornografia infantil|kinderporno|kinderpornographie|pedopornographie|"
    "cocuk pornosu|pornografi anak"
)

#: People under 18.
MINORS = (
    "child|children|childlike|kid|kids|toddler|toddlers|infant|infants|baby|babies|newborn|newborns|preteen|preteens|"
    "pre teen|pre teens|tween|tweens|teen|teens|teenage|teenaged|teenager|teenagers|underage|underaged|under age|"
    "minor|minors|schoolgirl|schoolgirls|school girl|school girls|schoolboy|schoolboys|school boy|school boys|"
    "schoolchild|schoolchildren|kindergartner|kindergartners|kindergartener|preschooler|preschoolers|"
    "pupil|pupils|middle schooler|elementary schooler|high schooler|high schoolers|"
    "elementary school student|middle school student|high school student|primary school student|"
    "little girl|little girls|little boy|little boys|small girl|small boy|young girl|young girls|young boy|young boys|"
    "tiny girl|preteen girl|prepubescent|pubescent|prepubertal|adolescent|adolescents|juvenile|juveniles|"
    "loli|lolis|lolita|shota|shotas|"
    # pt, es
    "crianca|criancas|menininha|menininho|garotinha|garotinho|menina pequena|menor de idade|menores de idade|"
    "menor de edad|menores de edad|nino|ninos|nina pequena|ninas|ninita|bebe|bebes|adolescente|adolescentes|"
    "colegiala|colegialas|infantil|"
    # de, fr
    "kinder|kleinkind|kleinkinder|kleines madchen|kleine madchen|kleiner junge|schulmadchen|minderjahrige|"
    "minderjahriges|minderjahriger|minderjahrig|nacktes kind|teenagerin|jugendliche|saugling|"
    "enfant|enfants|fillette|fillettes|petite fille|petites filles|garconnet|ecoliere|ecolieres|lyceenne|collegienne|"
    "mineure|mineures|"
    # id, tr
    "anak kecil|anak anak|anak perempuan|anak laki laki|balita|bocah|gadis kecil|di bawah umur|remaja|"
    "cocuk|cocuklar|kiz cocugu|erkek cocugu|kucuk kiz|bebek|ergen|resit olmayan"
)

#: Sex and nakedness.
SEXUAL = (
    "nude|nudes|nudity|naked|nakedness|nsfw|porn|porno|pornographic|pornography|hentai|ecchi|ahegao|erotic|erotica|"
    "eroticism|sexual|sexually|sexualized|sexualised|sexy|sex|sexe|having sex|intercourse|orgasm|orgasming|orgy|"
    "masturbating|masturbation|masturbate|masturbates|fellatio|cunnilingus|blowjob|blow job|handjob|hand job|"
    "deepthroat|creampie|cum|cumming|cumshot|bukkake|gangbang|threesome|penis|penises|vagina|vaginal|vulva|pussy|"
    "dick|cock|genitals|genitalia|nipples|nipple|areola|areolas|boobs|tits|titties|breasts|big breasts|cleavage|"
    "topless|bottomless|unclothed|undressed|undressing|disrobed|disrobing|stripping|striptease|stripper|"
    "without clothes|no clothes|not wearing anything|wearing nothing|without panties|no panties|no underwear|"
    "exposed genitals|spread legs|spread eagle|lingerie|thong|g string|upskirt|cameltoe|camel toe|seductive|"
    "seductively|seduction|seducing|lewd|horny|aroused|arousing|fetish|bdsm|bondage|kinky|rape|raped|raping|molested|"
    "molesting|xxx|r18|x rated|onlyfans|fucking|fucked|fuck|milf|slut|slutty|whore|busty|"
    # pt, es
    "nua|nuas|pelada|pelado|peladas|nudez|desnuda|desnudo|desnudas|desnudos|sexo|sexual explicito|erotico|erotica|"
    "pornografia|pornografico|sem roupa|sin ropa|"
    # de, fr
    "nackt|nackte|nackter|nacktes|nacktheit|erotisch|sexuell|pornografisch|nackig|ohne kleidung|"
    "nue|nues|denudee|denude|erotique|sexuel|sexuelle|pornographique|sans vetements|"
    # id, tr
    "telanjang|bugil|porno anak|seks|cabul|mesum|erotis|"
    "ciplak|cinsel|erotik|mustehcen|porno"
)

#: What is innocent although a word in it is not; taken out before anything is looked for.
INNOCENT = (
    "naked mole rat|naked mole rats|naked eye|naked oat|buck naked pork|naked cake|naked bike|"
    "nude lipstick|nude color|nude colour|nude colors|nude colours|nude tone|nude tones|nude heels|nude makeup|"
    "nude pumps|nude shoes|nude shade|nude nails|nude nail polish|"
    "same sex|sex education|sex ed|opposite sex|sex of the baby|gender reveal|"
    "baby doll lingerie|babydoll lingerie|babydoll dress|baby doll dress|baby oil|baby blue|baby pink|sugar baby|"
    "sugar babies|baby fat|baby hair|baby hairs|baby shower|baby face|baby tee|kid leather|kid gloves|"
    "child of the|inner child|minor key|c minor|a minor chord|ursa minor|asia minor|canis minor|minor details|"
    "minor detail|minor chord|minor scale|d minor|e minor|g minor|minor imperfections|minor flaws|"
    "eye pupil|eye pupils|dilated pupils|dilated pupil|detailed pupils|round pupils|slit pupils|bright pupils|"
    "pupils of the eyes|pupils of her eyes|pupil of her eye|black pupils|visible pupils|heart shaped pupils|"
    "bottle nipple|bottle nipples|summa cum laude|magna cum laude|cum laude|chicken breasts|duck breasts|"
    "turkey breasts|robin breasts|cock crow|weather cock|game cock|cock of the walk|moby dick|dick tracy|"
    "spotted dick|dick van dyke|pussy willow|pussy willows|pussy cat|pussycat|great tits|blue tits|coal tits|"
    "great tit|blue tit|willow tits|g string guitar|bondage of|strip mall|goat kid|goat kids|kid goat|"
    "kid goats|baby goat|baby goats|"
    "gothic lolita dress|gothic lolita|sweet lolita|classic lolita|lolita fashion|lolita dress|billie the kid|"
    "billy the kid|sundance kid|karate kid|non nude|non sexual|adults only|kids menu|x rated movie sign|"
    "bebe rexha|il nino|el nino|la nina"
)

#: Somebody says what should not be there. Only words right after it are meant.
NEGATIONS = r"(?:no|not|non|never|without|zero|free of|avoid|sem|sin|sans|ohne|kein|keine|tanpa|pas de)"

#: In a negative prompt: asking for clothes to go away.
CLOTHES = "clothes|clothing|clothed|dressed|dress|shirt|pants|underwear|outfit|garment|garments|bra|panties|swimsuit"

#: Things that are some years old without being somebody.
_THINGS = (
    "whisky|whiskey|scotch|bourbon|rum|wine|port|cognac|brandy|cheese|car|house|home|building|tree|oak|dog|cat|horse|"
    "mare|stallion|pony|company|marriage|relationship|tradition|photo|photograph|laptop|phone|computer"
)
_NUMBERS = (
    "one|two|three|four|five|six|seven|eight|nine|ten|eleven|twelve|thirteen|fourteen|fifteen|sixteen|seventeen|"
    "1[0-7]|0?[1-9]"
)
_YEARS = r"(?:years?|yrs?|y|anos|ans|jahre|jahriges?|jahriger?|yasinda|tahun)"
#: `14 year old`, `aged twelve`, `15yo`; not `14 year old whisky`, not `114 years`.
AGES = re.compile(
    rf"\b(?:{_NUMBERS}) ?{_YEARS} ?(?:of age|old|o|olds)\b(?! (?:{_THINGS})\b)"
    rf"|\b(?:{_NUMBERS}) ?years? (?:girl|girls|boy|boys)\b"
    rf"|\b(?:{_NUMBERS}) ?yo\b|\b(?:{_NUMBERS}) y o\b"
    rf"|\b(?:age|aged|ages) (?:of )?(?:{_NUMBERS})\b(?! (?:{_THINGS}|years (?:in|ago))\b)"
    rf"|\b(?:{_NUMBERS}) (?:anos|ans|jahre alt|jahriges|jahriger|jahrige|yasinda|tahun)\b(?! (?:{_THINGS})\b)"
)

#: Letters of other alphabets that pass for ours.
_LOOKALIKES = str.maketrans("асеіјорѕухкмтнԁɡıⅼαονρτ", "aceijopsyxkmthdgilaovpt")
_DIGITS = str.maketrans("013457@$!", "oieastasi")
#: l o l i, n-u-d-e
_SPELLED = re.compile(r"\b[a-z]([ ._*-])[a-z](?:\1[a-z])+\b")
_DISGUISED = re.compile(r"[^\W_]*[013457@$!][a-z@$!0-9]*", re.ASCII)


def words_of(text: str) -> str:
    """The words in lower case with one space between them: no accents, weights, punctuation or disguises."""
    plain = unicodedata.normalize("NFKD", text).casefold().translate(_LOOKALIKES)
    plain = "".join(c for c in plain if not unicodedata.combining(c) and unicodedata.category(c) != "Cf")
    plain = plain.replace("ß", "ss")
    # A prompt's weights: (word:1.2), [word], {word}.
    plain = re.sub(r":\s*[0-9]*\.?[0-9]+\s*(?=[)\]}>])", " ", plain)
    plain = re.sub(r"\S+", lambda match: _undisguised(match[0]), plain)
    plain = _SPELLED.sub(lambda match: match[0].replace(match[1], ""), plain)
    plain = re.sub(r"[\W_]+", " ", plain)
    return " ".join(plain.split())


def _undisguised(word: str) -> str:
    """`n4k3d` as `naked`; `14yo`, `18+` and `4k` stay what they are."""
    return _DISGUISED.sub(lambda match: _letters(match[0]), word)


def _letters(token: str) -> str:
    letters = sum(c.isalpha() for c in token)
    if letters < 2 or (token[0].isdigit() and re.fullmatch(r"[0-9]+[a-z]+", token)):
        return token
    return token.translate(_DIGITS)


def any_of(words: str) -> re.Pattern[str]:
    """Finds one of these whole words or phrases."""
    return re.compile(rf"\b(?:{words})\b")
