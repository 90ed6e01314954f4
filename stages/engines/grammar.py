"""Constrained decoding: a Lark grammar as masks over the tokens of a model, computed by llguidance."""

import json
import re
from functools import lru_cache
from itertools import groupby
from pathlib import Path

import numpy as np
from llguidance import LLMatcher, LLTokenizer

from stages.core.errors import UserError
from stages.core.text import in_word
from stages.core.tokenizer import TextCodec

LITERAL = r'"(?:[^"\\]|\\.)*"'
# Else llguidance encodes bytes that must follow by themselves, and a tokenizer may write these otherwise.
NO_FORCING = '%llguidance {"no_forcing": true}\n'
QUOTED_OR_START = re.compile(rf"({LITERAL}|/(?:[^/\\\n]|\\.)+/)|\bstart\b")
PROMPT_WORDS = re.compile(r"^PROMPT_WORDS: .*$", re.M)  # whole words of the prompt, one after the other
UNIT = re.compile(r"\\u[0-9a-fA-F]{4}|\\.|.", re.S)  # an escape of JSON, or a character


class Constraint:
    """A grammar of calls (stages/kinds/skills/parts/grammar.py) over the tokens of one tokenizer.

    directory: of a model, for its tokenizer. width: number of logits, where there are more than tokens. A
    terminal PROMPT_WORDS stands for words of the prompt; how the grammar defines it is not read. Raises
    UserError where the tokenizer cannot write a literal, and for a grammar that llguidance does not read.
    """

    def __init__(self, directory: Path, grammar: str, width: int = 0):
        self.codec = TextCodec(directory)
        self.where = f"{directory}/tokenizer.json"
        self.tokenizer = self._tokenizer(width)
        self.lark = self._checked(grammar)
        self.start = self._matcher(self.lark)
        self.closers = np.array(sorted(range(self.tokenizer.vocab_size), key=self._closing))

    def lark_for(self, prompt: str) -> str:
        """The grammar of the answers to a prompt: with its words where the grammar asks for them."""
        if not PROMPT_WORDS.search(self.lark):
            return self.lark
        inner = json.dumps(prompt, ensure_ascii=False)[1:-1]
        ids = self.codec.tokenizer.encode(inner, add_special_tokens=False).ids
        return with_words(self.lark, self.tokenizer.decode_str(ids))

    def begun(self, prompt: str) -> LLMatcher:
        """The matcher of an answer to `prompt`, before its first token."""
        lark = self.lark_for(prompt)
        return self.start.deep_copy() if lark == self.lark else self._matcher(lark)

    def _matcher(self, lark: str) -> LLMatcher:
        matcher = LLMatcher(self.tokenizer, lark, log_level=0)
        if matcher.is_error():
            raise UserError(f"grammar: {matcher.get_error()}")
        return matcher

    def _tokenizer(self, width: int) -> LLTokenizer:
        tokens = max(width, self.codec.vocabulary_size)
        try:
            return LLTokenizer(self.codec.tokenizer.to_str(), n_vocab=tokens, eos_token=self.codec.eos_id)
        except ValueError as error:
            raise UserError(f"{self.where}: no grammar works with this tokenizer: {error}") from None

    def _closing(self, token: int) -> tuple:
        """A sort key that ranks tokens by how soon they lead out of a call.

        First what ends a text, then what ends a call, then long ones; last those that may begin a character
        and leave it unfinished.
        """
        text = self.tokenizer.decode_bytes([token])
        begins = any(byte >= 0xC0 for byte in text)
        return not text.startswith(b'")'), text != b'"', text != b")", begins, -len(text), token

    def _checked(self, grammar: str) -> str:
        """The grammar for this tokenizer. Raises UserError for a literal that it does not write as it is."""
        encode = self.codec.tokenizer.encode
        for quoted in dict.fromkeys(re.findall(LITERAL, grammar)):
            text = f"0{_read(quoted)}"  # as within an answer: what begins a text may be cut otherwise
            written = self.codec.decode(encode(text, add_special_tokens=False).ids)
            if written != text:
                raise UserError(
                    f"{self.where} writes {text[1:]!r} of the grammar as {written[1:]!r}; take a base whose "
                    "tokenizer keeps case, blanks and all letters, or rename it in the skill files"
                )
        # Llama 2's tokenizer puts a blank before each text, which its decoder takes off again
        blank = self.tokenizer.decode_str(encode("a", add_special_tokens=False).ids).removesuffix("a")
        if blank:
            grammar = QUOTED_OR_START.sub(lambda match: match[1] or "answer", grammar)
            grammar = f"{grammar.rstrip()}\nstart: {json.dumps(blank)} answer"
        return f"{grammar.rstrip()}\n{NO_FORCING}".replace("\x7f", r"\u007f")  # llguidance wants it so


@lru_cache(maxsize=16)  # a server is given grammars by its clients
def constraint(directory: Path, grammar: str, width: int = 0) -> Constraint:
    """The Constraint of a model directory and a grammar, made once in a process."""
    return Constraint(directory, grammar, width)


class ConstrainedAnswer:
    """The state of one answer to `prompt` that ends as a whole call within `left` tokens, its EOS included.

    It always holds a way: tokens that lead to the end of the call and fit. A token after which none would fit
    is replaced by the next one of the way. Raises UserError where `left` tokens hold no call at all.
    """

    def __init__(self, constraint: Constraint, prompt: str, left: int):
        self.closers = constraint.closers
        self.eos = constraint.codec.eos_id
        self.matcher = constraint.begun(prompt)
        self.left = left
        self.ended = False
        way = self._way_out()
        if way is None:
            raise UserError(f"max_new_tokens: {left} tokens do not hold a call of the grammar; raise it")
        self.way: list[int] = way

    def allowed(self) -> np.ndarray:
        """A boolean for each token of the vocabulary; all true after the end, where no token counts."""
        return np.ones(len(self.closers), bool) if self.ended else bits(self.matcher)

    def take(self, token: int) -> int:
        """Go on with `token`, one of `allowed`, or with another one if the call could not end in time.

        Returns the token that was taken.
        """
        self.left -= 1
        self.ended |= token == self.eos
        if self.ended:
            return token
        self._consume(token)
        onward = self.way[1:] if self.way[:1] == [token] else self.way
        way = onward if self._ends(onward) else self._way_out()
        if way is not None and len(way) < self.left:
            self.way = way
            return token
        self.matcher.rollback(1)
        self.ended = not self.way
        token = self.eos if self.ended else self.way.pop(0)
        if not self.ended:
            self._consume(token)
        return token

    def _consume(self, token: int) -> None:
        if not self.matcher.consume_token(token):
            raise RuntimeError(f"llguidance refused token {token}: {self.matcher.get_error()}")

    def _ends(self, way: list[int]) -> bool:
        """Whether these tokens lead from here to the end of the call."""
        if self.matcher.validate_tokens(way) < len(way):
            return False
        self.matcher.consume_tokens(way)
        ends = self.matcher.is_accepting()
        self.matcher.rollback(len(way))
        return ends

    def _way_out(self) -> list[int] | None:
        """Few tokens (not always the fewest) to the end of the call; None if they and an EOS do not fit."""
        ahead, way = self.matcher.deep_copy(), []
        while not ahead.is_accepting():
            if len(way) + 1 >= self.left:
                return None
            way.append(int(self.closers[bits(ahead)[self.closers].argmax()]))
            if not ahead.consume_token(way[-1]):  # of another grammar than ours: its ends are not these
                return None
        return way


def bits(matcher: LLMatcher) -> np.ndarray:
    """The tokens that a matcher allows next: booleans (vocabulary size, rounded up to 32)."""
    return np.unpackbits(np.frombuffer(matcher.compute_bitmask(), np.uint8), bitorder="little").view(bool)


def with_words(grammar: str, text: str) -> str:
    """The grammar with PROMPT_WORDS as words of `text`, the prompt as it would stand in a string of JSON."""
    # llguidance makes a suffix automaton of the chunks: its size grows with the number of words, no faster.
    part = json.dumps({"substring_chunks": chunks(text)}, ensure_ascii=False)
    # Some tokenizers begin a text with a space that their decoders take off.
    terminals = f"PROMPT_WORDS: / ?/ PROMPT_PART\nPROMPT_PART: %regex {part}"
    return PROMPT_WORDS.sub(lambda _: terminals, grammar)


def chunks(text: str) -> list[str]:
    """The parts of a text between which a value may begin and end; together they are the text."""
    runs = groupby(UNIT.findall(text), key=lambda unit: len(unit) == 1 and in_word(unit))
    return [part for word, run in runs for part in (["".join(run)] if word else run)]


def _read(quoted: str) -> str:
    """The text of a literal. Raises UserError for an empty one, and for other escapes than JSON's."""
    try:
        literal = json.loads(quoted)
        literal.encode()  # half a character (a lone surrogate) is an error, too
    except ValueError as error:
        raise UserError(f"grammar: the literal {quoted} is no string of JSON: {error}") from None
    if not literal:
        raise UserError('grammar: the literal "" is empty; write `x?` for what may be left out')
    return literal
