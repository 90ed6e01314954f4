"""One way to turn prompts and answers into token ids, for training and for generation alike."""

import re
from functools import cached_property
from pathlib import Path
from typing import Any

from stages.core.chat_template import read_chat_template
from stages.core.errors import UserError
from stages.core.files import read_object


class TextCodec:
    """The fast tokenizer of a model directory, without importing transformers.

    If the model has a chat template, a prompt is the user's message of a chat, rendered with it up to where
    the answer begins; a special token that stands in the message as text gets a space inside, so that no
    text can end its turn. Else a prompt gets what special tokens the tokenizer's own post-processor puts
    before text (BOS where the model wants one), never an EOS. An answer ends with EOS and gets nothing else.
    Because finetuning and every engine use this class, training and inference cannot differ.

    `chat=False` leaves the template of the directory out. Raises UserError for files that are missing or bad.
    """

    def __init__(self, directory: Path, chat: bool = True):
        from tokenizers import Tokenizer

        directory = Path(directory)
        if not (directory / "tokenizer.json").is_file():
            raise UserError(
                f"{directory}: no tokenizer.json; a base model needs its tokenizer files "
                "(tokenizer.json, tokenizer_config.json): copy them beside the weights"
            )
        try:
            self.tokenizer = Tokenizer.from_file(str(directory / "tokenizer.json"))
        except Exception as error:  # the library raises no other class
            raise UserError(
                f"{directory / 'tokenizer.json'}: not a whole tokenizer ({error}); fetch the file again"
            ) from None
        self.tokenizer.no_padding()
        self.tokenizer.no_truncation()
        self.eos_id = self._eos_id(directory)
        self.prefix, self.suffix_length = self._specials()
        self.chat = read_chat_template(directory) if chat else None

    def _eos_id(self, directory: Path) -> int:
        """The token that ends an answer: of several that generation stops at, the tokenizer's `eos_token`.

        Instruction models list more than one (Qwen: <|im_end|>, <|endoftext|>); all of their engines stop at
        each of these.
        """
        named: int | None = None
        if (directory / "tokenizer_config.json").is_file():
            token = read_object(directory / "tokenizer_config.json").get("eos_token")
            token = token.get("content") if isinstance(token, dict) else token
            named = self.tokenizer.token_to_id(token) if isinstance(token, str) else None
        for file in (directory / "generation_config.json", directory / "config.json"):
            eos = read_object(file).get("eos_token_id") if file.is_file() else None
            ends: list[Any] = eos if isinstance(eos, list) else [eos]
            if eos is None:
                continue
            if not ends or not all(type(end) is int and self.tokenizer.id_to_token(end) for end in ends):
                raise UserError(f"{file}: eos_token_id {eos!r} is no token of tokenizer.json; correct it")
            return named if named is not None and named in ends else ends[0]
        if named is None:
            raise UserError(f"{directory}: no eos_token_id in config.json or generation_config.json; add it")
        return named

    def _specials(self) -> tuple[list[int], int]:
        """Special tokens the post-processor adds before text, and how many it adds after."""
        encoding = self.tokenizer.encode("a")
        plain = self.tokenizer.encode("a", add_special_tokens=False).ids
        extra = len(encoding.ids) - len(plain)
        for start in range(extra + 1):
            if encoding.ids[start : start + len(plain)] == plain:
                return encoding.ids[:start], extra - start
        raise UserError(
            "tokenizer.json: the post-processor changes the tokens of the text; this is not supported"
        )

    @property
    def vocabulary_size(self) -> int:
        return self.tokenizer.get_vocab_size()

    def prompts(self, texts: list[str]) -> list[list[int]]:
        """The ids of whole prompts, in the model's chat template if it has one."""
        if self.chat is None:
            return self.plain(texts)
        rendered = [self.chat.render(self.disarmed(text)) for text in texts]
        return [encoding.ids for encoding in self.tokenizer.encode_batch(rendered, add_special_tokens=False)]

    def plain(self, texts: list[str]) -> list[list[int]]:
        """The ids of texts as they are, whatever template there is."""
        encodings = self.tokenizer.encode_batch(texts, add_special_tokens=False)
        return [self.prefix + encoding.ids for encoding in encodings]

    def disarmed(self, text: str) -> str:
        """`text` with a space inside each special token that stands in it."""
        while self._special.search(text):  # again: what is left of two that overlap may be another one
            text = self._special.sub(lambda match: re.sub(r"(\S)", r"\1 ", match[0], count=1), text)
        return text

    @cached_property
    def _special(self) -> re.Pattern:
        """Special tokens in a text, all but those that have less than two characters, blanks not counted."""
        known = self.tokenizer.get_added_tokens_decoder().values()
        names = sorted(t.content for t in known if t.special and len("".join(t.content.split())) > 1)
        return re.compile("|".join(map(re.escape, names)) or r"(?!)")

    def clipped(self, text: str, tokens: int) -> str:
        """The beginning of a text that has more than so many tokens; else all of it."""
        encoding = self.tokenizer.encode(text, add_special_tokens=False)
        return text if len(encoding.ids) <= tokens else text[: encoding.offsets[tokens][0]].rstrip()

    def answers(self, texts: list[str]) -> list[list[int]]:
        """The ids of answers, each with EOS at its end."""
        encodings = self.tokenizer.encode_batch(texts, add_special_tokens=False)
        return [[*encoding.ids, self.eos_id] for encoding in encodings]

    def decode(self, ids: list[int]) -> str:
        return self.tokenizer.decode(ids, skip_special_tokens=True)
