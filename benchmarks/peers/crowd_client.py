"""A crowd's requests sent to a server that speaks OpenAI's completions, each over a connection of its own."""

import asyncio
import json
import time
from collections.abc import Mapping, Sequence
from typing import Any

from benchmarks.peers.crowd import Request


def ask(
    port: int, requests: Sequence[Request], *, model: str, fields: Mapping[str, Any] | None = None
) -> list[list[float]]:
    """When the tokens of each answer came, in seconds after the start. RuntimeError for what is no answer."""
    return asyncio.run(_all(port, requests, {"model": model, **(fields or {})}))


async def _all(port: int, requests: Sequence[Request], fields: Mapping[str, Any]) -> list[list[float]]:
    began = time.perf_counter()
    return await asyncio.gather(*(_one(port, request, fields, began) for request in requests))


async def _one(port: int, request: Request, fields: Mapping[str, Any], began: float) -> list[float]:
    await asyncio.sleep(began + request.at - time.perf_counter())
    asked = {"prompt": request.prompt, "max_tokens": request.tokens, "stream": True, "temperature": 0}
    data = json.dumps({**asked, "ignore_eos": True, **fields}).encode()
    reader, writer = await asyncio.open_connection("127.0.0.1", port, limit=1 << 20)
    try:
        writer.write(
            b"POST /v1/completions HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: application/json\r\n"
            b"Connection: close\r\nContent-Length: %d\r\n\r\n%b" % (len(data), data)
        )
        await writer.drain()
        status = (await reader.readline()).split()
        if len(status) < 2 or status[1] != b"200":
            body = (await reader.read()).partition(b"\r\n\r\n")[2] or b"nothing more"
            words = b" ".join(status[1:]).decode(errors="replace")
            raise RuntimeError(f"the server answered {words}: {body.decode(errors='replace')[:300]}")
        return [
            time.perf_counter() - began
            async for line in reader
            if line.startswith(b"data: {") and has_text(json.loads(line[len(b"data: ") :]))
        ]
    finally:
        writer.close()


def has_text(event: Mapping[str, Any]) -> bool:
    """Whether an event carries a piece of the answer. RuntimeError where it is an error."""
    if "error" in event:
        raise RuntimeError(f"the server sent an error: {event['error']}")
    return any(choice.get("text") for choice in event.get("choices", ()))
