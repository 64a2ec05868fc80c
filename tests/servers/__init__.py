"""RabbitMQ and Redis for the tests: found, started, shared by a run's processes, and gone when it ends.

A run takes each server from the first of these that works, and says which (``provide``): an address in the
environment, a container, a private instance of what is installed here. Servers that one test may stop, kill or freeze
come from the first of the last two. ``install`` puts the missing packages on a Debian machine before the run, an engine
for containers never; ``make test`` calls it.

    SDQUEUE_TEST_AMQP_URL, SDQUEUE_TEST_REDIS_URL           addresses of running servers
    SDQUEUE_TEST_RABBITMQ_IMAGE, SDQUEUE_TEST_REDIS_IMAGE   images for testcontainers
    SDQUEUE_TEST_SOURCES                                    what to try of environment, container, local; default: all
    CI                                                      not empty: tests without their server fail, not skip

Releases other than those of this machine, to be had from any of the sources, or not at all (``kinds``):

    SDQUEUE_TEST_SERVERS    bookworm or trixie: the servers of that release of Debian
    SDQUEUE_TEST_RABBITMQ   rabbitmq-3 (bookworm's) or rabbitmq-4 (trixie's); 3 and 4 do as well
    SDQUEUE_TEST_REDIS      redis-7 (bookworm's) or valkey-8 (trixie's)
    SDQUEUE_TEST_CACHE      where other releases of Debian are kept; default: sdqueue-tests in the user's cache

For a private instance of the release the machine is that release of Debian, or runs it from the cache (``debian``),
which takes Linux and root. It is not updated there: remove the folder to have it made anew.
"""
