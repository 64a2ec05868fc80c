"""A consumer with all the brains, one to a session; its environment says where the servers are.

It prints ``ready`` and runs until it is killed. It is forked (:mod:`tests.nursery`).
"""

from __future__ import annotations

import asyncio
from typing import Any

from sdqueue import Consumer, ConsumerOptions, SessionInit, SessionWorker, Settings, open_broker
from sdqueue.agents import as_agent_factory
from sdqueue.backends import opened_sessions
from tests.agents.brains.bots import BRAINS


def build(init: SessionInit) -> Any:
    """The agent of a session, which is named like its brain."""
    return as_agent_factory(BRAINS[init.session_id])()


async def main() -> None:
    settings = Settings.load()
    async with opened_sessions(settings) as (store, locks), open_broker(settings) as broker:
        await broker.apply()
        worker = SessionWorker(agent_factory_ctx=build, store=store, lock_backend=locks)
        async with Consumer(broker, worker, ConsumerOptions.from_settings(settings)) as consumer:
            await consumer.ready()
            print("ready", flush=True)
            await asyncio.Event().wait()


def serve() -> None:
    """Be such a consumer."""
    asyncio.run(main())
