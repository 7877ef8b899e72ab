"""Models of text behind the clients that people use: openai, unmodified, and what llama.cpp says itself."""

from __future__ import annotations

import base64
import importlib.util
import re
import threading
from pathlib import Path
from typing import Any
from urllib.error import HTTPError

import numpy as np
import openai
import pytest
import real_models

from backend.errors import ArchiveError
from backend.runtime.base import load_model
from tests.e2e.serving.servers import Running, serving, worker_pids
from tests.e2e.serving.tiny_bert import write_bert

pytestmark = pytest.mark.e2e
QUESTION: Any = [{"role": "user", "content": "Name a colour."}]
GGUF, MINILM = "smollm2-135m", "minilm"


def real_model(folder: str) -> Path:
    path = real_models.find_model(folder)
    if path is None:
        pytest.skip(f"model {folder} is not here: scripts/test fetches it")
    return path


@pytest.fixture(scope="module")
def smollm(tmp_path_factory: pytest.TempPathFactory) -> Any:
    if importlib.util.find_spec("llama_cpp") is None:
        pytest.skip("llama-cpp-python is not installed: scripts/llama_cpp compiles it")
    path = real_model(GGUF) / f"{GGUF}.gguf"
    with serving(tmp_path_factory.mktemp("gguf"), str(path), "--context", "512") as server:
        yield server


@pytest.fixture(scope="module")
def minilm(tmp_path_factory: pytest.TempPathFactory) -> Any:
    with serving(tmp_path_factory.mktemp("onnx"), str(real_model(MINILM))) as server:
        yield server


def client(server: Running) -> openai.OpenAI:
    return openai.OpenAI(base_url=server.url + "/v1", api_key="none", max_retries=0)


def test_a_conversation_is_what_llama_cpp_makes_of_it(smollm: Running) -> None:
    import llama_cpp

    path = real_model(GGUF) / f"{GGUF}.gguf"
    reference = llama_cpp.Llama(str(path), n_ctx=512, n_threads=1, flash_attn=True, verbose=False)
    expected = reference.create_chat_completion(QUESTION, max_tokens=12, temperature=0)["choices"][0]
    answer = client(smollm).chat.completions.create(
        model=GGUF, messages=QUESTION, max_tokens=12, temperature=0, logprobs=True, top_logprobs=2
    )
    choice = answer.choices[0]
    assert choice.message.content == expected["message"]["content"]
    assert choice.finish_reason == expected["finish_reason"]
    assert answer.usage is not None
    assert answer.usage.total_tokens == answer.usage.prompt_tokens + answer.usage.completion_tokens
    assert choice.logprobs is not None and choice.logprobs.content is not None
    told = choice.logprobs.content
    assert len(told) == answer.usage.completion_tokens
    assert "".join(each.token for each in told).startswith(choice.message.content or "?")
    assert all(each.logprob == each.top_logprobs[0].logprob <= 0 for each in told), (
        "greedy takes the likeliest"
    )


def test_a_stream_brings_the_same_text_piece_by_piece(smollm: Running) -> None:
    order: Any = {"model": GGUF, "messages": QUESTION, "max_tokens": 12, "seed": 5, "temperature": 0.9}
    whole = client(smollm).chat.completions.create(**order)
    chunks = list(
        client(smollm).chat.completions.create(**order, stream=True, stream_options={"include_usage": True})
    )
    pieces = [chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices]
    assert len([piece for piece in pieces if piece]) > 3
    assert "".join(pieces) == whole.choices[0].message.content, "one seed, one text"
    assert chunks[-1].usage == whole.usage
    assert chunks[-2].choices[0].finish_reason == whole.choices[0].finish_reason


def test_a_completion_ends_before_its_stop_sequence(smollm: Running) -> None:
    answer = client(smollm).completions.create(
        model=GGUF, prompt="1 2 3 4", max_tokens=20, temperature=0, stop=[" 8"], logprobs=1
    )
    assert answer.choices[0].text == " 5 6 7"
    assert answer.choices[0].finish_reason == "stop"
    assert answer.choices[0].logprobs is not None
    assert (answer.choices[0].logprobs.tokens or [])[:2] == [" ", "5"]


def test_other_seeds_give_other_texts(smollm: Running) -> None:
    texts = {
        client(smollm)
        .completions.create(model=GGUF, prompt="Once upon a time", max_tokens=8, temperature=1.5, seed=seed)
        .choices[0]
        .text
        for seed in range(4)
    }
    assert len(texts) > 1


def test_several_answers_are_those_of_the_seeds_that_follow(smollm: Running) -> None:
    ask = client(smollm).completions.create
    order: Any = {"model": GGUF, "prompt": "Once upon a time", "max_tokens": 6, "temperature": 1.5}
    alone = [ask(**order, seed=seed).choices[0].text for seed in (7, 8)]
    together = ask(**order, seed=7, n=2)
    assert [choice.text for choice in together.choices] == alone
    streamed = ["", ""]
    for chunk in ask(**order, seed=7, n=2, stream=True):
        streamed[chunk.choices[0].index] += chunk.choices[0].text
    assert streamed == alone
    echoed = ask(**order, seed=7, echo=True)
    assert echoed.choices[0].text == "Once upon a time" + alone[0]
    assert echoed.usage is not None and together.usage is not None
    assert echoed.usage.prompt_tokens == together.usage.prompt_tokens


def test_whoever_leaves_a_stream_frees_the_model(smollm: Running) -> None:
    stream = client(smollm).completions.create(
        model=GGUF, prompt="Tell a story.", max_tokens=480, stream=True
    )
    next(iter(stream))
    stream.close()
    answer = client(smollm).completions.create(model=GGUF, prompt="2 + 2 =", max_tokens=2, timeout=60)
    assert answer.choices[0].finish_reason == "length"


def test_generations_take_turns(smollm: Running) -> None:
    texts: list[str] = []

    def work() -> None:
        answer = client(smollm).completions.create(model=GGUF, prompt="1 2 3 4", max_tokens=4, temperature=0)
        texts.append(answer.choices[0].text)

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert texts == [" 5 6"] * 4
    assert b"cyxwiz_generated_tokens_total" in smollm.ask("/metrics")[0]


@pytest.mark.parametrize(
    ("order", "says"),
    [
        ({"messages": []}, "length"),
        ({"messages": QUESTION, "n": 33}, "<= 32"),
        ({"messages": QUESTION, "temperature": 3}, "<= 2"),
        ({"messages": [{"role": "user", "content": "word " * 600}]}, "tokens, allowed are 1 to 511"),
        ({"messages": QUESTION, "tools": [{"type": "function"}]}, "tools"),
        ({"messages": [{"role": "emperor", "content": "x"}]}, "emperor"),
    ],
)
def test_what_cannot_be_done_is_refused_in_openais_words(smollm: Running, order: Any, says: str) -> None:
    with pytest.raises(openai.BadRequestError, match=says):
        client(smollm).chat.completions.create(model=GGUF, **order)


def test_a_template_without_end_stops_nobody_but_its_own_model(tmp_path: Path) -> None:
    if importlib.util.find_spec("llama_cpp") is None:
        pytest.skip("llama-cpp-python is not installed: scripts/llama_cpp compiles it")
    good = real_model(GGUF) / f"{GGUF}.gguf"
    data = good.read_bytes()
    (template,) = re.findall(rb"{% for message in messages %}.*?{% endif %}(?=[^\n -~])", data, re.DOTALL)
    endless = b"{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}{% endfor %}"
    (tmp_path / "evil.gguf").write_bytes(data.replace(template, endless.ljust(len(template))))
    with serving(tmp_path / "data", str(tmp_path / "evil.gguf"), str(good), "--context", "256") as server:
        before = worker_pids(server)
        asked = client(server).chat.completions
        # Of processor time, or on the clock of a machine that is busy.
        with pytest.raises(openai.BadRequestError, match=r"too long or too much memory|not done after"):
            asked.create(model="evil", messages=QUESTION)
        assert asked.create(model=GGUF, messages=QUESTION, max_tokens=3).choices[0].message.content
        assert worker_pids(server) == before


def test_an_unknown_model_is_not_found(smollm: Running) -> None:
    assert [model.id for model in client(smollm).models.list()] == [GGUF]
    with pytest.raises(openai.NotFoundError):
        client(smollm).chat.completions.create(model="gpt-9", messages=QUESTION)
    with pytest.raises(openai.BadRequestError, match="no embeddings"):
        client(smollm).embeddings.create(model=GGUF, input="x")


def test_embeddings_put_like_texts_close(minilm: Running) -> None:
    texts = ["A cat sleeps on the sofa.", "A kitten naps on the couch.", "The stock market fell today."]
    answer = client(minilm).embeddings.create(model="minilm", input=texts)
    cat, kitten, market = (np.array(each.embedding) for each in answer.data)
    assert cat.shape == (384,)
    assert np.linalg.norm(cat) == pytest.approx(1, abs=1e-5)
    assert cat @ kitten > 0.6 > 0.3 > cat @ market
    assert answer.usage.prompt_tokens > 15
    short = client(minilm).embeddings.create(model="minilm", input=texts[0], dimensions=16).data[0].embedding
    assert np.allclose(short, cat[:16] / np.linalg.norm(cat[:16]), atol=1e-5)
    with pytest.raises(openai.BadRequestError, match="the model gives 384"):
        client(minilm).embeddings.create(model="minilm", input="x", dimensions=385)


def test_embeddings_are_those_of_onnxruntime_and_the_tokenizer(minilm: Running) -> None:
    import onnxruntime
    from tokenizers import Tokenizer

    folder = real_model(MINILM)
    text = "The same text, however long it is, gives the same vector."
    ids = Tokenizer.from_file(str(folder / "tokenizer.json"))
    ids.no_padding()
    row = np.array([ids.encode(text).ids], np.int64)
    session = onnxruntime.InferenceSession(
        (folder / "model.onnx").read_bytes(), providers=["CPUExecutionProvider"]
    )
    inputs = {"input_ids": row, "attention_mask": np.ones_like(row), "token_type_ids": np.zeros_like(row)}
    mean = session.run(None, inputs)[0][0].mean(0)
    found = np.array(
        client(minilm).embeddings.create(model="minilm", input=[row[0].tolist()]).data[0].embedding
    )
    # Its int8 steps depend on what a row is padded with.
    assert found @ (mean / np.linalg.norm(mean)) > 0.99


def test_embeddings_of_a_gguf_are_those_of_llama_cpp(tmp_path: Path) -> None:
    if importlib.util.find_spec("llama_cpp") is None:
        pytest.skip("llama-cpp-python is not installed: scripts/llama_cpp compiles it")
    import llama_cpp

    write_bert(tmp_path / "bert.gguf", pooling=1)
    texts = ["a cat sits", "the dogs runs fast", "car"]
    path = str(tmp_path / "bert.gguf")
    theirs = llama_cpp.Llama(path, embedding=True, n_ctx=64, n_threads=1, verbose=False)
    expected = np.array(theirs.embed(texts, normalize=True))
    tokens = [theirs.tokenize(text.encode()) for text in texts]
    with serving(tmp_path / "data", path) as server:
        asked = client(server).embeddings
        for given in (texts, tokens):
            for encoding in ("base64", "float"):
                answer = asked.create(model="bert", input=given, encoding_format=encoding)  # type: ignore
                found = [each.embedding for each in answer.data]
                if encoding == "base64":
                    found = [np.frombuffer(base64.b64decode(str(each)), "<f4") for each in found]
                assert np.allclose(np.array(found), expected, atol=1e-5)
                assert answer.usage.prompt_tokens == sum(map(len, tokens))
        for wrong, says in (("cat " * 80, "allowed are 1 to 64"), ([3, 99], "up to 13"), ("", "characters")):
            with pytest.raises(openai.BadRequestError, match=says):
                asked.create(model="bert", input=wrong)  # type: ignore[arg-type]
        with pytest.raises(openai.BadRequestError, match="does not generate"):
            client(server).completions.create(model="bert", prompt="cat")
        about, _ = server.ask("/v1/model")
        assert about["can"] == ["predict", "embed"]
        inputs = {"input_ids": [[2, 7, 99]], "lengths": [3]}
        with pytest.raises(HTTPError) as refused:
            server.ask("/v1/predict", {"inputs": inputs})
        assert refused.value.code == 400


@pytest.mark.parametrize(("pooling", "says"), [(4, "ranks texts"), (99, "pools by method 99")])
def test_a_gguf_that_pools_otherwise_is_refused(tmp_path: Path, pooling: int, says: str) -> None:
    write_bert(tmp_path / "m", pooling)
    with pytest.raises(ArchiveError, match=says):
        load_model(tmp_path / "m", "cpu")
