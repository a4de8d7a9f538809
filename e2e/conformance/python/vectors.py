import base64
import math
import struct

import openai

from harness import MODEL, case, equal, new_client, raises


def embed(client, text, **more):
    return client.embeddings.create(model=MODEL, input=text, **more)


@case
def embeddings_create():
    got = embed(new_client(), "alpha beta")
    equal((got.object, got.model, [(d.object, d.index) for d in got.data]), ("list", MODEL, [("embedding", 0)]))
    vector = got.data[0].embedding
    assert vector and all(isinstance(x, float) for x in vector), vector
    assert abs(math.sqrt(sum(x * x for x in vector)) - 1) < 1e-3, "not of length 1"
    assert got.usage.prompt_tokens == got.usage.total_tokens > 0, got.usage


@case
def embeddings_in_base64():
    """The SDK asks for base64 unless told otherwise, and both hold the same numbers."""
    client = new_client()
    plain = embed(client, "alpha beta", encoding_format="float").data[0].embedding
    raw = embed(client, "alpha beta", encoding_format="base64").data[0].embedding
    if isinstance(raw, str):
        raw = [x for (x,) in struct.iter_unpack("<f", base64.b64decode(raw))]
    asked = embed(client, "alpha beta").data[0].embedding
    equal(len(plain), len(asked))
    assert max(abs(a - b) for a, b in zip(plain, asked)) < 1e-6
    assert max(abs(a - b) for a, b in zip(plain, raw)) < 1e-6


@case
def embeddings_of_many():
    """In the order of the inputs, each as if it were alone."""
    client, texts = new_client(), ["alpha", "beta", "alpha", "gamma delta"]
    got = embed(client, texts)
    equal([d.index for d in got.data], [0, 1, 2, 3])
    for text, d in zip(texts, got.data):
        alone = embed(client, text).data[0].embedding
        assert max(abs(a - b) for a, b in zip(alone, d.embedding)) < 1e-5, text
    equal(got.data[0].embedding, got.data[2].embedding)
    assert got.data[0].embedding != got.data[1].embedding


@case
def embeddings_refused():
    client = new_client()
    for text in ("", []):
        with raises(openai.BadRequestError, 400, param="input"):
            embed(client, text)
    with raises(openai.NotFoundError, 404, "model_not_found"):
        client.embeddings.create(model="nope", input="x")
    with raises(openai.BadRequestError, 400, "unknown_parameter", "no_such_field"):
        embed(client, "x", extra_body={"no_such_field": 1})
