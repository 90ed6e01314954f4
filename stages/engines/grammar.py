"""Constrained decoding: a Lark grammar as masks over the tokens of a model, computed by llguidance.

llguidance matches the bytes of tokens, and a tokenizer need not write a text as it is: it may lower-case, or
put spaces in that its decoder takes out again. So the literals of the grammar are replaced by what the
tokenizer writes for them, the model is held to the spelling that it was trained with, and in the decoded
answer they become the grammar's own again (`restored`). Open texts need nothing: a text that a decoder takes
spaces out of is still a text.
"""

import json
import re
from functools import cached_property, lru_cache
from pathlib import Path

import numpy as np
from llguidance import LLMatcher, LLTokenizer

from stages.core.errors import UserError
from stages.core.tokenizer import TextCodec
from stages.engines import prompt_words

LITERAL = r'"(?:[^"\\]|\\.)*"'
CONTENT = r'(?:[^"\\]|\\.)*"'  # of an open text, to its end
# Else llguidance encodes bytes that must follow by themselves, and a tokenizer may write these otherwise.
NO_FORCING = '%llguidance {"no_forcing": true}\n'
CALL = re.compile(r"[A-Za-z_]\w*\(", re.ASCII)


class Constraint:
    """A grammar of calls (stages/kinds/skills/parts/grammar.py) in the spelling of one tokenizer.

    `width` is the number of logits. A terminal PROMPT_WORDS stands for words of the prompt, whatever the
    grammar makes of it. Raises UserError where the tokenizer cannot tell two literals apart, or cannot write
    one, and for a grammar that llguidance does not read.
    """

    def __init__(self, directory: Path, grammar: str, width: int = 0):
        self.codec = TextCodec(directory)
        self.where = f"{directory}/tokenizer.json"
        self.tokenizer = self._tokenizer(width)
        self.lark, self.back, self.openers = self._spelled(grammar)
        self.start = self._matcher(self.lark)
        self.closers = np.array(sorted(range(self.tokenizer.vocab_size), key=self._closing))

    def lark_for(self, prompt: str) -> str:
        """The grammar of the answers to a prompt."""
        if not prompt_words.TERMINAL.search(self.lark):
            return self.lark
        inner = json.dumps(prompt, ensure_ascii=False)[1:-1]
        ids = self.codec.tokenizer.encode(inner, add_special_tokens=False).ids
        return prompt_words.put_into(self.lark, self.tokenizer.decode_str(ids))

    def begun(self, prompt: str) -> LLMatcher:
        """What answers a prompt, before its first token."""
        own = self.lark_for(prompt)
        return self.start.deep_copy() if own == self.lark else self._matcher(own)

    def _matcher(self, lark: str) -> LLMatcher:
        made = LLMatcher(self.tokenizer, lark, log_level=0)
        if made.is_error():
            raise UserError(f"grammar: {made.get_error()}")
        return made

    def _tokenizer(self, width: int) -> LLTokenizer:
        tokens = max(width, self.codec.vocabulary_size)
        try:
            return LLTokenizer(self.codec.tokenizer.to_str(), n_vocab=tokens, eos_token=self.codec.eos_id)
        except ValueError as error:
            raise UserError(f"{self.where}: no grammar works with this tokenizer: {error}") from None

    def _closing(self, token: int) -> tuple:
        """Ranks tokens by how soon they lead out of a call: what ends a text, what ends a call, long ones.

        Last are those that may begin a character and leave it unfinished.
        """
        text = self.tokenizer.decode_bytes([token])
        begins = any(byte >= 0xC0 for byte in text)
        return not text.startswith(b'")'), text != b'"', text != b")", begins, -len(text), token

    def _spelled(self, grammar: str) -> tuple[str, dict[str, str], set[str]]:
        """The grammar of token bytes, the literal for each as it is decoded, and those that open a text."""
        own: dict[str, str] = {}
        back: dict[str, str] = {}
        openers = set()
        for quoted, text in dict.fromkeys(re.findall(rf"({LITERAL})( TEXT| PROMPT_WORDS)?", grammar)):
            literal = _read(quoted)
            own[quoted], decoded = self._written(literal)
            if back.setdefault(decoded, literal) != literal:
                raise UserError(
                    f"{self.where} writes {back[decoded]!r} and {literal!r} of the grammar alike, as "
                    f"{decoded!r}; rename one of them in the skill files, or take another base"
                )
            if text:
                openers.add(decoded)
        lark = re.sub(LITERAL, lambda match: _quoted(own[match[0]]), grammar)
        return f"{lark.rstrip()}\n{NO_FORCING}", back, openers

    def _written(self, literal: str) -> tuple[str, str]:
        """The bytes of a literal's tokens as a text, and what these decode to, both as within an answer.

        A call begins an answer; anything else comes after a value, and a digit after what ends in no quote.
        """
        before, after = "" if CALL.match(literal) else "0", "0" if literal[-1] in "=-+." else ""
        ids, start = (
            self.codec.tokenizer.encode(text, add_special_tokens=False).ids
            for text in (before + literal + after, before)
        )
        raw, decoded = (
            read(ids).removeprefix(read(start)).removesuffix(after)
            for read in (self.tokenizer.decode_str, self.codec.decode)
        )
        if not decoded or any(self.tokenizer.is_special_token(token) for token in ids):
            raise UserError(f"{self.where} has no tokens for {literal!r} of the grammar; take another base")
        return raw, decoded

    def restored(self, text: str) -> str:
        """A decoded answer with the literals of the grammar in their own spelling."""
        return self._literals.sub(lambda match: self.back[match[1] or match[2]] + (match[3] or ""), text)

    @cached_property
    def _literals(self) -> re.Pattern:
        longest = sorted(self.back, key=len, reverse=True)
        closed, opened = (
            "|".join(re.escape(literal) for literal in longest if (literal in self.openers) == opens)
            for opens in (False, True)
        )
        return re.compile(f"({closed or '(?!)'})|({opened or '(?!)'})({CONTENT})")


@lru_cache(maxsize=16)  # a server is given grammars by its clients
def constraint(directory: Path, grammar: str, width: int = 0) -> Constraint:
    """The Constraint of a model directory and a grammar, made once in a process."""
    return Constraint(directory, grammar, width)


class Row:
    """The state of one answer to a prompt, of `left` tokens at most with its EOS, that ends as a whole call.

    It knows a way to the end that fits in the tokens left, and goes it where a token would leave none. Raises
    UserError if there is none to begin with.
    """

    def __init__(self, constraint: Constraint, prompt: str, left: int):
        self.closers, self.eos = constraint.closers, constraint.codec.eos_id
        self.matcher, self.left, self.ended = constraint.begun(prompt), left, False
        found = self._few()
        if found is None:
            raise UserError(f"max_new_tokens: {left} tokens do not hold a call of the grammar; raise it")
        self.way: list[int] = found

    def allowed(self) -> np.ndarray:
        """A boolean for each token; all of them after the end, which takes no part in the answer."""
        return np.ones(len(self.closers), bool) if self.ended else bits(self.matcher)

    def take(self, token: int) -> int:
        """Go on with `token`, one of `allowed`, or with another one if the call could not end in time."""
        self.left -= 1
        self.ended |= token == self.eos
        if self.ended:
            return token
        self._consume(token)
        onward = self.way[1:] if self.way[:1] == [token] else self.way
        way = onward if self._ends(onward) else self._few()
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
        if self.matcher.validate_tokens(way) < len(way):
            return False
        self.matcher.consume_tokens(way)
        ends = self.matcher.is_accepting()
        self.matcher.rollback(len(way))
        return ends

    def _few(self) -> list[int] | None:
        """Tokens to the end of the call, few if not the fewest; None: with the EOS more than are left."""
        ahead, way = self.matcher.deep_copy(), []
        while not ahead.is_accepting():
            if len(way) + 1 >= self.left:
                return None
            way.append(int(self.closers[bits(ahead)[self.closers].argmax()]))
            if not ahead.consume_token(way[-1]):  # of another grammar than ours: its ends are not these
                return None
        return way


def bits(matcher: LLMatcher) -> np.ndarray:
    """What a matcher allows next: booleans, for as many tokens as there are and a few more."""
    return np.unpackbits(np.frombuffer(matcher.compute_bitmask(), np.uint8), bitorder="little").view(bool)


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


def _quoted(literal: str) -> str:
    return json.dumps(literal, ensure_ascii=False).replace("\x7f", r"\u007f")  # llguidance wants it so
