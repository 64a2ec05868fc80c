"""Turns are confirmed by the broker before the platform is answered."""

from __future__ import annotations

from tests.producers.ingress.front import Chat, body, served


async def test_a_request_becomes_a_turn_and_is_answered() -> None:
    async with served(Chat()) as front:
        answer = await front.http.post("/chat", content=body({"session": "s", "id": "1", "text": "hello"}))

        assert (answer.status_code, answer.text) == (200, "kept")
        (got,) = await front.got(1)
        assert (got.session_id, got.id, got.text) == ("s", "1", "hello")
        assert [e["turn_id"] for e in front.seen.of("turn_published")] == ["1"]
