"""One way to turn prompts and answers into token ids, for training and for generation alike."""

from pathlib import Path

from stages.support.errors import UserError
from stages.support.files import read_json


class TextCodec:
    """The fast tokenizer of a model directory, without importing transformers.

    A prompt gets whatever special tokens the tokenizer's own post-processor puts before text (BOS where the
    model wants one), never an EOS; an answer gets none and ends with EOS. Because finetuning and every
    engine use this class, training and inference cannot differ.
    """

    def __init__(self, directory: Path):
        from tokenizers import Tokenizer

        directory = Path(directory)
        if not (directory / "tokenizer.json").is_file():
            raise UserError(
                f"{directory}: no tokenizer.json; a base model needs its tokenizer files "
                "(tokenizer.json, tokenizer_config.json): copy them beside the weights"
            )
        self.tokenizer = Tokenizer.from_file(str(directory / "tokenizer.json"))
        self.tokenizer.no_padding()
        self.tokenizer.no_truncation()
        self.eos_id = self._eos_id(directory)
        before, after = self._specials()
        self.prefix, self.suffix_length = before, after

    def _eos_id(self, directory: Path) -> int:
        for name in ("generation_config.json", "config.json"):
            if (directory / name).is_file():
                eos = read_json(directory / name).get("eos_token_id")
                if eos is not None:
                    return eos[0] if isinstance(eos, list) else eos
        if (directory / "tokenizer_config.json").is_file():
            token = read_json(directory / "tokenizer_config.json").get("eos_token")
            token = token.get("content") if isinstance(token, dict) else token
            if token is not None and self.tokenizer.token_to_id(token) is not None:
                return self.tokenizer.token_to_id(token)
        raise UserError(f"{directory}: no eos_token_id in config.json or generation_config.json; add it")

    def _specials(self) -> tuple[list[int], int]:
        """Special tokens the post-processor adds before text, and how many it adds after."""
        encoding = self.tokenizer.encode("a")
        plain = self.tokenizer.encode("a", add_special_tokens=False).ids
        extra = len(encoding.ids) - len(plain)
        for start in range(extra + 1):
            if encoding.ids[start : start + len(plain)] == plain:
                return encoding.ids[:start], extra - start
        raise UserError(
            "tokenizer.json: the post-processor changes the text's own tokens; this is not supported"
        )

    @property
    def vocabulary_size(self) -> int:
        return self.tokenizer.get_vocab_size()

    def prompts(self, texts: list[str]) -> list[list[int]]:
        encodings = self.tokenizer.encode_batch(texts, add_special_tokens=False)
        return [self.prefix + encoding.ids for encoding in encodings]

    def answers(self, texts: list[str]) -> list[list[int]]:
        encodings = self.tokenizer.encode_batch(texts, add_special_tokens=False)
        return [[*encoding.ids, self.eos_id] for encoding in encodings]

    def decode(self, ids: list[int]) -> str:
        return self.tokenizer.decode(ids, skip_special_tokens=True)
