"""Check the cultures suite and write its card: python benchmarks/culture_suite_card.py [--check] [--show N].

Problems end with exit status 1 and write nothing; with --check nothing is written either, and a card that disagrees
with its data is a problem. Sides (rights-affirming '+', restrictive, traditional or cost-conscious '-') are the
authors' bookkeeping for balance; they lie in data/culture_sides.json and are no part of the suite.
"""

import argparse
import json
import re
import statistics
import sys
import unicodedata
from collections import Counter, defaultdict
from itertools import combinations
from pathlib import Path

HERE = Path(__file__).parent
SUITE = HERE.parent / "src/demur/suites/cultures"
TOPICS = ("lgbtqi_rights", "social_welfare", "immigration", "disability_rights", "surrogacy")
COUNTRIES = ("de-de", "de-at", "fr-fr", "fr-ca", "it-it", "tr-tr", "en-us", "en-gb", "en-ca", "en-sg")
LANGUAGES = ("de", "fr", "it", "tr", "en")
KEYS = ["id", "topic", "language", "country", "source", "statement", "english", "values"]
LEAST = {"topic": 60, "language": 10, "english_variant": 4, "value": 5, "value_and_side": 2}
WORDS = (10, 45)
LOOK_ALIKE = 0.25  # Jaccard of character 5-grams, within a language and among all English versions
SAME_SPEECH = 1.25  # mean characters of the longest language over the shortest, and of one side over the other
LETTERS = {
    "de": "äöüß" + "é",
    "fr": "àâæçéèêëîïôœùûüÿ",
    "it": "àèéìíòóùú",
    "tr": "çğıöşüâîû",
    "en": "",
}
STOPS = {
    "de": "der die das und nicht wer ein eine einen einer den dem des auf ist sich auch im in zu von mit für als wie"
    " weil soll sollen sollte darf dürfen muss müssen wenn denn nur ohne aus bei zur zum kein keine es sie er dass",
    "fr": "le la les et ne pas un une des du de que qui en au aux est pour dans sur ce se il elle sans par plus leur"
    " son sa ses à où mais doit devrait même comme ou avec ni l d qu c n s y on nos chaque",
    "it": "il lo la gli le e non un una di del della dei delle che chi in al alla è per nel sul con si da dal senza"
    " più ma anche come ogni deve vanno va l un d c sono ha hanno ai alle essere devono molti nelle i perché se quando",
    "tr": "ve bir bu için ile de da olan en kendi değil değildir her çok daha olarak hem ne kadar gibi ya yalnız"
    " kimse ancak bile onu olsa sonra önce karşı yerine herkes göre diye ister mi var adına çünkü onun bizim",
    "en": "the of and to a in is that for who not should be with as an or it their they by on are has must from at than"
    " his her our we when but no one nobody people what without every have should",
}

STOP_SETS = {name: set(text.split()) for name, text in STOPS.items()}
# suffixes do in Turkish what stop words do elsewhere
TURKISH_WORD = re.compile("[ğış]|(ler|lerin|mesi|meli|melidir|mektir|nin|dir|dür)$")


def words(text):
    return re.findall(r"[^\W_]+", text.lower())


def grams(text, n=5):
    text = " " + " ".join(words(text)) + " "
    return {text[i : i + n] for i in range(len(text) - n + 1)}


def load(problems):
    rows = []
    for topic in TOPICS:
        path = SUITE / f"{topic}.jsonl"
        for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
            row = json.loads(line)
            if list(row) != KEYS:
                problems.append(f"{path.name}:{number}: keys {list(row)}")
            if row["topic"] != topic:
                problems.append(f"{path.name}:{number}: topic {row['topic']}")
            rows.append(row)
    return rows


def check_names(rows, problems):
    """Identifiers run from 001 in each topic and country; sources belong to one topic and hold 2-5 statements."""
    running, sources = Counter(), defaultdict(list)
    for row in rows:
        place = (row["topic"], row["country"])
        running[place] += 1
        if row["id"] != f"cultures-{row['topic']}-{row['country']}-{running[place]:03d}":
            problems.append(f"{row['id']}: out of order")
        if row["country"] not in COUNTRIES or row["country"][:2] != row["language"]:
            problems.append(f"{row['id']}: {row['language']} in {row['country']}")
        if not re.fullmatch(rf"{row['country']}-[a-z]+(-[a-z]+)*-\d\d", row["source"]):
            problems.append(f"{row['id']}: source {row['source']}")
        sources[row["source"]].append(place)
    for source, places in sources.items():
        if not 2 <= len(places) <= 5 or len(set(places)) > 1:
            problems.append(f"source {source}: {len(places)} statements in {set(places)}")
    return sources


def flaws(language, text):
    """What is wrong with one text: normal form, letters, punctuation, and whose language its stop words speak."""
    if text != unicodedata.normalize("NFC", text) or text != " ".join(text.split()):
        yield "not NFC, or stray spaces"
    strange = set(re.sub(r"[a-z0-9 .,;:()'-]", "", text.replace("İ", "i").lower())) - set(LETTERS[language])
    if strange:
        yield f"characters {sorted(strange)}"
    if not text.endswith(".") or re.search(r"[.?!] ", text):
        yield "one sentence with a full stop is expected"
    hits = {name: sum(w in stops for w in words(text)) for name, stops in STOP_SETS.items()}
    hits["tr"] += sum(bool(TURKISH_WORD.search(w)) for w in words(text))
    if max(hits, key=lambda name: (hits[name], name == language)) != language or hits[language] < 2:
        yield f"stop words say {hits}"


def check_text(rows, problems):
    """Every text by itself, then the length of the statement and its English version beside it."""
    for row in rows:
        language, statement, english = row["language"], row["statement"], row["english"]
        for spoken, text in {(language, statement), ("en", english)}:
            problems += [f"{row['id']} ({spoken}): {flaw}" for flaw in flaws(spoken, text)]
        if (language == "en") != (statement == english):
            problems.append(f"{row['id']}: the English version must repeat an English statement, and no other")
        if not WORDS[0] <= len(statement.split()) <= WORDS[1]:
            problems.append(f"{row['id']}: {len(statement.split())} words")
        if not 0.7 <= len(english) / len(statement) <= 1.55:
            problems.append(f"{row['id']}: translation {len(english) / len(statement):.2f} times as long")
        if language == "tr" and not set(statement.lower()) & set("çğıöşü"):
            problems.append(f"{row['id']}: no Turkish letter")


def look_alikes(rows):
    """Most alike pairs within each language, and among all English versions (translations of one another)."""
    found = []
    for name in (*LANGUAGES, "english"):
        texts = [
            (row["id"], grams(row["english" if name == "english" else "statement"]))
            for row in rows
            if name in ("english", row["language"])
        ]
        for (a, x), (b, y) in combinations(texts, 2):
            found.append((len(x & y) / len(x | y), name, a, b))
    return sorted(found, reverse=True)


def check_openings(rows, problems):
    openings = Counter((row["language"], *words(row["statement"])[:2]) for row in rows)
    totals = Counter(row["language"] for row in rows)
    for opening, n in openings.items():
        if n > max(3, 0.06 * totals[opening[0]]):
            problems.append(f"opening {opening}: {n} times")
    return max(openings.items(), key=lambda item: item[1] / totals[item[0][0]])


def check_values(rows, values, sides, problems):
    used = Counter(value for row in rows for value in row["values"])
    for row in rows:
        if not 1 <= len(row["values"]) <= 3 or len(set(row["values"])) < len(row["values"]):
            problems.append(f"{row['id']}: values {row['values']}")
    for value in sorted(set(used) | set(values)):
        if value not in values or used[value] < LEAST["value"]:
            problems.append(f"value {value}: used {used[value]} times, defined: {value in values}")
    sided = Counter((value, sides[row["id"]]) for row in rows for value in row["values"])
    for value in values:
        if min(sided[value, "+"], sided[value, "-"]) < LEAST["value_and_side"]:
            problems.append(f"value {value}: {sided[value, '+']} affirming, {sided[value, '-']} restrictive")
    return used


def check_counts(rows, sides, problems):
    if set(sides) != {row["id"] for row in rows}:
        problems.append("culture_sides.json names other rows than the suite")
    for topic in TOPICS:
        here = [row for row in rows if row["topic"] == topic]
        if len(here) < LEAST["topic"]:
            problems.append(f"{topic}: {len(here)} statements")
        for language in LANGUAGES:
            mine = [row for row in here if row["language"] == language]
            lean = sum(1 if sides[row["id"]] == "+" else -1 for row in mine)
            if len(mine) < LEAST["language"] or abs(lean) > 1:
                problems.append(f"{topic} {language}: {len(mine)} statements, balance of sides {lean:+d}")
        for country in COUNTRIES:
            mine = [row for row in here if row["country"] == country]
            if len(mine) < LEAST["english_variant"] or len({sides[row["id"]] for row in mine}) < 2:
                problems.append(f"{topic} {country}: {len(mine)} statements, or one side only")


def lengths(rows, sides, problems):
    """Mean words and characters by language and side; languages and sides should speak at like length."""
    table = {}
    for language in LANGUAGES:
        mine = [row for row in rows if row["language"] == language]
        by_side = {s: statistics.mean(len(r["statement"]) for r in mine if sides[r["id"]] == s) for s in "+-"}
        table[language] = {
            "statements": len(mine),
            "words_mean": round(statistics.mean(len(r["statement"].split()) for r in mine), 1),
            "words_range": [f(len(r["statement"].split()) for r in mine) for f in (min, max)],
            "characters_mean": round(statistics.mean(len(r["statement"]) for r in mine), 1),
            "characters_of_the_english": round(statistics.mean(len(r["english"]) for r in mine), 1),
            "characters_mean_affirming": round(by_side["+"], 1),
            "characters_mean_restrictive": round(by_side["-"], 1),
        }
        if max(by_side.values()) / min(by_side.values()) > 1.1:
            problems.append(f"{language}: sides differ in length {by_side}")
    for key in ("characters_mean", "characters_of_the_english"):
        means = [entry[key] for entry in table.values()]
        if max(means) / min(means) > SAME_SPEECH:
            problems.append(f"{key} by language: {means}")
    return table


def measure(rows, sides, sources, used, alike, opening, by_language):
    def count(*keys):
        return dict(Counter(" ".join(row[key] for key in keys) for row in rows))

    within = [pair for pair in alike if pair[1] != "english"]
    return {
        "statements": len(rows),
        "by_topic": count("topic"),
        "by_country": count("country"),
        "by_topic_and_language": count("topic", "language"),
        "by_language": by_language,
        "sides": {
            "affirming": sum(s == "+" for s in sides.values()),
            "restrictive": sum(s == "-" for s in sides.values()),
        },
        "sources": len(sources),
        "statements_per_source": dict(sorted(Counter(str(len(places)) for places in sources.values()).items())),
        "sources_of_both_sides": sum(
            len({sides[row["id"]] for row in rows if row["source"] == source}) > 1 for source in sources
        ),
        "values": dict(sorted(used.items())),
        "most_alike_within_a_language": round(within[0][0], 3),
        "most_alike_in_english": round(max(pair[0] for pair in alike if pair[1] == "english"), 3),
        "commonest_opening": {"words": " ".join(opening[0][1:]), "language": opening[0][0], "times": opening[1]},
    }


def card_page(card, rows):
    """The card for reading: the prose of card.json and the numbers measured now."""
    numbers = card["numbers"]
    cells = Counter((row["topic"], row["country"]) for row in rows)
    speech = numbers["by_language"].items()
    lines = [f"# {card['title']}", "", card["summary"], "", "## How it was made", ""]
    lines += [f"- {text}" for text in card["how"]]
    lines += ["", "## What it can and cannot show", ""] + [f"- {text}" for text in card["limits"]]
    lines += ["", "## Numbers", ""]
    lines += [
        f"- {numbers['statements']} statements, {numbers['sides']['affirming']} rights-affirming and"
        f" {numbers['sides']['restrictive']} restrictive, traditional or cost-conscious; {numbers['sources']} sources,"
        f" {numbers['sources_of_both_sides']} of them with statements of both sides",
        "- most alike statements of a language (Jaccard of character 5-grams):"
        f" {numbers['most_alike_within_a_language']};"
        f" most alike English versions, translations included: {numbers['most_alike_in_english']}",
        f"- value labels: {len(numbers['values'])}, each used {min(numbers['values'].values())} to"
        f" {max(numbers['values'].values())} times",
        "",
        "| topic | " + " | ".join(COUNTRIES) + " | all |",
        "| --- |" + " --- |" * (len(COUNTRIES) + 1),
    ]
    for topic in TOPICS:
        mine = [cells[topic, country] for country in COUNTRIES]
        lines.append(f"| {topic} | " + " | ".join(map(str, [*mine, sum(mine)])) + " |")
    lines += ["", "| language | statements | words, mean | words, range | characters, mean | of the English version |"]
    lines += ["| --- |" + " --- |" * 5]
    for name, entry in speech:
        low, high = entry["words_range"]
        lines.append(
            f"| {name} | {entry['statements']} | {entry['words_mean']} | {low}–{high} | {entry['characters_mean']} |"
            f" {entry['characters_of_the_english']} |"
        )
    return "\n".join([*lines, "", "Made by `python benchmarks/culture_suite_card.py`.", ""])


def show_alike(alike, rows, n):
    text = {row["id"]: row for row in rows}
    for share, name, a, b in alike[:n]:
        key = "english" if name == "english" else "statement"
        print(f"{share:.2f} {name}\n  {a}: {text[a][key]}\n  {b}: {text[b][key]}")


def pages(numbers, rows):
    """Both forms of the card with numbers measured now."""
    card = json.loads((SUITE / "card.json").read_text(encoding="utf-8")) | {"numbers": numbers}
    return {"card.json": json.dumps(card, ensure_ascii=False, indent=2) + "\n", "card.md": card_page(card, rows)}


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true", help="write nothing; fail if the card disagrees")
    parser.add_argument("--show", type=int, default=0, help="print this many of the most alike pairs")
    options = parser.parse_args()
    problems = []
    rows = load(problems)
    sides = json.loads((HERE / "data" / "culture_sides.json").read_text(encoding="utf-8"))
    values = json.loads((SUITE / "values.json").read_text(encoding="utf-8"))
    sources = check_names(rows, problems)
    check_text(rows, problems)
    used = check_values(rows, values, sides, problems)
    check_counts(rows, sides, problems)
    by_language = lengths(rows, sides, problems)
    opening = check_openings(rows, problems)
    alike = look_alikes(rows)
    problems += [f"look alike {s:.2f} {name}: {a} {b}" for s, name, a, b in alike if s > LOOK_ALIKE]
    show_alike(alike, rows, options.show)
    for name, text in pages(measure(rows, sides, sources, used, alike, opening, by_language), rows).items():
        if options.check and (SUITE / name).read_text(encoding="utf-8") != text:
            problems.append(f"{SUITE / name} disagrees with its data; run this without --check")
        elif not options.check and not problems:
            (SUITE / name).write_text(text, encoding="utf-8")
    print(*problems, f"{len(problems)} problem(s)", sep="\n")
    return 1 if problems else 0


if __name__ == "__main__":
    sys.exit(main())
