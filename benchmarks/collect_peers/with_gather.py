"""What a competent engineer writes in ten minutes: asyncio.gather, httpx, a semaphore, backoff."""

import asyncio
import json
import random
import sys

import httpx


async def ask(client: httpx.AsyncClient, slots: asyncio.Semaphore, retries: int, row: dict) -> dict:
    body = {"model": row["model"], "messages": row["messages"], **row["params"]}
    async with slots:
        for attempt in range(retries + 1):
            wait = min(2**attempt, 60) * random.uniform(0.5, 1)
            try:
                response = await client.post("/chat/completions", json=body)
                if response.status_code == 200:
                    content = response.json()["choices"][0]["message"]["content"]
                    return {"id": row["id"], "response": content}
                if response.status_code != 429 and response.status_code < 500:
                    break
                wait = max(wait, float(response.headers.get("retry-after", 0)))
            except httpx.TransportError:
                pass
            await asyncio.sleep(wait)
    return {"id": row["id"], "response": None}


async def main(base_url: str, in_flight: int, retries: int) -> None:
    with open("requests.jsonl", encoding="utf-8") as stream:
        rows = [json.loads(line) for line in stream]
    slots = asyncio.Semaphore(in_flight)
    # With httpx's own limits 20 connections are kept, and the rest made anew for each request.
    limits = httpx.Limits(max_connections=in_flight, max_keepalive_connections=in_flight)
    headers = {"Authorization": "Bearer none"}
    async with httpx.AsyncClient(base_url=base_url, headers=headers, limits=limits, timeout=120) as client:
        answers = await asyncio.gather(*(ask(client, slots, retries, row) for row in rows))
    with open("answers.jsonl", "a", encoding="utf-8") as stream:
        stream.writelines(json.dumps(answer) + "\n" for answer in answers)


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1], int(sys.argv[2]), int(sys.argv[3])))
