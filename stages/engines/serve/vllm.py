"""`vllm serve` for a student: its command line, and a chat template that makes the prompts of training.

No test here starts it, for want of vLLM and CUDA; what the template renders is tested.
"""

import json
from pathlib import Path

from stages.core.chat_template import ChatTemplate
from stages.core.tokenizer import TextCodec
from stages.engines.load import cuda_is_available
from stages.engines.protocol import Decoding

REQUEST = '(messages | selectattr("role", "equalto", "user") | list | last).content'


def available() -> bool:
    """Is vLLM installed, and a CUDA device there for it?"""
    from importlib.util import find_spec

    return find_spec("vllm") is not None and cuda_is_available()


def chat_template(codec: TextCodec, prompt: str) -> ChatTemplate:
    """The template that puts the student prompt of that source around the last user message of a chat.

    The model's own template, or the tokenizer's first token, comes around that. Raises UserError for a
    prompt with filters of this project: vLLM does not know them.
    """
    document = f'{{"id": "", "title": "", "text": {REQUEST}, "metadata": {{}}}}'
    rendered = f"{{%- set document = {document} -%}}\n{{%- set prompt -%}}\n{prompt}\n{{%- endset -%}}\n"
    if codec.chat is None:
        first = "".join(map(codec.tokenizer.id_to_token, codec.prefix))
        return ChatTemplate(f"{rendered}{{{{ {json.dumps(first)} ~ (prompt | trim) }}}}", "student.md", {})
    message = '{"role": "user", "content": prompt | trim}'
    # The newline goes with trim_blocks, and nothing else of the model's template.
    source = f"{rendered}{{%- set messages = [{message}] %}}\n{codec.chat.source}"
    return ChatTemplate(source, "student.md", codec.chat.tokens)


def command(
    directory: Path, name: str, template: Path, sampling: Decoding, host: str, port: int
) -> list[str]:
    """The command line, with the sampling of a request that does not say otherwise.

    Without max_new_tokens: vLLM would hold requests to it that say otherwise.
    """
    usual = sampling.model_dump(include={"temperature", "top_k", "top_p"})
    return [
        *("vllm", "serve", str(directory), "--served-model-name", name, "--host", host, "--port", str(port)),
        *("--chat-template", str(template), "--chat-template-content-format", "string"),
        *("--override-generation-config", json.dumps(usual)),
    ]
