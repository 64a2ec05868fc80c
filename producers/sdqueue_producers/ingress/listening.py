"""Listening: the sockets and long polling of channels, begun again where they fail."""

from __future__ import annotations

import asyncio
import random
from typing import Final

from sdqueue_producers.channel import Channel
from sdqueue_producers.observer import ProducerObserver
from sdqueue_producers.request import Submit

FIRST_WAIT_S: Final = 1.0
LONGEST_WAIT_S: Final = 60.0


async def keep_listening(
    channel: Channel, submit: Submit, observer: ProducerObserver, *, first_wait_s: float = FIRST_WAIT_S
) -> None:
    """Run a channel's ``listen`` until it returns by itself, and again after each error, later and later.

    Parameters:
        channel: listens.
        submit: takes what it hears.
        observer: hears of errors.
        first_wait_s: seconds after the first error; twice as many after each further one, until it has gone well for
            a minute.
    """
    clock = asyncio.get_running_loop().time
    wait_s = first_wait_s
    while True:
        began = clock()
        try:
            await channel.listen(submit)
        except Exception as error:  # noqa: BLE001  # of any kind: the channel is somebody else's code
            if clock() - began > LONGEST_WAIT_S:
                wait_s = first_wait_s
            again_in_s = wait_s * random.uniform(0.5, 1)
            told = f"{type(error).__name__}: {error}"
            observer.listener_failed(channel=channel.name, error=told, again_in_s=again_in_s)
            await asyncio.sleep(again_in_s)
            wait_s = min(2 * wait_s, LONGEST_WAIT_S)
        else:
            return
