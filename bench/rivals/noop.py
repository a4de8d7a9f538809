"""Celery's side of BenchmarkRivals: a task that does nothing and keeps its result, as a queue of jobs has to.

usage: python noop.py REDIS_URL COUNT     submits COUNT tasks of 600 bytes, waits for all results, prints seconds
       celery -A noop worker              with RIVAL_REDIS set: the worker
"""

import os
import sys
import time

from celery import Celery, group

URL = sys.argv[1] if len(sys.argv) > 2 and __name__ == "__main__" else os.environ["RIVAL_REDIS"]
app = Celery("noop", broker=URL, backend=URL)
# Larger than the default of 4: each process takes a bite of the queue at a time, which suits tasks that take no time.
app.conf.worker_prefetch_multiplier = 64
app.conf.broker_connection_retry_on_startup = True


@app.task(name="noop.noop")
def noop(body):
    return body[:32]


def main(count):
    body = "lorry " * 100
    noop.delay(body).get(timeout=60)  # the worker is up
    start = time.monotonic()
    group(noop.s(body) for _ in range(count)).apply_async().join(timeout=600)
    print(time.monotonic() - start)


if __name__ == "__main__":
    main(int(sys.argv[2]))
