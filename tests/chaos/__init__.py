"""Chaos: real consumer processes under load, attacked in every way of the failure table, and judged from outside.

A black box: the harness knows the wire contract and the command line, and nothing of the consumer. ``make chaos`` runs
all of it, ``make test`` a short form.

    plan        which turns a scenario sends, all from one seed
    producer    sends them by raw AMQP, with confirms; keeps what the broker confirmed, in order
    receiver    reads the replies and the dead letters
    agent       the brain of the consumers under test; writes down what it sees
    journal     its append-only files
    pool        the consumer processes, which may be killed, stopped, told to end, and replaced
    faults      what is done to them and to the servers
    proxy       a network between a consumer and its broker that may go silent
    wounded     ``sdqueue`` with a weak spot: it dies or sleeps at a chosen point of a turn's path
    mutants     ``sdqueue`` with a defect, to see that the checker sees it
    scenarios   loads and faults put together, by name
    stage       one scenario from its start to its evidence
    evidence    what is known afterwards, as values
    checker     evidence → findings; imports nothing else of all this
    report      findings as a table
"""
