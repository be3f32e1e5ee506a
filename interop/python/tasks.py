"""The tasks of the Celery application that with_celery.py talks to."""

import os

from celery import Celery

app = Celery("interop", broker=os.environ["BROKER"], backend="rpc://")
app.conf.update(task_acks_late=True, worker_prefetch_multiplier=2, broker_connection_retry_on_startup=True,
                task_default_queue="interop", result_expires=600)


@app.task
def add(a, b):
    return a + b


@app.task(bind=True, max_retries=3)
def third_time(self):
    if self.request.retries < 2:
        raise self.retry(countdown=0)
    return self.request.retries


@app.task
def broken():
    raise ValueError("as it should")
