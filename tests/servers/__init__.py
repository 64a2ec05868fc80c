"""RabbitMQ and Redis for the tests: found, started, shared by a run's processes, and gone when it ends.

A run takes each server from the first of these that works, and says which (``provide``): an address in the
environment, a container, a private instance of what is installed here. ``install`` puts the missing packages on a
Debian machine before the run; ``make test`` calls it.

    SDQUEUE_TEST_AMQP_URL, SDQUEUE_TEST_REDIS_URL           addresses of running servers
    SDQUEUE_TEST_RABBITMQ_IMAGE, SDQUEUE_TEST_REDIS_IMAGE   images for testcontainers
    SDQUEUE_TEST_SOURCES                                    what to try of environment, container, local; default: all
    CI                                                      not empty: tests without their server fail, not skip
"""
