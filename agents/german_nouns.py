"""German nouns for things that are often in pictures, for their parts and for plain shapes, with the English for each."""

from functools import cache

__all__ = ["is_noun", "translate_noun"]

_NOUNS = """
    apple apples: apfel - äpfel äpfeln; ball balls: ball - bälle bällen;
    balloon balloons: luftballon ballon - luftballons ballons; banana bananas: banane - bananen;
    basket baskets: korb - körbe körben; bicycle bicycles: fahrrad - fahrräder fahrrädern; bird birds: vogel - vögel vögeln;
    boat boats: boot - boote booten; book books: buch - bücher büchern; bottle bottles: flasche - flaschen;
    bus buses: bus - busse bussen; butterfly butterflies: schmetterling - schmetterlinge schmetterlingen;
    cactus cacti: kaktus - kakteen; candle candles: kerze - kerzen; car cars: auto wagen - autos wagen;
    carrot carrots: karotte möhre - karotten möhren; cat cats: katze - katzen; chair chairs: stuhl - stühle stühlen;
    clock clocks: uhr - uhren; cloud clouds: wolke - wolken; donut donuts: donut - donuts; drum drums: trommel - trommeln;
    fish fish: fisch - fische fischen; flower flowers: blume - blumen; fork forks: gabel - gabeln;
    glass glasses: glas - gläser gläsern; guitar guitars: gitarre - gitarren; hammer hammers: hammer - hämmer hämmern;
    hat hats: hut - hüte hüten; hoop hoops: reifen - reifen; house houses: haus - häuser häusern;
    ice cream, ice creams: eis - eis; key keys: schlüssel - schlüssel schlüsseln; kite kites: drachen - drachen;
    knife knives: messer - messer messern; ladder ladders: leiter - leitern; lamp lamps: lampe - lampen;
    lock locks: schloss - schlösser schlössern; moon moons: mond - monde monden;
    mug mugs: becher tasse - becher bechern tassen; mushroom mushrooms: pilz - pilze pilzen;
    pair of glasses, pairs of glasses: brille - brillen; pair of scissors, pairs of scissors: schere - scheren;
    pair of trousers, pairs of trousers: hose - hosen; pear pears: birne - birnen;
    pencil pencils: bleistift stift - bleistifte bleistiften stifte stiften;
    picture frame, picture frames: bilderrahmen - bilderrahmen;
    pizza slice, pizza slices: pizzastück - pizzastücke pizzastücken; plane planes: flugzeug - flugzeuge flugzeugen;
    plate plates: teller - teller tellern; pumpkin pumpkins: kürbis - kürbisse kürbissen; shirt shirts: hemd - hemden;
    shoe shoes: schuh - schuhe schuhen; snail snails: schnecke - schnecken; spoon spoons: löffel - löffel löffeln;
    sun suns: sonne - sonnen; table tables: tisch - tische tischen; teapot teapots: teekanne kanne - teekannen kannen;
    tree trees: baum - bäume bäumen; umbrella umbrellas: regenschirm schirm - regenschirme regenschirmen schirme schirmen;
    window windows: fenster - fenster fenstern; person people: person mensch - personen menschen;
    man men: mann - männer männern; woman women: frau - frauen; child children: kind - kinder kindern;
    dog dogs: hund - hunde hunden; horse horses: pferd - pferde pferden; laptop laptops: laptop - laptops;
    phone phones: telefon handy - telefone telefonen handys; bag bags: tasche - taschen;

    blade blades: klinge - klingen; door doors: tür - türen; frame frames: rahmen - rahmen;
    handle handles: griff henkel - griffe griffen henkel henkeln; hole holes: loch - löcher löchern;
    leaf leaves: blatt - blätter blättern; leg legs: bein - beine beinen; lid lids: deckel - deckel deckeln;
    mast masts: mast - masten; petal petals: blütenblatt - blütenblätter blütenblättern; roof roofs: dach - dächer dächern;
    sail sails: segel - segel segeln; seat seats: sitz - sitze sitzen; spout spouts: tülle - tüllen;
    stem stems: stiel - stiele stielen; tail tails: schwanz - schwänze schwänzen; trunk trunks: stamm - stämme stämmen;
    wheel wheels: rad - räder rädern; wing wings: flügel - flügel flügeln;

    circle circles: kreis scheibe - kreise kreisen scheiben;
    square squares: quadrat viereck - quadrate quadraten vierecke vierecken;
    triangle triangles: dreieck - dreiecke dreiecken; star stars: stern - sterne sternen; ring rings: ring - ringe ringen;
    cross crosses: kreuz - kreuze kreuzen;
    crescent crescents: halbmond mondsichel sichel - halbmonde halbmonden mondsicheln sicheln; heart hearts: herz - herzen;
    shape shapes: form figur objekt - formen figuren objekte objekten
"""
"""English singular and plural, German singulars, German plurals."""


def is_noun(word: str) -> bool:
    """Return whether a word in lower case is one of these nouns, in any case."""
    return _find_forms(word) != ("", "")


def translate_noun(word: str, *, means_several: bool = False) -> str | None:
    """Return the English for a noun; None where it is not known.

    Args:
        word: In lower case, in any case and number.
        means_several: Whether the words before it ask for several. It decides where singular and plural are alike: "Messer".
    """
    singular, plural = _find_forms(word)
    return (plural or singular if means_several else singular or plural) or None


def _find_forms(word: str) -> tuple[str, str]:
    """Return the English singular and plural that a German form stands for; empty for one that it doesn't."""
    nouns = _list_nouns()
    if forms := nouns.get(word):
        return forms
    # In the genitive: "des Bechers", "des Tisches", "des Busses".
    stems = (word.removesuffix(ending) for ending in ("s", "es", "ses") if word.endswith(ending))
    return next(((nouns[stem][0], "") for stem in stems if stem in nouns and nouns[stem][0]), ("", ""))


@cache
def _list_nouns() -> dict[str, tuple[str, str]]:
    """Return the English singular and plural for each German form; empty where it is none of that number."""
    nouns: dict[str, tuple[str, str]] = {}
    for entry in _NOUNS.split(";"):
        english, _, german = entry.strip().partition(": ")
        name, plural = english.split(", " if "," in english else " ")
        singulars, plurals = (part.split() for part in german.split(" - "))
        nouns |= {form: (name if form in singulars else "", plural if form in plurals else "") for form in singulars + plurals}
    return nouns
