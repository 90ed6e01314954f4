"""Constrained decoding: whatever the tokenizer and the model, every answer is a valid call."""

import json
import random
import sys
import types
from pathlib import Path

import pytest

from stages.core.errors import UserError
from stages.core.tokenizer import TextCodec
from stages.engines.grammar import ConstrainedAnswer, Constraint, chunks, constraint
from stages.engines.load import open_engine
from stages.engines.protocol import Decoding
from stages.kinds.skills.parts.calls import Call, is_verbatim, write_call
from stages.kinds.skills.parts.grammar import lark
from stages.kinds.skills.parts.schema import Parameter, Skill, together
from tests.helpers.tiny import WORDS, tiny_config, tiny_tokenizer

pytestmark = pytest.mark.slow  # loads models

SKILLS = together(
    [
        Skill(name="weather", description="", parameters={"location": Parameter()}),
        Skill(name="news", description="", parameters={"topic": Parameter(optional=True)}),
        Skill(
            name="runApp",
            description="",
            parameters={
                "program": Parameter(),
                "asUser": Parameter(
                    type="enum", values=("Me", "don't know", "'til", "a.b (c)"), optional=True
                ),
                "nice": Parameter(type="integer", default=0),
                "scale": Parameter(type="number", optional=True),
                "in_background": Parameter(type="boolean", optional=True),
            },
        ),
        Skill(name="other", description="", fallback=True),
    ]
)
GRAMMAR = lark(SKILLS)
CALLS = [
    Call("other", {}),
    Call("news", {}),
    Call("news", {"topic": "stock market"}),
    Call("weather", {"location": 'new york, 5th ave. ("big apple") / don\'t'}),
    Call("weather", {"location": 'a\\b "the" ñ 数 😀 \n x=-2.5'}),
    Call("runApp", {"program": "", "asUser": "Me", "nice": -5, "scale": -2.5e-7, "in_background": True}),
    Call("runApp", {"program": "x", "asUser": "'til", "nice": 10, "scale": 30.25, "in_background": False}),
    Call("runApp", {"program": "y=(z)", "asUser": "don't know", "scale": 1e22}),
    Call("runApp", {"program": "-", "asUser": "a.b (c)"}),
]


def llama_tokenizer():
    """BPE over characters with ▁ for spaces, one put before the text, and byte tokens: as Llama 2."""
    from tokenizers import Tokenizer, decoders, models, normalizers, trainers

    core = Tokenizer(models.BPE(unk_token="<unk>", byte_fallback=True, fuse_unk=True))
    core.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    trainer = trainers.BpeTrainer(
        vocab_size=400, special_tokens=["<unk>", "<s>", "</s>"], show_progress=False
    )
    core.train_from_iterator(WORDS.split("\n"), trainer)
    made = json.loads(core.to_str())
    vocabulary = made["model"]["vocab"]
    for byte in range(256):
        vocabulary[f"<0x{byte:02X}>"] = len(vocabulary)
    core = Tokenizer.from_str(json.dumps(made))
    core.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    return core


def model_with(tokenizer_json: str, directory: Path, eos: int, spare: int = 3) -> Path:
    """A seeded random model for a tokenizer, with `spare` more logits than tokens."""
    import torch
    from tokenizers import Tokenizer
    from transformers import AutoModelForCausalLM, GenerationConfig

    width = Tokenizer.from_str(tokenizer_json).get_vocab_size() + spare
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = AutoModelForCausalLM.from_config(tiny_config("pythia", vocab=width), dtype=torch.float32)
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.add_(torch.randn_like(parameter) * 0.1)
    model.generation_config = GenerationConfig(eos_token_id=eos)
    model.save_pretrained(directory)
    (directory / "tokenizer.json").write_text(tokenizer_json, encoding="utf-8")
    return directory


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    root = tmp_path_factory.mktemp("models")
    gpt2 = tiny_tokenizer().backend_tokenizer.to_str()
    llama = llama_tokenizer().to_str()
    return {
        "gpt2": model_with(gpt2, root / "gpt2", 1),
        "llama": model_with(llama, root / "llama", 2),
    }


KINDS = ("gpt2", "llama")


def decoding(**knobs) -> Decoding:
    return Decoding(engine="transformers", precision="f32", threads=1, **{"batch_size": 8, **knobs})


def answers(engine, prompts, sampling, seeds, order, grammar=GRAMMAR) -> dict:
    found = engine.generate([prompts[i] for i in order], sampling, [seeds[i] for i in order], grammar)
    return {order[answer.index]: answer._replace(index=0) for answer in found}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    "knobs",
    [
        {"max_new_tokens": 12},
        {"max_new_tokens": 60},
        {"temperature": 1.0, "max_new_tokens": 16},
        {"temperature": 1.0, "max_new_tokens": 60},
        {"temperature": 1.5, "max_new_tokens": 40, "top_k": 5, "frequency_penalty": 1.0},
    ],
    ids=str,
)
def test_every_answer_is_a_valid_call(models, kind, knobs):
    knobs = {**knobs, "max_new_tokens": knobs["max_new_tokens"] + 14 * (kind == "llama")}  # names in letters
    sampling = decoding(**knobs)
    engine = open_engine(models[kind], sampling)
    draw = random.Random(3)
    prompts = [" ".join(draw.choices(WORDS.split(), k=draw.randint(1, 70))) for _ in range(24)]
    found = answers(engine, prompts, sampling, list(range(24)), list(range(24)))
    for answer in found.values():
        assert answer.finish_reason == "stop", answer
        assert answer.generated_tokens <= sampling.max_new_tokens
        SKILLS.checked(answer.text)
    if sampling.temperature:
        assert len({SKILLS.checked(answer.text).name for answer in found.values()}) > 1
        shuffled = draw.sample(range(24), 24)
        for order in (shuffled, shuffled[:5], [3]):
            assert answers(engine, prompts, sampling, list(range(24)), order) == {i: found[i] for i in order}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("call", CALLS, ids=str)
def test_what_a_student_is_trained_to_write_is_allowed(models, kind, call):
    """The tokens of a call and the EOS, which is allowed at the end alone; and the call is read back."""
    codec, held = TextCodec(models[kind]), constraint(models[kind], GRAMMAR)
    text = write_call(call)
    assert SKILLS.checked(text) == call
    ((*ids, eos),) = codec.answers([text])
    row = ConstrainedAnswer(held, "", len(ids) + 60)
    for token in ids:
        allowed = row.allowed()
        assert allowed[token] and not allowed[eos], codec.tokenizer.id_to_token(token)
        assert row.take(token) == token
    assert row.allowed().nonzero()[0].tolist() == [eos]
    made = SKILLS.checked(codec.decode(ids))
    assert made == call and [*map(type, made.arguments.values())] == [*map(type, call.arguments.values())]


def test_the_grammar_stays_as_it_is_but_for_a_blank_that_the_tokenizer_puts_first(models):
    assert constraint(models["gpt2"], GRAMMAR).lark.startswith(GRAMMAR)
    held = constraint(models["llama"], 'start: "start(" /start "?/ start | ")"').lark
    assert held.startswith('answer: "start(" /start "?/ answer | ")"\nstart: " " answer\n')


PLACES = together(
    [
        Skill(
            name="place",
            description="",
            parameters={
                "of": Parameter(verbatim=True),
                "near": Parameter(verbatim=True, optional=True),
                "note": Parameter(optional=True),
            },
        ),
        Skill(name="other", description="", fallback=True),
    ]
)
ODD = "What's Reykjavík's \"time\" near São_Tomé, (C:\\x) ß 3.5?\n東京の天気 => 😀"


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    "knobs", [{}, {"temperature": 1.0}, {"temperature": 1.0, "max_new_tokens": 24}], ids=str
)
def test_a_verbatim_value_is_words_of_the_prompt(models, kind, knobs):
    sampling = decoding(**{"max_new_tokens": 60, **knobs})
    draw, found = random.Random(4), []
    prompts = [" ".join(draw.choices(WORDS.split(), k=draw.randint(1, 9))) for _ in range(24)] + [ODD]
    engine = open_engine(models[kind], sampling)
    for answer in engine.generate(prompts, sampling, list(range(25)), lark(PLACES)):
        call = PLACES.checked(answer.text)
        words = [call.arguments[name] for name in ("of", "near") if name in call.arguments]
        assert all(is_verbatim(value, prompts[answer.index]) for value in words), answer
        found += filter(None, words)
    assert len({*found}) > 5


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    ("value", "good"),
    [
        ("Reykjavík", True),
        ('Reykjavík\'s "time"', True),
        ("São_Tomé, (C:\\x) ß 3.5", True),
        ("東京", True),
        ("の天", True),
        ("Tomé", True),
        ("😀", True),
        ("", True),
        ("time time", False),
        ("time São", False),
        ("Reyk", False),
        ("near Berlin", False),
    ],
)
def test_which_words_of_a_prompt_a_value_may_be(models, kind, value, good):
    codec, held = TextCodec(models[kind]), constraint(models[kind], lark(PLACES))
    text = write_call(Call("place", {"of": value, "note": "anything else"}))
    ((*ids, _eos),) = codec.answers([text])
    start = held.begun(ODD)
    taken = start.validate_tokens(ids) == len(ids)
    assert taken == good
    assert not good or (start.consume_tokens(ids) and start.is_accepting())


def test_the_words_of_a_prompt_are_looked_up_only_where_the_grammar_asks_for_them(models):
    held = constraint(models["gpt2"], GRAMMAR)
    assert held.lark_for("plot") == held.lark
    held = constraint(models["gpt2"], lark(PLACES))
    assert held.lark_for("") != held.lark_for("plot") and not held.begun("").is_error()


@pytest.mark.parametrize("text", ["", "the glass's s", '\\u00e9\\n\\"a b', "ไทยภาษา x", ODD])
def test_chunks_together_are_the_text(text):
    assert "".join(chunks(text)) == text


def test_a_tokenizer_that_lower_cases_is_the_users_to_replace(models, tmp_path):
    from tokenizers import Tokenizer, normalizers

    core = Tokenizer.from_file(str(models["gpt2"] / "tokenizer.json"))
    core.normalizer = normalizers.Lowercase()
    core.save(str(tmp_path / "tokenizer.json"))
    (tmp_path / "config.json").write_text('{"eos_token_id": 1}')
    with pytest.raises(
        UserError, match=r"writes 'runApp\(program=\"' of the grammar as 'runapp\(.*keeps case"
    ):
        Constraint(tmp_path, GRAMMAR)


def test_letters_without_a_token_are_the_users_to_mend(tmp_path):
    from tokenizers import Tokenizer, decoders
    from tokenizers.models import BPE

    core = Tokenizer(BPE({"<unk>": 0, "n": 1, "(": 2, ")": 3, "0": 4}, [], unk_token="<unk>"))
    core.add_special_tokens(["<unk>"])
    core.decoder = decoders.ByteFallback()
    core.save(str(tmp_path / "tokenizer.json"))
    (tmp_path / "config.json").write_text('{"eos_token_id": 0}')
    Constraint(tmp_path, lark(together([Skill(name="n", description="")])))
    with pytest.raises(UserError, match="writes 'news\\(\\)' of the grammar as"):
        Constraint(tmp_path, lark(together([Skill(name="news", description="")])))


def test_a_tokenizer_whose_bytes_are_unknown_is_the_users_to_mend(tmp_path, models):
    from tokenizers import Tokenizer, decoders

    core = Tokenizer.from_file(str(models["llama"] / "tokenizer.json"))
    core.decoder = decoders.WordPiece()
    core.save(str(tmp_path / "tokenizer.json"))
    (tmp_path / "config.json").write_text('{"eos_token_id": 2}')
    with pytest.raises(UserError, match="no grammar works with this tokenizer"):
        Constraint(tmp_path, GRAMMAR)


def test_a_bad_grammar_and_too_few_tokens_are_the_users_to_mend(models):
    with pytest.raises(UserError, match="grammar: "):
        Constraint(models["gpt2"], "start: nothing")
    sampling = decoding(max_new_tokens=2)
    with pytest.raises(UserError, match="max_new_tokens: 2 tokens do not hold a call"):
        list(open_engine(models["gpt2"], sampling).generate(["plot"], sampling, [1], GRAMMAR))


@pytest.mark.parametrize(
    ("grammar", "told"),
    [
        ('start: "" "a"', 'literal "" is empty'),
        (r'start: "\d"', "no string of JSON"),
        (r'start: "\ud800"', "no string of JSON"),
        ("%import common.NUMBER\nstart: NUMBER", None),
        ("start: /a{1,100000}/", None),
    ],
)
def test_a_grammar_of_a_clients_own_is_understood_or_theirs_to_mend(models, grammar, told):
    sampling = decoding(max_new_tokens=8, batch_size=1)
    engine = open_engine(models["gpt2"], sampling)
    if told is None:
        (answer,) = engine.generate(["plot"], sampling, [1], f"{grammar}\n")
        assert answer.text.replace(".", "").isdigit() or set(answer.text) == {"a"}
        return
    with pytest.raises(UserError, match=f"grammar: .*{told}"):
        list(engine.generate(["plot"], sampling, [1], f"{grammar}\n"))


@pytest.mark.parametrize("knobs", [{}, {"temperature": 1.0, "frequency_penalty": 0.5}], ids=str)
def test_log_probabilities_stay_those_of_the_raw_logits(models, knobs, monkeypatch):
    import torch
    from transformers import AutoModelForCausalLM

    from stages.engines import with_transformers
    from stages.engines.protocol import finished

    seen = []
    monkeypatch.setattr(
        with_transformers, "finished", lambda *given: (seen.append(given), finished(*given))[1]
    )
    sampling = decoding(max_new_tokens=20, **knobs)
    prompts = ["plot a line", "read csv"]
    found = answers(open_engine(models["gpt2"], sampling), prompts, sampling, [1, 2], [0, 1])
    model = AutoModelForCausalLM.from_pretrained(models["gpt2"], dtype=torch.float32)
    for _, place, prompt, ids, logprobs in seen:
        ids = ids[: found[place].generated_tokens]
        with torch.inference_mode():
            logits = model(torch.tensor([prompt + ids])).logits[0, len(prompt) - 1 : -1]
        expected = logits.log_softmax(-1)[range(len(ids)), ids].tolist()
        assert logprobs[: len(ids)] == pytest.approx(expected, abs=1e-4)
        assert min(expected) < -3  # not renormalised over what is allowed


def test_greedy_takes_the_likeliest_allowed_token(models):
    """Against a search of our own: the likeliest token after which a call is possible."""
    import torch
    from transformers import AutoModelForCausalLM

    sampling = decoding(max_new_tokens=60)
    (answer,) = open_engine(models["gpt2"], sampling).generate(["fit a curve"], sampling, [0], GRAMMAR)
    codec, model = TextCodec(models["gpt2"]), AutoModelForCausalLM.from_pretrained(models["gpt2"])
    (prompt,), ids = codec.prompts(["fit a curve"]), []
    start = constraint(models["gpt2"], GRAMMAR, model.config.vocab_size).start
    while True:
        with torch.inference_mode():
            ranked = model(torch.tensor([prompt + ids])).logits[0, -1].argsort(descending=True).tolist()
        own = start.deep_copy()
        assert own.consume_tokens(ids)
        if own.is_accepting():
            break
        ids.append(next(token for token in ranked if own.validate_tokens([token])))
    assert answer.text == codec.decode(ids) and answer.generated_tokens == len(ids) + 1


def test_openvino_makes_only_those_again_that_break_the_grammar(models, tmp_path, monkeypatch):
    from stages.engines import with_transformers
    from stages.engines.protocol import finished

    monkeypatch.chdir(tmp_path)
    prompts, seen = ["plot a line", "read csv", "fit a curve"], {}
    spy = lambda *given: (seen.__setitem__(given[1], given[3:]), finished(*given))[1]  # noqa: E731
    monkeypatch.setattr(with_transformers, "finished", spy)
    reference = open_engine(models["gpt2"], decoding(max_new_tokens=60))
    expected = answers(reference, prompts, decoding(max_new_tokens=60), [0] * 3, [0, 1, 2])
    obeying = {place: [*map(list, made)] for place, made in seen.items()}

    sampling = Decoding(engine="openvino", precision="f32", threads=1, batch_size=8, max_new_tokens=60)
    engine = open_engine(models["gpt2"], sampling)
    free = dict(engine._decoded(engine.codec.prompts(prompts), sampling, [0] * 3))
    asked = []
    generate = engine.constrained.generate
    monkeypatch.setattr(
        engine.constrained, "generate", lambda *given: (asked.append(given[0]), generate(*given))[1]
    )
    assert answers(engine, prompts, sampling, [0] * 3, [0, 1, 2]) == expected
    assert asked == [prompts]  # a model with random weights breaks it always
    ends = obeying[1][0].index(engine.codec.eos_id) + 1
    free[1] = tuple(made[:ends] for made in obeying[1])
    engine._decoded = lambda *_: iter(free.items())
    assert answers(engine, prompts, sampling, [0] * 3, [0, 1, 2]) == expected
    assert asked[1] == [prompts[0], prompts[2]]
    free[1] = tuple(made[: ends - 1] for made in obeying[1])  # cut off before its end
    assert answers(engine, prompts, sampling, [0] * 3, [0, 1, 2]) == expected and asked[2] == prompts
    with pytest.raises(UserError, match="set temperature to 0, or engine to transformers"):
        list(engine.generate(prompts, sampling.model_copy(update={"temperature": 1.0}), [0] * 3, GRAMMAR))


def test_vllm_gets_the_grammar_of_the_tokens(models, monkeypatch):
    made, asked = [], []

    class FakeEngine:
        """Answers what a student would be trained to write."""

        @classmethod
        def from_engine_args(cls, arguments):
            made.append(arguments)
            return cls()

        def add_request(self, request_id, prompt, params):
            asked.append((request_id, params))

        def has_unfinished_requests(self):
            return bool(asked)

        def step(self):
            name, params = asked.pop()
            given.append(params.get("structured_outputs"))
            (tokens,) = TextCodec(models["gpt2"]).answers(['runApp(program="Ed")'])
            logprobs = [{token: types.SimpleNamespace(logprob=-1.0)} for token in tokens]
            done = types.SimpleNamespace(token_ids=tokens, logprobs=logprobs)
            return [types.SimpleNamespace(request_id=name, finished=True, outputs=[done])]

    given = []
    fakes = {
        "vllm": {"EngineArgs": dict, "SamplingParams": dict, "LLMEngine": FakeEngine},
        "vllm.config": {"StructuredOutputsConfig": dict},
        "vllm.sampling_params": {"StructuredOutputsParams": dict},
    }
    for name, members in fakes.items():
        module = types.ModuleType(name)
        module.__dict__.update(members)
        monkeypatch.setitem(sys.modules, name, module)
    sampling = Decoding(engine="vllm", precision="bf16")
    engine = open_engine(models["gpt2"], sampling)
    (plain,) = engine.generate(["plot"], sampling, [1])
    (answer,) = engine.generate(["plot"], sampling, [1], GRAMMAR)
    list(engine.generate(["plot"], sampling, [1], lark(PLACES)))
    assert plain.text == 'runApp(program="Ed")' and answer.text == 'runApp(program="Ed")'
    calls, words = (constraint(models["gpt2"], own).lark_for("plot") for own in (GRAMMAR, lark(PLACES)))
    assert given == [None, {"grammar": calls}, {"grammar": words}] and '["plot"]' in words
    assert [own["structured_outputs_config"] for own in made] == [{"backend": "guidance"}]


def test_vllm_reads_our_lark_as_lark(models):
    """Its guidance backend gives llguidance a grammar of either kind to tell apart."""
    from llguidance import LLMatcher, grammar_from

    for kind in KINDS:
        spelled = constraint(models[kind], lark(PLACES)).lark_for("plot")
        assert grammar_from("grammar", spelled) == LLMatcher.grammar_from_lark(spelled)


def test_openai_gets_the_grammar_in_the_field_of_vllm(models, monkeypatch):
    from stages.engines import with_openai

    asked = []

    class Client:
        def __init__(self, **_):
            self.completions = self.with_raw_response = self

        def create(self, **body):
            asked.append(body)
            choice = {"text": 'runApp(program="Ed")', "finish_reason": "stop"}
            return types.SimpleNamespace(content=json.dumps({"choices": [choice]}).encode(), headers={})

    monkeypatch.setattr(with_openai.openai, "OpenAI", Client)
    sampling = Decoding(engine="openai", base_url="http://localhost/v1", served_model="m", top_k=4)
    engine = open_engine(models["gpt2"], sampling)
    (plain,), (answer,), _ = (
        [*engine.generate(["plot"], sampling, [1], grammar)] for grammar in (None, GRAMMAR, lark(PLACES))
    )
    assert plain.text == 'runApp(program="Ed")' and answer.text == 'runApp(program="Ed")'
    assert asked[0]["extra_body"] == {"top_k": 4}
    for body, grammar in zip(asked[1:], (GRAMMAR, lark(PLACES)), strict=True):
        expected = constraint(models["gpt2"], grammar).lark_for("plot")
        assert body["extra_body"] == {"top_k": 4, "structured_outputs": {"grammar": expected}}
