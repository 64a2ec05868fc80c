"""The same application with a queue behind it: its processes only ask, consumers elsewhere answer.

Run consumers, as many as you like, and the application, both with the same settings::

    cd examples
    export SDQUEUE_BROKER_URL=amqp://localhost/ SDQUEUE_STORE_URL=redis://localhost/
    sdqueue consumer --agent bot:answer --processes 2
    uvicorn fastapi_queue:app

``POST /turn`` answers when the turn is answered; ``POST /turn/stream`` sends server-sent events: ``delta`` while the
agent talks, ``final`` with the whole text.
"""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Annotated

from fastapi import FastAPI, Header, Request
from fastapi.responses import JSONResponse
from pydantic import BaseModel, Field
from sse_starlette.sse import EventSourceResponse, ServerSentEvent

from sdqueue import BrokerUnavailable, Client, InvalidTurn, ReplyTimeout, TurnFailed


class Turn(BaseModel):
    """What a user says."""

    text: str = Field(min_length=1)
    session_id: str = Field(min_length=1)


@asynccontextmanager
async def lifespan(app: FastAPI) -> AsyncIterator[None]:
    """One client for the whole application; where the broker is, the environment says."""
    async with Client.from_settings() as client:
        app.state.client = client
        yield


app = FastAPI(lifespan=lifespan)

TurnId = Annotated[str | None, Header(alias="Idempotency-Key")]
"""A caller that repeats a request with the same key gets the same answer; the agent does not run again."""


@app.post("/turn")
async def turn(said: Turn, request: Request, turn_id: TurnId = None) -> dict[str, str]:
    """Answer one message."""
    client: Client = request.app.state.client
    reply = await client.ask(said.session_id, said.text, id=turn_id)
    return {"reply": reply.text, "turn_id": reply.turn_id}


@app.post("/turn/stream")
async def stream(said: Turn, request: Request, turn_id: TurnId = None) -> EventSourceResponse:
    """Answer one message piece by piece."""
    client: Client = request.app.state.client

    async def events() -> AsyncIterator[ServerSentEvent]:
        try:
            async for reply in client.stream(said.session_id, said.text, id=turn_id):
                yield ServerSentEvent(event=reply.kind, data=reply.text, id=reply.id)
        except (TurnFailed, ReplyTimeout, BrokerUnavailable) as error:
            yield ServerSentEvent(event="error", data=str(error))

    return EventSourceResponse(events())


@app.exception_handler(TurnFailed)
@app.exception_handler(InvalidTurn)
@app.exception_handler(ReplyTimeout)
@app.exception_handler(BrokerUnavailable)
async def explain(_request: Request, error: Exception) -> JSONResponse:
    """What a caller is told: whose fault it is, and whether to try again."""
    status = {InvalidTurn: 422, TurnFailed: 502, ReplyTimeout: 504}.get(type(error), 503)
    return JSONResponse({"detail": str(error)}, status)
