"""Runs cases against a Lorry and prints one line of JSON for each: {"case", "seconds", "error", "calls"}; before them
one of every call that the SDK has: {"every"}. It listens to the SDK by a wrapper around each of its calls, which changes
nothing.

LORRY_URL is where it listens, LORRY_ADMIN_KEY an admin's key, LORRY_MODEL the model that it serves. Each case may make
itself tenants, so that no case sees another's files, batches or jobs.
"""

import asyncio
import functools
import inspect
import json
import os
import secrets
import threading
import time
import traceback
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import openai

URL = os.environ["LORRY_URL"]
MODEL = os.environ["LORRY_MODEL"]
ADMIN = openai.OpenAI(base_url=URL + "/v1", api_key=os.environ["LORRY_ADMIN_KEY"], max_retries=2)

CASES = []


def case(f):
    CASES.append(f)
    return f


def new_key(tenant=None, admin=False):
    """A key of a new tenant, or of this one."""
    made = root(ADMIN).post("/lorry/v1/keys", cast_to=object, body={"tenant": tenant or "t" + secrets.token_hex(6), "admin": admin})
    return made["key"]


def new_client(key=None, kind=openai.OpenAI, url=URL, **options):
    options.setdefault("max_retries", 0)
    return kind(base_url=url + "/v1", api_key=key or new_key(), **options)


def root(client):
    """The same client for what is not under /v1."""
    return client.with_options(base_url=str(client.base_url).removesuffix("/v1/"))


def chat(client, text, **more):
    return client.chat.completions.create(model=MODEL, messages=[{"role": "user", "content": text}], **more)


@contextmanager
def raises(kind, status=None, code=..., param=..., text=None):
    """Wants exactly this error class, and of what the SDK took from the body what is given."""
    try:
        yield
    except openai.OpenAIError as e:
        assert type(e) is kind, "raised %r, want %s" % (e, kind.__name__)
        if isinstance(e, openai.APIStatusError):
            assert e.request_id and e.request_id.startswith("req_"), "x-request-id: %r" % e.request_id
            body = e.body
            assert isinstance(body, dict) and set(body) == {"message", "type", "param", "code"}, body
            assert body["code"] is None or isinstance(body["code"], str), body
        if status is not None:
            assert e.status_code == status, "status %s, want %s: %s" % (e.status_code, status, e)
        if code is not ...:
            assert e.code == code, "code %r, want %r: %s" % (e.code, code, e)
        if param is not ...:
            assert e.param == param, "param %r, want %r: %s" % (e.param, param, e)
        if text is not None:
            assert text in e.message, "%r is not in %r" % (text, e.message)
    else:
        raise AssertionError("no error, want %s" % kind.__name__)


def eventually(look, within=30):
    """What look returns once it is true."""
    end = time.monotonic() + within
    while True:
        found = look()
        if found:
            return found
        assert time.monotonic() < end, "not within %d s: %s" % (within, inspect.getsource(look).strip())
        time.sleep(0.02)


def equal(got, want):
    assert got == want, "got %r, want %r" % (got, want)


@contextmanager
def serving(handler):
    """A server on loopback; yields its URL."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    try:
        yield "http://127.0.0.1:%d" % server.server_port
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


class Quiet(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def log_message(self, *_):
        pass

    def body(self):
        return self.rfile.read(int(self.headers.get("Content-Length") or 0))


# RESOURCES are the parts of the SDK that Lorry serves, by their names in a client.
RESOURCES = ("files", "batches", "chat.completions", "chat.completions.messages", "completions", "embeddings", "models",
             "responses", "responses.input_items", "responses.input_tokens", "webhooks", "webhooks.event_types")
CALLS = set()  # made by the case that runs


def listen():
    """Note each call that is made from now on; returns all there are."""
    every = set()
    for kind in (openai.OpenAI, openai.AsyncOpenAI):
        client = kind(api_key="none")
        for resource in RESOURCES:
            cls = type(functools.reduce(getattr, resource.split("."), client))
            for name, call in inspect.getmembers(cls, inspect.isfunction):
                if not name.startswith(("_", "with_")):
                    every.add(resource + "." + name)
                    setattr(cls, name, noting(resource + "." + name, call))
    return every


def noting(name, call):
    @functools.wraps(call)
    def made(*args, **kwargs):
        CALLS.add(name)
        return call(*args, **kwargs)
    return made


def main():
    print(json.dumps({"every": sorted(listen())}), flush=True)
    for f in CASES:
        CALLS.clear()
        began, error = time.monotonic(), None
        try:
            asyncio.run(f()) if inspect.iscoroutinefunction(f) else f()
        except Exception:
            error = traceback.format_exc()
        print(json.dumps({"case": f.__name__, "seconds": round(time.monotonic() - began, 3), "error": error, "calls": sorted(CALLS)}), flush=True)
