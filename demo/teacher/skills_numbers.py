"""Numbers, durations and arithmetic as people say them, and the way back: for the embedded teacher."""

import re

ONES = (
    "zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen sixteen "
    "seventeen eighteen nineteen"
).split()
TENS = "_ _ twenty thirty forty fifty sixty seventy eighty ninety".split()
ORDINALS = {
    2: "second",
    3: "third",
    4: "fourth",
    5: "fifth",
    6: "sixth",
    7: "seventh",
    8: "eighth",
    9: "ninth",
    10: "tenth",
}
UNITS = {"h": "hour", "hr": "hour", "m": "minute", "min": "minute", "s": "second", "sec": "second"}
SMALLER = {"week": ("day", 7), "day": ("hour", 24), "hour": ("minute", 60), "minute": ("second", 60)}
NUMBER = r"-?\d+(?:\.\d+)?"
UNIT = r"(weeks?|days?|hours?|hrs?|h|minutes?|mins?|m|seconds?|secs?|s)\b"


def spell(number: int | float | str) -> str:
    """The words of a number of at least 0 and below a million: 2506 → two thousand five hundred and six."""
    whole, _, places = str(number).partition(".")
    if places:
        return f"{spell(whole)} point {' '.join(ONES[int(digit)] for digit in places)}"
    n = int(whole)
    if n < 20:
        return ONES[n]
    if n < 100:
        return TENS[n // 10] + (f" {ONES[n % 10]}" if n % 10 else "")
    for size, name in ((1000, "thousand"), (100, "hundred")):
        if n >= size:
            joint = " and " if n % size < 100 else " "
            return f"{spell(n // size)} {name}" + (f"{joint}{spell(n % size)}" if n % size else "")


def digits(text: str) -> str:
    """The text with its spelled numbers in digits."""
    from text_to_num import alpha2digit

    text = re.sub(r"(?i)\ba (?=(?:hundred|thousand|million|dozen)\b)", "one ", text)
    text = re.sub(r"(?i)(?<=[a-z])-(?=[a-z])", " ", text)
    text = re.sub(r"(?i)\bhalf (?:a )?dozen\b", "6", re.sub(r"(?i)\b(?:one )?dozen\b", "12", text))
    text = re.sub(r"(?<=\d)(?=[-*/+^x%()])|(?<=[-*/+^%()])(?=\d)", " ", text)
    return re.sub(r"(?<=\d),(?=\d{3}\b)", "", alpha2digit(text, "en", -1))


def duration(text: str) -> str | None:
    """A duration in the way of `1 hour 10 minutes`, or None for what is none, or not only one."""
    said = re.sub(r"\bsecond\b", "seconds", re.sub(r"[,-]", " ", text.lower()))
    for words, plain in (
        (r"(?<!\band )\b(?:a )?(?<!\band a )half (?:an |a )?(hour|minute|day)\b", r"0.5 \1"),
        (r"\b(?:a )?quarter of (?:an|a) hour\b|\b(?:a )?quarter hour\b", "15 minutes"),
        (r"\b(?:three|3) quarters of an hour\b", "45 minutes"),
        (r"\ba couple (?:of )?", "2 "),
        (r"\b(?:an|a|one) (hour|minute|week|day) and (?:a|one) half\b", r"1.5 \1"),
        (r"\b(?:an|a|one) (hour|minute) and (?:a|one) quarter\b", r"1.25 \1"),
    ):
        said = re.sub(words, plain, said)
    said = re.sub(r"\b(?:an|a) (?=hour|minute|second|week|day)", "1 ", digits(said))
    said = re.sub(r"(?<=\d) and (?:a|1) half\b|(?<=\d) (?:and )?(?:1 ?/ ?2|½)", ".5", said)
    said = re.sub(r"(?<=\d) and (?:a|1) quarter\b", ".25", said)
    said = re.sub(rf"(\d) {UNIT} and (?:a|1) half\b", r"\1.5 \2", said)
    clock = re.fullmatch(r"\s*(\d+):(\d\d)(?: minutes?)?\s*", said)
    if clock:
        said = f"{clock[1]} minutes {clock[2]} seconds"
    found = re.findall(rf"({NUMBER})\s*{UNIT}", said)
    rest = re.sub(rf"({NUMBER})\s*{UNIT}", "", said)
    if not found or re.sub(r"\b(?:and|plus|exactly|about|around|of|long)\b|\s", "", rest):
        return None
    parts: list[tuple[str, str]] = []
    for amount, unit in found:
        name = UNITS.get(unit.rstrip("s") or "s", unit.rstrip("s"))
        whole, _, places = amount.partition(".")
        if places and name in SMALLER:
            below, size = SMALLER[name]
            parts += [(whole, name)] if int(whole) else []
            parts += [(f"{float('0.' + places) * size:g}", below)]
        else:
            parts.append((amount, name))
    return " ".join(f"{amount} {name}{'' if amount == '1' else 's'}" for amount, name in parts)


ITEM = rf"(?:the )?(\(?{NUMBER}\)?)"
LIST = rf"((?:{NUMBER})(?:(?: ?,? and | ?, ?){NUMBER})+)"


def _joined(sign: str):
    return lambda found: sign.join(re.findall(NUMBER, found[1]))


def _average(found: re.Match) -> str:
    numbers = re.findall(NUMBER, found[1])
    return f"({'+'.join(numbers)})/{len(numbers)}"


# Said in words → Python, in this order; what stands before and after is left for the next ones.
SPOKEN = [
    (r"\b(?:minus|negative) (?=\d)(?<![\d)] minus )", "-"),
    (rf"\b(?:average|mean) (?:of |value of )?(?:the numbers )?{LIST}", _average),
    (rf"\b(?:largest|maximum|biggest|max|greatest) of {LIST}", lambda found: f"max({_joined(',')(found)})"),
    (rf"\b(?:smallest|minimum|min|least) of {LIST}", lambda found: f"min({_joined(',')(found)})"),
    (
        rf"\b(?:sum up|sum|total|addition|add up|add together|add) (?:of )?(?:the numbers )?{LIST}",
        _joined("+"),
    ),
    (rf"\b(?:product of|multiply) {LIST}", _joined("*")),
    (rf"\b(?:difference (?:between|of)) {ITEM} and {ITEM}", r"\1-\2"),
    (rf"\b(?:quotient|ratio) of {ITEM} (?:and|to|by) {ITEM}", r"\1/\2"),
    (
        rf"\bremainder (?:when |of |if |from |for )?(?:you |we |I )?(?:divide |dividing )?{ITEM} "
        rf"(?:is |gets |was )?(?:divided by|by|and|over|/|mod) {ITEM}",
        r"\1%\2",
    ),
    (rf"\badd {ITEM} (?:to|and|plus|with) {ITEM}", r"\1+\2"),
    (rf"\b(?:subtract|take|deduct) {ITEM} (?:away )?from {ITEM}", r"\2-\1"),
    (rf"{ITEM} (?:subtracted from|less than) {ITEM}", r"\2-\1"),
    (rf"\bmultiply {ITEM} (?:by|and|with|times) {ITEM}", r"\1*\2"),
    (rf"\bdivide {ITEM} (?:by|over) {ITEM}", r"\1/\2"),
    (rf"\braise {ITEM} to (?:the )?(?:power of )?{ITEM}(?: power)?", r"\1**\2"),
    (rf"\bsquare roots? (?:of |for )?{ITEM}", r"sqrt(\1)"),
    (rf"\bcube root (?:of )?{ITEM}", r"\1**(1/3)"),
    (rf"\bsquare (?:of )?{ITEM}", r"\1**2"),
    (rf"\bcube (?:of )?{ITEM}", r"\1**3"),
    (rf"\b(?:root of|sqrt(?: of)?) {ITEM}", r"sqrt(\1)"),
    (
        rf"\bfactorial (?:of )?{ITEM}|{ITEM} factorial|({NUMBER})!",
        lambda found: f"factorial({found[1] or found[2] or found[3]})",
    ),
    (rf"\babsolute value (?:of )?{ITEM}", r"abs(\1)"),
    (rf"\b(?:natural )?log(?:arithm)? (?:of )?{ITEM}", r"log(\1)"),
    (rf"\b(sine?|cos|cosine|tan|tangent) (?:of )?{ITEM}(?: degrees)?", lambda f: f"{f[1][:3]}({f[2]})"),
    (
        rf"({NUMBER}) ?(?:percent|per cent|%) of {ITEM}",
        lambda found: f"{float(found[1]) / 100:.10g}*{found[2]}",
    ),
    (rf"\b(?:1 )?half of {ITEM}", r"\1/2"),
    (rf"\b(?:a |1 )?(?:third|3rd) of {ITEM}", r"\1/3"),
    (rf"\b(?:a |1 )?(?:quarter|fourth|4th) of {ITEM}", r"\1/4"),
    (rf"\b(?:twice|double) {ITEM}", r"2*\1"),
    (rf"\btriple {ITEM}", r"3*\1"),
    (rf" (?:raised )?to the ({NUMBER})(?:st|nd|rd|th) power", r"**\1"),
    (r" (?:raised )?to the second power", "**2"),
    (r" ?(?:(?:raised )?to the power (?:of )?|raised to (?:the )?|to the power |\^|\*\*) ?", "**"),
    (r" squared\b", "**2"),
    (r" cubed\b", "**3"),
    (r" ?\b(?:added to|plus|add) ?", "+"),
    (r" ?\b(?:minus|take away|less) ?", "-"),
    (r" ?\b(?:multiplied (?:by|with)|times|x) ?|×", "*"),
    (r" ?\b(?:divided by|over) ?|÷", "/"),
    (r" ?\b(?:modulus|modulo|mod)\b ?", "%"),
]
FUNCTIONS = r"sqrt|factorial|abs|log|sin|cos|tan|max|min"
EXPRESSION = re.compile(rf"(?:(?:{FUNCTIONS})(?=\()|[\d.+\-*/%(),])+")


def expression(text: str) -> str | None:
    """The Python expression for spoken arithmetic; None for what is none."""
    said = f" {digits(text.lower())} ".replace("third power", "3rd power")
    said = re.sub(r"\s+", " ", re.sub(r"(?<=\d) ([-+*/^%()]|\*\*) (?=[\d(-])", r" \1 ", said)).strip()
    said = re.sub(r"(?<=[\d)]) ?\* ?\* ?(?=[\d(])", "**", said)
    random = re.search(rf"\brandom (?:number|integer)\b(?:.*?({NUMBER})(?:.*?({NUMBER}))?)?", said)
    if random:
        return (
            f"randint({','.join(part for part in random.groups() if part)})" if random[1] else "randint(100)"
        )
    for words, python in SPOKEN:
        said = re.sub(words, python, said)
    said = re.sub(rf"({NUMBER}) and (?={NUMBER})", r"\1+", said)
    said = re.sub(r"\bthe ", "", said).replace(" ", "")
    signs = re.search(rf"[\d)](?:[-+*/%]|\*\*)[\d(-]|(?:{FUNCTIONS})\(|\)[-+*/]", said)
    return spaced(said) if signs and EXPRESSION.fullmatch(said) else None


def spaced(python: str) -> str:
    """An expression with spaces around its operators: so its numbers are words, as they were said."""
    return re.sub(r"(?<=[\d)])(\*\*|[-+*/%])(?=[\da-z(-])", r" \1 ", python)
