"""Redis stands still, as on a box under swap: 503 and when to come again, which the SDK does by itself. Run it last."""

import os
import signal
import threading

import openai

from harness import case, chat, equal, new_client, raises


def still(on):
    os.kill(int(os.environ["LORRY_VALKEY_PID"]), signal.SIGSTOP if on else signal.SIGCONT)


@case
def error_503():
    client = new_client()
    still(True)
    try:
        with raises(openai.InternalServerError, 503, "service_unavailable"):
            chat(client, "x", extra_headers={"Idempotency-Key": "k"})
    finally:
        still(False)


@case
def error_503_passes():
    """The SDK's own retries get through, and the key makes them one job."""
    client = new_client(max_retries=6)
    still(True)
    timer = threading.Timer(6, still, [False])
    timer.start()
    try:
        got = chat(client, "once", extra_headers={"Idempotency-Key": "k"})
    finally:
        timer.cancel()
        still(False)
    equal(got.choices[0].message.content, "once")
    equal(len(client.get("/jobs", cast_to=object)["data"]), 1)
