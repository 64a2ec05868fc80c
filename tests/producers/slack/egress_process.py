"""An egress of Slack in a process of its own, to be killed. Its environment says where everything is."""

from __future__ import annotations

import asyncio

from sdqueue_producers.egress import Egress, EgressOptions
from sdqueue_producers.slack import SlackChannel, SlackSettings
from sdqueue_producers.state.opening import open_state

from sdqueue import Settings, open_broker


async def main() -> None:
    """Deliver until killed."""
    settings = Settings.load()
    state = open_state(settings)
    async with open_broker(settings) as broker, SlackChannel(SlackSettings.load(), state) as channel:
        await broker.apply()
        async with Egress(channel, broker, state, EgressOptions(ask_again_s=0.1, poll_s=0.1, lease_s=1.0)) as egress:
            print("ready", flush=True)
            await egress.wait_failed()


if __name__ == "__main__":
    asyncio.run(main())
