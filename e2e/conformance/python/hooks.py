"""Deliveries as their receivers verify them: by the SDK, and by the official Standard Webhooks library."""

import base64
import os
import queue

import openai
import standardwebhooks

from harness import MODEL, Quiet, case, equal, new_client, raises, serving


def receiver(answers=()):
    """A handler that answers with these statuses, then 200, and puts what it got into its queue."""
    class Receiver(Quiet):
        got = queue.Queue()
        statuses = list(answers)

        def do_POST(self):
            self.got.put((self.body(), dict(self.headers)))
            self.send_response(self.statuses.pop(0) if self.statuses else 200)
            self.send_header("Content-Length", "0")
            self.end_headers()
    return Receiver


def submit(client, url, secret):
    raw = client.chat.completions.with_raw_response.create(
        model=MODEL, messages=[{"role": "user", "content": "told"}], extra_headers={"Prefer": "respond-async"},
        extra_body={"lorry": {"webhook": {"url": url, "secret": secret}}})
    equal(raw.status_code, 202)
    return raw.headers["x-lorry-job"]


def new_secret():
    return "whsec_" + base64.b64encode(os.urandom(32)).decode()


@case
def webhook_verified_by_both():
    client, secret, hook = new_client(), new_secret(), receiver()
    with serving(hook) as url:
        job = submit(client, url, secret)
        body, headers = hook.got.get(timeout=20)
    event = client.webhooks.unwrap(body, headers, secret=secret)
    equal((event.type, event.object, event.data.id), ("lorry.job.succeeded", "event", job))
    verified = standardwebhooks.Webhook(secret).verify(body, {k.lower(): v for k, v in headers.items()})
    equal((verified["id"], verified["data"]["id"]), (event.id, job))


@case
def webhook_forged():
    client, secret, hook = new_client(), new_secret(), receiver()
    with serving(hook) as url:
        submit(client, url, secret)
        body, headers = hook.got.get(timeout=20)
    for what in ((body + b" ", headers, secret), (body, headers, new_secret())):
        try:
            client.webhooks.unwrap(what[0], what[1], secret=what[2])
        except openai.InvalidWebhookSignatureError:
            continue
        raise AssertionError("a forgery was taken")


@case
def webhook_again_under_one_id():
    """Refused once: sent again, under the same ID, signed anew."""
    client, secret, hook = new_client(), new_secret(), receiver([500])
    with serving(hook) as url:
        submit(client, url, secret)
        first, second = hook.got.get(timeout=20), hook.got.get(timeout=40)
    for body, headers in (first, second):
        client.webhooks.unwrap(body, headers, secret=secret)
    lower = [{k.lower(): v for k, v in headers.items()} for _, headers in (first, second)]
    equal(lower[0]["webhook-id"], lower[1]["webhook-id"])
    assert lower[0]["webhook-timestamp"] < lower[1]["webhook-timestamp"], lower
    equal(first[0], second[0])


@case
def webhook_to_a_forbidden_place():
    with raises(openai.BadRequestError, 400, "invalid_value", "lorry.webhook.url"):
        submit(new_client(), "http://169.254.1.1/", new_secret())
