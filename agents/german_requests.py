"""Translate a plain German request into the English that intent_parser.py reads: "markiere die rote Tasse", "nein, der andere".

By tables, without a model. An expression with a word that is in no table stays German, so that a model that knows German reads
it as it was written.
"""

import re
from functools import cache

from sam4mllm_tool.agents.german_nouns import is_noun, translate_noun

__all__ = ["translate_german"]

_NP = r"(?P<what>.+?)"
_ME = r"(?: (?:mir|uns|bitte|mal|doch|jetzt|nun|hier|da)(?= ))*"
_PRONOUN = r"(?:er|sie|es|das|dies(?:er|e|es)?|ihn)"
_POLITE = re.compile(
    r"^(?:(?:bitte|und|jetzt|nun|dann|ok|okay|gut|super|also|hallo|danke|mal)\b[\s,!.]*)+|[\s,]*\b(?:bitte|danke|mal)\b[\s.!?]*$"
    r"|[\s.!?]+$|[\s,]*\b(?:auf|in|aus) (?:dem|diesem) (?:bild|foto)\b",
    re.IGNORECASE,
)
_PATTERNS: tuple[tuple[str, str], ...] = (
    # requests
    (rf"(?:schneide?|stelle?|extrahiere?){_ME} {_NP} (?:aus|heraus|frei)", "cut out {}"),
    (rf"(?:kannst du|könntest du|können sie|ich (?:will|möchte)|würdest du){_ME} {_NP} (?:aus|heraus)schneiden", "cut out {}"),
    (rf"(?:kannst du|könntest du|können sie|ich (?:will|möchte)){_ME} {_NP} freistellen", "cut out {}"),
    (
        rf"(?:kannst du|könntest du|können sie|würdest du|ich (?:will|möchte|suche|brauche)){_ME} {_NP}"
        r"(?: (?:finden|markieren|zeigen|suchen|segmentieren|auswählen|maskieren|hervorheben|sehen))?",
        "segment {}",
    ),
    (rf"wähle?{_ME} {_NP} aus|hebe?{_ME} (?P<what2>.+?) hervor", "segment {}"),
    (
        r"(?:segmentiere?|markiere?|zeige?|finde|find(?= (?:mir|den|das|alle)\b)|suche?|"
        r"maskiere?|umrande|lokalisiere?|kreise?|nimm)"
        rf"{_ME} (?!(?:nur)\b){_NP}(?: an| ein)?",
        "segment {}",
    ),
    (rf"wo (?:ist|sind|liegt|liegen|steht|befindet sich|befinden sich){_ME} {_NP}", "where is {}"),
    # questions
    (r"wie ?viele?(?: (?:gibt es|sind es|sind das|siehst du))?|zähle?(?: sie)?", "how many"),
    (
        rf"wie ?viele? {_NP}(?: (?:gibt es|siehst du|sind(?: das| da| es| dort| hier| zu sehen| darauf)?|hat es|sieht man))?"
        r"(?: hier| da)?",
        "how many {}",
    ),
    (rf"zähle?{_ME} {_NP}", "how many {}"),
    (rf"wie gro(?:ß|ss) (?:ist|sind) {_PRONOUN}", "how big is it"),
    (rf"wie gro(?:ß|ss) (?:ist|sind) {_NP}", "how big is {}"),
    (r"wie gro(?:ß|ss)", "how big is it"),
    (r"was (?:ist|sind|siehst du) (?:das|dies|da|hier)(?: (?:da|hier|denn))?", "what is this"),
    (r"was siehst du|beschreibe?(?: (?:es|das|ihn|sie))?", "what is this"),
    (rf"(?:gibt es|siehst du|ist da|sind da)(?: hier| da)? {_NP}", "is there {}"),
    # corrections
    (rf"(?:zeige?|markiere?|nimm){_ME} nur(?: noch)? {_NP}", "only {}"),
    (r"(?:nein|nee|ne|nicht (?:das|der|die|den|dies\w*))", "no"),
    (
        r"(?:(?:nein|nee|nicht (?:das|der|die|den|dies\w*))\W+)?(?:sondern )?"
        r"(?:d(?:er|ie|as|en)|ein(?:en|e|er)?) andere[nrsm]?",
        "no, the other one",
    ),
    (r"(?:und |auch )+(?:d(?:er|ie|as|en)) anderen?|(?:d(?:er|ie|as|en)) anderen? (?:auch|dazu)", "the others too"),
    (r"(?:alle )?beide?", "both"),
    (r"alle|alle davon", "all of them"),
    (rf"(?:lass|lasse|nimm){_ME} {_NP} (?:weg|raus|heraus|aus)", "remove {}"),
    (rf"(?:entferne?|lösche?|streiche?){_ME} {_NP}", "remove {}"),
    (rf"(?:aber )?(?:ohne|außer|ausser) {_NP}", "without {}"),
    (rf"(?:nur|behalte?(?: nur)?|nur noch) {_NP}", "only {}"),
    (rf"(?:füge?|nimm){_ME} (?:auch )?{_NP} (?:hinzu|dazu)", "also {}"),
    (rf"(?:und )?(?:auch|dazu|zusätzlich|noch|außerdem)(?: noch)? {_NP}|(?P<what2>.+) (?:auch(?: noch)?|dazu)", "also {}"),
    (r"(?:mach es |mache es )?(?:grö(?:ß|ss)er)|zu klein|mehr(?: davon)?", "bigger"),
    (r"(?:mach es |mache es )?kleiner|zu gro(?:ß|ss)|weniger", "smaller"),
    (r"(?:nein\W+)?(?:d(?:er|ie|as|en)) (?:vorherige|vorige|davor)[nrs]?", "the one before"),
    (rf"(?:nein|nee)\W+(?:ich meine? )?{_NP}", "no, {}"),
    # clicks and commands
    (r"klicke?(?: auf)? (?P<numbers>\(?\d[\d\s,.()]*)(?P<off> (?:daneben|nicht|aus|weg|gehört nicht dazu))?", "click"),
    (r"hilfe", "help"),
    (r"rückgängig(?: machen)?|mach(?:e)? (?:das|es) rückgängig|zurück", "undo"),
    (r"speicher[en]?(?: (?:es|das|ab))?|sichern?", "save"),
    (r"ende|beenden|tschüss?|auf wiedersehen|schluss", "quit"),
    (r"danke(?: schön| sehr)?|vielen dank", "thanks"),
    (r"hallo|guten (?:tag|morgen|abend)|moin|servus", "hello"),
)  # fmt: skip
_WORDS = {
    "und": "and", "oder": "or", "aber": "but", "nicht": "not", "außer": "except", "ausser": "except", "ohne": "without",
    "von": "of", "vom": "of the", "über": "above", "unter": "below", "neben": "next to", "zwischen": "between", "in": "in",
    "im": "in the", "mit": "with", "ganz": "", "beide": "both", "beiden": "both", "alles": "everything", "nur": "only",
    "am": "", "weitesten": "furthest", "oben": "top", "unten": "bottom", "links": "left", "rechts": "right", "auch": "also",
    "auf": "on", "darin": "in it", "darauf": "on it", "hinter": "behind", "vor": "in front of", "um": "around",
    "eins": "one", "zwei": "two", "drei": "three", "vier": "four", "fünf": "five", "ist": "is", "nummer": "number",
}  # fmt: skip
_PHRASES = (
    (r"(?:ganz|am weitesten) (links|rechts|oben|unten)", r"furthest-\1"),
    (r"links (?:von|neben)\b", "left-of"),
    (r"links vom\b", "left-of-the"),
    (r"rechts (?:von|neben)\b", "right-of"),
    (r"rechts vom\b", "right-of-the"),
    (r"(?:oberhalb|überhalb) von\b", "above"),
    (r"(?:oberhalb|überhalb) (?:vom|des|der)\b", "above-the"),
    (r"unterhalb von\b", "below"),
    (r"unterhalb (?:vom|des|der)\b", "below-the"),
    (r"von (links|rechts|oben|unten)\b", r"from-\1"),
)
_PLACES = {"links": "the left", "rechts": "the right", "oben": "the top", "unten": "the bottom"}
_ARTICLES = {
    "d": ("the", "er ie as en em es"), "ein": ("a", " e en er em es"), "all": ("all", "e en er"),
    "jed": ("every", "er e es en em"), "kein": ("no", " e en er"), "dies": ("this", "er e es en em"),
}  # fmt: skip
_ADJECTIVES = {
    "rot": "red", "grün": "green", "blau": "blue", "gelb": "yellow", "lila": "purple", "violett": "purple", "orange": "orange",
    "orangen": "orange", "türkis": "cyan", "cyan": "cyan", "weiß": "white", "weiss": "white", "schwarz": "black",
    "braun": "brown", "rosa": "pink", "pink": "pink", "gestreift": "striped", "gepunktet": "dotted",
    "klein": "small", "groß": "large", "gross": "large", "kleinst": "smallest", "größt": "largest", "link": "left",
    "recht": "right", "ober": "top", "oberst": "topmost", "unter": "bottom", "unterst": "bottommost", "mittler": "middle",
    "ander": "other", "erst": "first", "zweit": "second", "dritt": "third", "viert": "fourth", "fünft": "fifth",
    "letzt": "last",
}  # fmt: skip
_SEVERAL = {"alle", "allen", "aller", "beide", "beiden", "die", "zwei", "drei", "vier", "fünf"}
"""Words before a noun that ask for several; "die" does where the noun alone leaves it open, as none of those is feminine."""
_GENITIVES = {"der": "of the", "des": "of the", "eines": "of a", "einer": "of a"}
"""Articles after a noun: "der Henkel der Tasse"."""
_ALONE = {"first", "second", "third", "fourth", "fifth", "last"}
"""Words that need no noun in English: "the second"."""
_ENDINGS = ("", "e", "en", "er", "es", "em")
_MAX_LENGTH = 200


def translate_german(text: str) -> str | None:
    """Return the English for a plain German request, correction, question or command; None for any other message."""
    words = " ".join(text.split())
    if len(words) > _MAX_LENGTH:
        return None
    while (shorter := _POLITE.sub("", words).strip()) and shorter != words:
        words = shorter
    for pattern, template in _compile_patterns():
        if match := pattern.fullmatch(words):
            return _fill(template, match)
    return (
        _translate_expression(words)
        if re.match(r"(?:d(?:er|ie|as|en)|alles?|jede[rsn]?|ein(?:en|e)?)\s", words, re.I)
        else None
    )


@cache
def _compile_patterns() -> list[tuple[re.Pattern[str], str]]:
    return [(re.compile(pattern, re.IGNORECASE), template) for pattern, template in _PATTERNS]


def _fill(template: str, match: re.Match[str]) -> str | None:
    groups = match.groupdict()
    if template == "click":
        return f"click {groups['numbers'].strip()}{' off' if groups['off'] else ''}"
    what = groups.get("what") or groups.get("what2") or ""
    if "{}" not in template:
        return template
    if re.fullmatch(r"ihn|sie|es|das|dies\w*|mich|dich|mir|dir", what, re.IGNORECASE):
        return "cut it out" if template == "cut out {}" else template.format("it")
    expression = _translate_expression(what, means_several=template == "how many {}")
    if expression is None and not template.startswith(("segment", "cut out", "where is", "is there", "how ")):
        return None  # "auch wenn es regnet"
    return template.format(expression or what)


def _translate_expression(text: str, *, means_several: bool = False) -> str | None:
    """Return the English expression; None where a word of it is not known. Without an article its noun may mean several."""
    phrase = text.lower()
    for pattern, replacement in _PHRASES:
        phrase = re.sub(rf"\b{pattern}", replacement, phrase)
    words: list[str] = []
    german = re.findall(r"[\w-]+|,", phrase)
    for index, word in enumerate(german):
        is_genitive = word in _GENITIVES and index > 0 and is_noun(german[index - 1])
        several = (means_several and not words) or not _SEVERAL.isdisjoint(german[max(0, index - 2) : index])
        translated = _GENITIVES[word] if is_genitive else _translate_word(word, means_several=several)
        if translated is None:
            return None
        words.append(translated)
        following = german[index + 1] if index + 1 < len(german) else ""
        if _adjective(word) and translated not in _ALONE and not (_adjective(following) or is_noun(following)):
            words.append("one")
    english = " ".join(filter(None, words)).replace(" ,", ",")
    english = re.sub(r"\ba other\b", "another", english)
    return re.sub(r"\beverything (\w+) one\b", r"everything \1", english) or None


def _translate_word(word: str, *, means_several: bool) -> str | None:
    if re.fullmatch(r"\d+\.?|,", word):
        return word
    if match := re.fullmatch(r"(furthest|from)-(\w+)", word):
        return f"furthest to {_PLACES[match[2]]}" if match[1] == "furthest" else f"from {_PLACES[match[2]]}"
    if re.fullmatch(r"(?:left|right)-of(?:-the)?|(?:above|below)(?:-the)?", word):
        return word.replace("-", " ")
    for stem, (english, endings) in _ARTICLES.items():
        if word in {stem + ending for ending in endings.split(" ")} and word != "d":
            return english
    return _WORDS.get(word) if word in _WORDS else _adjective(word) or translate_noun(word, means_several=means_several)


def _adjective(word: str) -> str | None:
    """Return the English for an adjective with any ending; None for any other word."""
    if word in _WORDS:
        return None
    return next(
        (
            _ADJECTIVES[stem]
            for ending in _ENDINGS
            if word.endswith(ending) and (stem := word.removesuffix(ending)) in _ADJECTIVES
        ),
        None,
    )
