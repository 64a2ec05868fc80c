"""The same application with a queue behind it: its processes only ask, consumers elsewhere answer.

Run consumers, as many as you like, and the application, both with the same settings::

    cd examples
    export SDQUEUE_BROKER_URL=amqp://localhost/ SDQUEUE_STORE_URL=redis://localhost/
    sdqueue consumer --agent bot:answer --processes 2
    uvicorn fastapi_queue:app

``POST /turn`` answers when the turn is answered. ``POST /turn/stream`` sends server-sent events: ``delta`` while the
agent talks, ``restart`` where it starts over because its process died, ``final`` with the whole text. A page that lost
its connection, or another one, reads on by ``GET /turn/stream`` with the id of the last event that it has.
"""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Annotated

from fastapi import FastAPI, Header, Request
from fastapi.responses import JSONResponse
from pydantic import BaseModel, Field
from sse_starlette.sse import EventSourceResponse, ServerSentEvent

from sdqueue import Client, InvalidTurn, OutboundReply, ReplyTimeout, SdqueueError, StreamNotFound, TurnFailed


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
    return EventSourceResponse(_events(client.stream(said.session_id, said.text, id=turn_id)))


@app.get("/turn/stream")
async def read_on(
    session_id: str, turn_id: str, request: Request, last_event_id: Annotated[str, Header()] = "0"
) -> EventSourceResponse:
    """Send the events of an answer from its beginning, or those after the last one that the caller has."""
    client: Client = request.app.state.client
    return EventSourceResponse(_events(client.read_stream(session_id, turn_id, after=last_event_id)))


async def _events(replies: AsyncIterator[OutboundReply]) -> AsyncIterator[ServerSentEvent]:
    try:
        async for reply in replies:
            if reply.stream is None:
                yield ServerSentEvent(event=reply.kind, data=reply.text)
            else:
                kind = "restart" if reply.stream.restart else "delta"
                yield ServerSentEvent(event=kind, data=reply.text, id=reply.stream.offset)
    except SdqueueError as error:  # the answer has begun, so its status cannot change any more
        yield ServerSentEvent(event="error", data=str(error))


@app.exception_handler(SdqueueError)
async def explain(_request: Request, error: Exception) -> JSONResponse:
    """What a caller is told: whose fault it is, and whether to try again."""
    statuses = {InvalidTurn: 422, TurnFailed: 502, ReplyTimeout: 504, StreamNotFound: 404}
    return JSONResponse({"detail": str(error)}, statuses.get(type(error), 503))
