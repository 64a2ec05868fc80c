"""Many users in one FastAPI application: a session layer inside it, no queue.

Run it: ``cd examples && uvicorn fastapi_app:app``, as many workers as you like, and ask::

    curl -d '{"text": "my name is Ada", "session_id": "u1"}' -H 'content-type: application/json' localhost:8000/turn

Sessions live in SQLite here; ``RedisSessionStore(url=…)`` with ``RedisLockBackend(url=…)`` takes them to many machines.
"""

import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from fastapi import FastAPI, HTTPException, Request
from pydantic import BaseModel, Field

from sdqueue import FileLockBackend, MemoAgent, SessionWorker, SQLiteSessionStore, StoreUnavailable


class Turn(BaseModel):
    """What a user says."""

    text: str = Field(min_length=1, max_length=10_000)
    session_id: str = Field(min_length=1, max_length=256)


@asynccontextmanager
async def lifespan(app: FastAPI) -> AsyncIterator[None]:
    """One worker for the whole application."""
    folder = os.environ.get("APP_DATA", ".sdqueue")
    os.makedirs(folder, exist_ok=True)
    store = SQLiteSessionStore(f"{folder}/sessions.db")
    app.state.worker = SessionWorker(
        agent_factory=MemoAgent, store=store, lock_backend=FileLockBackend(f"{folder}/locks")
    )
    try:
        yield
    finally:
        await store.aclose()


app = FastAPI(lifespan=lifespan)


@app.post("/turn")
async def turn(said: Turn, request: Request) -> dict[str, str]:
    """Answer one message; the session is saved when this returns, and only then."""
    worker: SessionWorker = request.app.state.worker
    try:
        async with worker.acquire(said.session_id) as h:
            result = await h.turn(said.text)
    except StoreUnavailable as error:
        raise HTTPException(503, "sessions cannot be reached; try again") from error
    return {"reply": result.text}
