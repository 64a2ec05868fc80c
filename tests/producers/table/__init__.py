"""The table of producers: every platform, its producer killed at every point again and again, judged from outside.

A black box: real ``sdqueue producer`` and ``sdqueue consumer`` processes, RabbitMQ, Redis, and platforms on 127.0.0.1
that refuse, fail, cut connections after they have taken something, and send everything two to four times, out of order.
``make producers`` fills the table of docs/guarantees.md, ``make test`` plays a short form.

    platforms      what a user says and sees on each platform, and how the platform fails
    conversations  users: the next message once the one before is accepted, repeats of it later
    agent          the brain of the consumers; writes down what it sees, and answers with the number of the message
    wounded        ``sdqueue`` that kills itself at a chosen point of a message's or a reply's way
    mutants        ``sdqueue`` with a mistake, to see that the table shows it
    lives          a producer process that is begun again whenever it dies
    world          consumers, a producer and platforms from start to observations
    observations   what is known afterwards, as values
    checker        observations → findings; imports nothing else of all this
    report         findings as a table
"""
