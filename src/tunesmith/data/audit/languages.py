"""Which language a text is in, as far as a file's mixture needs it: by script, then by common words.

Enough to find the German rows of an English file; no substitute for a language identifier.
"""

import re

_SCRIPTS = (
    ("ja", re.compile("[\u3040-\u30ff]")),  # before Han, which Japanese uses too
    ("ko", re.compile("[\uac00-\ud7af]")),
    ("zh", re.compile("[\u3400-\u9fff]")),
    ("cyrillic", re.compile("[\u0400-\u04ff]")),
    ("arabic", re.compile("[\u0600-\u06ff]")),
    ("hebrew", re.compile("[\u0590-\u05ff]")),
    ("hindi", re.compile("[\u0900-\u097f]")),
    ("thai", re.compile("[\u0e00-\u0e7f]")),
    ("greek", re.compile("[\u0370-\u03ff]")),
)
_COMMON_WORDS = {
    "en": "a the of and is in it that was for on with as are this you be have not or by from at i we will "
    "which what how your can has an do does my they their there would should please",
    "de": "der die das und ist nicht ein eine mit von den dem des im auf für sich es ich sie wir zu auch wie "
    "war bei oder nach einen einer haben wird sind aber kann was mein meine wo wann unser ihr ihre wenn dass "
    "hat noch nur bitte mir",
    "fr": "le la les des et est une un du que qui dans pour pas sur avec ce il elle nous vous au aux par "
    "sont cette je mais ou être votre quel quelle mon ma mes où quand puis nos leur ses été fait tout comme",
    "es": "el la los las y es una un del que en por con para no se su al lo como más pero sus le este esta "
    "son muy qué cómo usted está mi dónde cuándo puedo otra vez hay ya todo porque fue tiene hasta desde",
    "it": "il lo la gli le e è un una del della che di non con si sono come più ma nel alla dei anche "
    "questo questa ho ha quale dove mio mia quando sarà suo dal nostro posso che ci cosa perché fare deve "
    "devo molto tutto altro senza adesso ed",
    "pt": "o e os é um uma da que em para não com se por mais como mas dos das na ao são foi você qual está "
    "isso pelo sua seu minha meu posso outra vez devo fazer agora nós sem à",
    "nl": "de het een en is van dat niet op te zijn met voor er aan ook als maar om dan bij nog naar deze "
    "dit ik je wij hoe mijn waar wanneer kunt uw",
}
_LANGUAGES_OF = {
    word: tuple(name for name, words in _COMMON_WORDS.items() if word in words.split())
    for words in _COMMON_WORDS.values()
    for word in words.split()
}
_LOOKED_AT_CHARACTERS = 300
_LEAST_SCORE = 1.5  # two words, of which one is not shared with another language
_MARGIN = 1.6
_SCRIPT_SHARE = 0.3  # of the letters; a foreign name in a text is no other language


def language_of(text: str) -> str | None:
    """Code of a language (`en`), or of a script where one is all that is told (`cyrillic`); None if unclear.

    Args:
        text: the first 300 characters are looked at.
    """
    start = text[:_LOOKED_AT_CHARACTERS]
    if not start.isascii():
        letters = sum(map(str.isalpha, start))
        for name, script in _SCRIPTS:
            if len(script.findall(start)) > _SCRIPT_SHARE * letters > 0:
                return name
    return _by_common_words(start.lower().split())


def _by_common_words(words: list[str]) -> str | None:
    scores: dict[str, float] = {}
    for names in filter(None, map(_LANGUAGES_OF.get, words)):
        # A word of several languages tells less.
        weight = 1 / len(names)
        for name in names:
            scores[name] = scores.get(name, 0.0) + weight
    ranked = sorted(scores.items(), key=lambda pair: -pair[1])[:2]
    if not ranked:
        return None
    second = ranked[1][1] if len(ranked) > 1 else 0.0
    best, score = ranked[0]
    return best if score >= _LEAST_SCORE and score >= _MARGIN * second else None
