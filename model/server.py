"""The platform's newer API: a server that keeps the bundle loaded and scores a job at each call.

`GET /health` answers 200 from the moment that the port is open; whoever calls `serve` has loaded
everything by then. `POST /invoke` scores the job that lies in the input folder: 201 when its answer
is written, else 500 and the reason in one sentence.
"""

import asyncio
import os
import signal
import socket
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from types import FrameType

import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Route
from uvicorn.config import LOGGING_CONFIG

from model.errors import ConfigError

Score = Callable[[], str | None]
"""Scores the job; returns None, or why there is no answer."""

GRACE_SECONDS = 2
"""For a case in flight, out of the five between the platform's SIGTERM and its SIGKILL."""

MOST_PORT = 65535

# The platform shows whatever is on stderr as a problem.
LOGGING = LOGGING_CONFIG | {
    "handlers": {
        name: handler | {"stream": "ext://sys.stdout"}
        for name, handler in LOGGING_CONFIG["handlers"].items()
    }
}


def serve(score: Score, *, port: int) -> None:
    """Answer calls until SIGTERM or SIGINT, which end the process with exit code 0.

    Args:
        score: Called once for each `POST /invoke`, one call at a time.
        port: On all of the machine's addresses.

    Raises:
        ConfigError: The port is out of range or in use.
    """
    if not 0 <= port <= MOST_PORT:
        raise ConfigError(f"port: expected 0 to {MOST_PORT}, found {port}")
    try:
        listener = socket.create_server(("0.0.0.0", port))
    except OSError as error:
        raise ConfigError(f"port {port}: expected a free one, found {error.strerror}") from error
    # uvicorn stops on either signal, and then hands it on to the handler that it found.
    signal.signal(signal.SIGTERM, _end)
    signal.signal(signal.SIGINT, _end)
    config = uvicorn.Config(
        build_app(score),
        lifespan="off",
        log_config=LOGGING,
        timeout_graceful_shutdown=GRACE_SECONDS,
    )
    uvicorn.Server(config).run(sockets=[listener])


def build_app(score: Score) -> Starlette:
    """Return the web application with its two routes."""
    # One thread: a call waits for the one before it, and neither keeps /health from its answer.
    worker = ThreadPoolExecutor(1, thread_name_prefix="invoke")

    async def health(_: Request) -> Response:
        return Response()

    async def invoke(_: Request) -> Response:
        reason = await asyncio.get_running_loop().run_in_executor(worker, score)
        return Response(status_code=201) if reason is None else PlainTextResponse(reason, 500)

    return Starlette(
        routes=[
            Route("/health", health),
            Route("/invoke", invoke, methods=["POST"]),
        ]
    )


def _end(_: int, __: FrameType | None) -> None:
    """End the process at once, where Python would wait for the thread of a case in flight."""
    sys.stdout.flush()
    os._exit(0)
