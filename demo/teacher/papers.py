"""What the stand-in teacher writes about papers: paragraphs of a page, questions about a text, an answer.

Rules about the shape of sentences, no language model: it neither understands nor knows anything. A sentence
that gives a reason, a condition, a means, a number, a definition, a comparison or its source is turned into a
question, of which the sentence, or a part of it, is the answer. A question of anybody else's is answered with
the sentence that has most of its words, or, where none has enough of them, with NOT_SAID.
"""

import re
from collections.abc import Iterator
from itertools import chain
from typing import NamedTuple

from stages.core.hashing import stable_integer
from stages.core.text import content_words, tokens

TEXT = re.compile(r"<text>\s*(.*)\s*</text>", re.S)
QUESTION = re.compile(r"<question>\s*((?:(?!<question>).)*?)\s*</question>\s*\Z", re.S)
PAGE = re.compile(r"<page>\s*(.*)\s*</page>", re.S)
NOT_SAID = "The text does not say."
SENTINEL = "No meaningful paragraphs found."
MOST_QUESTIONS = 5
COMMON = {"what": 1, "no": 0}  # kinds of question that can be asked of nearly every sentence
SHARE = 0.7  # of a question's words that the sentence has which answers it
MOST_WORDS = 24  # of an answer
PARAGRAPH_WORDS = 12

ABBREVIATED = re.compile(r"\b(?:et al|e\.g|i\.e|cf|vs|Fig|Eq|Sec|No|Dr)\.$")
CONNECTIVE = re.compile(
    r"^(?:However|Therefore|Thus|Hence|Moreover|Furthermore|In addition|For example|For instance|In contrast|"
    r"By contrast|Conversely|Consequently|As a result|Nevertheless|Indeed|Finally|Accordingly|Yet|But|And|So|"
    r"In general|In practice|First|Second|Above all|In this view|In this way|In words),? ",
)
ASIDE = re.compile(
    r",? (?:therefore|thus|consequently|hence|also)(?= )|, (?:therefore|moreover|however|indeed),"
)
# What a sentence that begins so is about stands in another one.
ANAPHORA = re.compile(
    r"^(?:it|its|they|their|them|this|these|that|those|such|he|she|his|her|both|neither|each|others?|here|"
    r"there|one|two|three|some|many|most|the (?:first|second|third|other|same|former|latter|method|authors?|"
    r"table|result|results|figure|approach|choice|procedure|idea|findings|latter|two|three)|another|all|what|"
    r"who|why|how|we|our|you|suppose|start|compare|use|let|in words|nobody|nothing|everything)\b",
    re.I,
)
PREPOSITION = re.compile(
    r"^(?:in|on|at|by|for|from|with|without|under|after|before|during|to|of|as|if|when|while|because|since|"
    r"once|although|unlike|within|over|instead|about|among|between|like|through|until|whether|not|even|"
    r"where|which|typically)\b",
    re.I,
)
AUXILIARIES = set("is are was were has have had can could may might must should will would cannot".split())
HAVE = {"has": ("have", "does"), "have": ("have", "do"), "had": ("have", "did")}
# Verbs of which the form with an s, and the past, are hardly ever nouns; base, or base/past.
VERBS = """
abandon absorb accept accumulate achieve add address adjust affect aggregate aim allow alter amplify appear
apply arise arrange assess assign assume attach attend average avoid base become/became begin/began bound
bring/brought build/built calibrate call capture carry characterise check choose/chose claim clarify classify
clip close collapse combine come/came compare compensate compete complete compress compute concatenate
concern confine confirm confuse conserve consider consist construct contain contradict contribute convert
correct correspond count create cut/cut deal/dealt decay decide decouple decrease define degrade delete
deliver depend derive describe detect deteriorate determine develop differ disable disappear discard
discriminate distinguish divide dominate double draw/drew drive/drove earn embed emphasise enable encode
enforce ensure equal establish evaluate examine exceed exchange expand expect expire explain exploit explore
express extend extract factorise fail fall/fell fill find/found finish fit fix flatten follow forget/forgot
formulate free gather generalise generate give/gave go/went grow/grew handle happen help hide/hid hold/held
identify ignite ignore illustrate imitate implement imply impose improve include indicate infer inherit
initialise insert inspect inspire intend interpret introduce invert investigate involve join justify
keep/kept lack lead/led learn leave/left lengthen let locate look lose/lost lower make/made matter maximise
mean/meant memorise merge minimise modify move multiply normalise note observe occupy occur offer open
optimise order outperform overcome/overcame overfit overlook pack partition pass pay/paid perform permit pick
play postpone precede predict prefer prepare preserve prevent produce promise propose protect prove provide
prune pull punish push put/put quantise raise reach read receive recommend reconstruct recover recur reduce
refer reflect regard reject rely remain remember remove repair replace report represent require rescale
resemble resolve respond restrict retain retrieve return reveal reward rise/rose save say/said see/saw seem
select separate serve shift shorten show/showed shrink/shrank simplify sit/sat smooth solve sort speak/spoke
specify spoil spread stand/stood standardise start stop store substitute succeed suffer suffice suggest suit
summarise supply support surpass survive take/took teach/taught tell/told tend think/thought tie train
transfer transform translate treat truncate try turn understand/understood unite update validate vanish vary
violate visit warn watch weigh widen win/won wonder write/wrote yield
""".split()
OBJECT = re.compile(
    r"(?:the|a|an|each|every|its|their|no|only|both|all|more|from|to|on|with|in|as|by|about|two|\d)\b"
)
NOUNS_TOO = set(
    "limit work need increase use run/ran split/split measure review study estimate rank cover share".split()
)
POINTS = re.compile(r"(?:This|These|That|Those|Their|Its|It|They|Such)\b")
REPORTED = "show report observe find propose introduce describe derive conclude study examine".split()
NAMES = r"[A-Z][\w’'-]+(?:(?:,| and|, and) [A-Z][\w’'-]+)*(?: et al\.)? \((?:19|20)\d\d\)"
NUMBER = r"\d[\d,.]*(?: (?:million|billion|thousand))?|two|three|four|five|six|seven|ten|sixteen"


def _forms() -> dict[str, tuple[str, str]]:
    """{a form of a verb: (its base, the auxiliary that asks with it)}."""
    forms: dict[str, tuple[str, str]] = {}
    for entry in [*VERBS, *NOUNS_TOO]:
        base, _, past = entry.partition("/")
        ending = re.sub(r"(?<=[^aeiou])y$", "ie", base) if base.endswith("y") else base
        third = f"{ending}{'es' if re.search('(?:s|x|z|ch|sh|o)$', base) else 's'}"
        past = past or f"{re.sub('e$', '', ending)}ed"
        forms |= {past: (base, "did"), base: (base, "do"), third: (base, "does")}
    return forms


FORMS = _forms()
THIRD = {base: form for form, (base, helper) in FORMS.items() if helper == "does"}


class Clause(NamedTuple):
    """Subject, verb as it is written, and what follows; `asked` is the same with the order of a question."""

    subject: str
    verb: str
    rest: str

    @property
    def asked(self) -> str:
        subject = low(self.subject)
        if self.verb == "cannot":
            return f"can {subject} not {self.rest}"
        perfect = re.match(r"(?:been|to|\w+ed)\b", self.rest)
        if self.verb in AUXILIARIES and (self.verb not in HAVE or perfect):
            return f"{self.verb} {subject} {self.rest}"
        base, helper = HAVE.get(self.verb) or FORMS[self.verb]
        return f"{helper} {subject} {base} {self.rest}"


def asks_about_papers(texts: list[str]) -> bool:
    """Whether the last message shows a page, or a text and asks for questions or an answer."""
    return bool(PAGE.search(texts[-1]) or (TEXT.search(texts[-1]) and "text" in texts[0].lower()))


def paper_answer(prompt: str) -> str:
    if page := PAGE.search(prompt):
        return "\n".join(paragraphs(page[1])) or SENTINEL
    text, asked = TEXT.search(prompt), QUESTION.search(prompt)
    assert text, "asks_about_papers has found it"
    return answer(text[1], asked[1]) if asked else "\n".join(questions(text[1]))


def paragraphs(page: str) -> list[str]:
    """Blocks between blank lines that are sentences, each on one line."""
    blocks = (" ".join(block.split()) for block in re.split(r"\n\s*\n", page))
    return [
        block for block in blocks if len(block.split()) >= PARAGRAPH_WORDS and re.search(r"[.:?!]\W*$", block)
    ]


def questions(text: str) -> list[str]:
    """The most varied of those that `pairs` finds, of other sentences first; in the order of the text."""
    found = list(pairs(text))
    chosen: list[Pair] = []
    while found and len(chosen) < MOST_QUESTIONS:
        kinds, used = [pair.kind for pair in chosen], [pair.sentence for pair in chosen]
        taken = set(zip(used, kinds, strict=True))
        found = [pair for pair in found if (pair.sentence, pair.kind) not in taken]
        found.sort(
            key=lambda pair: (
                used.count(pair.sentence),
                kinds.count(pair.kind) + COMMON.get(pair.kind, 0),
                stable_integer(pair.question),
            )
        )
        chosen += found[:1]
    return [pair.question for pair in sorted(chosen, key=lambda pair: pair.sentence)]


def answer(text: str, question: str) -> str:
    """What `pairs` has for the question, else the likeliest sentence, else NOT_SAID."""
    own = {pair.question: pair.answer for pair in pairs(text)}
    if question in own:
        return own[question]
    wanted = set(tokens(" ".join(content_words(question))))
    scored = [(len(wanted & set(tokens(sentence))), -place) for place, sentence in enumerate(sentences(text))]
    most, place = max(scored, default=(0, 0))
    return clipped(sentences(text)[-place]) if wanted and most >= SHARE * len(wanted) else NOT_SAID


Made = Iterator[tuple[str, str, str]]  # kind, question without its mark, answer


class Pair(NamedTuple):
    """`sentence` is the number of that which it was made of."""

    sentence: int
    kind: str
    question: str
    answer: str


def pairs(text: str) -> Iterator[Pair]:
    """Every question that the rules make of the text, with its answer."""
    for place, sentence in enumerate(sentences(text)):
        if not 7 <= len(sentence.split()) <= 60 or re.search(r"[=Σ∏≈∈]|:$", sentence):
            continue
        for kind, question, said in chain(_joined(sentence), _sourced(sentence), _plain(sentence)):
            question = " ".join(question.split()).strip(" ,;:.")
            unclear = re.search(r"\b(?:it|they|them|this|these|those|their|its|such|here)\b", question)
            words = len(question.split())
            telling = len(content_words(question)) >= (3 if kind in COMMON else 1)
            if 4 <= words <= 22 and telling and not unclear and balanced(question):
                yield Pair(place, kind, f"{up(question)}?", clipped(said))


def _joined(sentence: str) -> Made:
    """What a sentence of two clauses is good for."""
    body = sentence.rstrip(".")
    if found := re.match(r"(If|When|Once|Without) ([^,]+), (?!and |or |whose |which |of which )(.+)", body):
        said = up(found[3].removeprefix("then "))
        yield "condition", f"what happens {low(found[1])} {found[2]}", said
    found = re.match(r"(.+?),? (?:because|since(?! \d)) (.+)", body)
    if found and (clause := clause_of(found[1])):
        yield "reason", f"why {shortened(clause.asked)}", f"Because {found[2]}"
    found = re.match(r"(.+?), so (?:that )?(.+)", body)
    if found and not POINTS.match(found[1]) and (clause := clause_of(found[2])):
        yield "reason", f"why {shortened(clause.asked)}", f"Because {low(found[1])}"
    found = re.match(r"(.+?) by (\w{3,}ing .+)", body)
    if found and (clause := clause_of(found[1])):
        yield "means", f"how {shortened(clause.asked)}", f"By {found[2]}"
    found = re.match(r"([^,]+?) (?:if|when|as soon as|only if) (?!only)([^,]+)$", body)
    if found and " that " not in body and (clause := clause_of(found[1])):
        yield "when", f"when {clause.asked}", body
    found = re.match(r"(.+?), (?:whereas|while) (.+)", body)
    sides = [clause_of(side) for side in found.groups()] if found else []
    subjects = [low(clause.subject) for clause in sides if clause and len(clause.subject.split()) <= 6]
    if len(subjects) == 2:
        yield "difference", f"how do {' and '.join(subjects)} differ", body


def _sourced(sentence: str) -> Made:
    """Who found, or proposed, what."""
    body = sentence.rstrip(".")
    if found := re.search(rf"({NAMES}) (\w+) (.+)", body):
        base, helper = FORMS.get(found[2], ("", ""))
        if base in REPORTED and helper == "did":
            yield "source", f"what did {found[1]} {base}", found[0]
        if helper == "did":
            yield "who", f"who {found[2]} {shortened(found[3])}", found[0]
    found = re.match(rf"([^,]+), (introduced|proposed|described|discussed|developed) by ({NAMES})", body)
    if found and not (ANAPHORA.match(found[1]) or clause_of(found[1])):
        yield "who", f"who {found[2]} {low(found[1])}", f"{found[3]} {found[2]} {low(found[1])}"


def _plain(sentence: str) -> Made:
    """What a single clause says of its subject, where and when it says so before it."""
    main, around = sentence.rstrip("."), ""
    if found := re.match(r"((?:In|For|With|At|During|After|Under) [^,]{3,60}), (.+)", main):
        main, around = found[2], f" {low(found[1])}"
    clause = clause_of(main)
    if clause is None or clause.rest.startswith("that "):
        return
    verb, subject, rest = clause.verb, low(clause.subject), clause.rest
    if verb in ("is", "are") and re.match(r"(?:an?|the|one) ", rest) and len(subject.split()) <= 6:
        yield "definition", f"what {verb} {subject}{around}", sentence
    counted = re.match(rf"(?:about |only |almost |up to |some )?(?:{NUMBER}) ([a-z-]+s)\b", rest)
    if counted and verb in FORMS:
        base, helper = FORMS[verb]
        yield "number", f"how many {counted[1]} {helper} {subject} {base}{around}", sentence
    negated = verb == "cannot" or re.match(r"(?:not|no longer|never)\b", rest)
    if negated and verb in AUXILIARIES and verb not in HAVE:
        plain = shortened(re.sub(r"^(?:not|never|no longer) ", "", rest))
        helper = "can" if verb == "cannot" else verb
        yield "no", f"{helper} {subject} {plain}{around}", f"No, {low(sentence)}"
    if not negated and not re.match(NAMES, subject):
        singular = {"are": "is", "were": "was", "have": "has"}.get(verb) or THIRD.get(verb, verb)
        yield "what", f"what {singular} {shortened(rest)}{around}", sentence


def clause_of(text: str) -> Clause | None:
    """Subject, verb and rest of a clause; None where it begins with no noun, or its verb is not known."""
    text = re.sub(r"^([^,]+), (?:\w+ed by|which|who|by|also|called|or) [^,]+, (?=\w+)", r"\1 ", text.strip())
    words = text.split()
    if not words or ANAPHORA.match(text) or PREPOSITION.match(text) or words[0].lower() in THIRD:
        return None
    relative = False  # behind "that": the next verb is not that of the subject
    for place in range(1, min(len(words) - 1, 16)):
        if re.search(r"[,;:]$", words[place - 1]):
            return None
        relative |= words[place] in ("that", "which", "who", "whose")
        if not is_verb(words, place):
            continue
        if not relative:
            return Clause(" ".join(words[:place]), words[place], " ".join(words[place + 1 :]))
        relative = words[place] in AUXILIARIES and words[place + 1] in FORMS  # "that has learned"
    return None


def is_verb(words: list[str], place: int) -> bool:
    """Whether the word stands for a verb there, and not for a noun or a participle."""
    word = words[place]
    if word in AUXILIARIES or word not in FORMS:
        return word in AUXILIARIES
    base, helper = FORMS[word]
    if helper == "do" and not re.search(r"(?<![su’'])s$", words[place - 1]):
        return False  # of no plural
    return bool(OBJECT.match(words[place + 1])) or (helper == "does" and base not in NOUNS_TOO)


def sentences(text: str) -> list[str]:
    """The sentences, less words that tie them to others."""
    parts: list[str] = []
    for part in re.split(r"(?<=[.?!])\s+(?=[A-Z“(])", " ".join(text.split())):
        if parts and ABBREVIATED.search(parts[-1]):
            parts[-1] += f" {part}"
        else:
            parts.append(part)
    return [up(ASIDE.sub("", CONNECTIVE.sub("", part))) for part in parts]


def shortened(rest: str) -> str:
    """The first clause of what follows a verb."""
    rest = re.split(r"[,;:]| (?:because|since|whereas|although|so that|which) ", rest)[0]
    joined = re.finditer(r" (?:and|but|or) (?:then |still )?(\w+)", rest)
    return rest[: next((found.start() for found in joined if verb_like(found[1])), len(rest))]


def verb_like(word: str) -> bool:
    return word in AUXILIARIES or word in FORMS


def clipped(said: str) -> str:
    """At most MOST_WORDS words, up to the end of a clause where there is one."""
    said = re.sub(r"[\s,;:]+$", "", re.sub(r"[.,;:\s]+$", "", said))
    while len(said.split()) > MOST_WORDS and (parts := re.split(r"[,;:](?= )", said))[1:]:
        shorter = said[: len(said) - len(parts[-1]) - 1]
        if len(shorter.split()) < 8:
            break
        said = shorter
    return f"{said}."


def balanced(text: str) -> bool:
    """Whether brackets and quotation marks are closed."""
    return all(text.count(left) == text.count(right) for left, right in ("()", "“”", "[]"))


def low(text: str) -> str:
    """With a small first letter, where the first word is no name: of a person, a method, a variable."""
    first = text.split(" ", 1)[0]
    named = re.match(NAMES, text) or re.search(r"^[A-Z]\W*$|^\w+,$|.[^a-z’'-]", first)
    return text if named and not re.match("An? ", text) else text[:1].lower() + text[1:]


def up(text: str) -> str:
    return text[:1].upper() + text[1:]
