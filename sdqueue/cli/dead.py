"""``sdqueue dead``: look at dead letters, put turns back, throw letters away."""

from __future__ import annotations

import json
import sys
from collections import Counter
from typing import Annotated

import typer

from sdqueue.backends import open_broker, opened_sessions
from sdqueue.cli.letters import as_fields, body_of, moment, print_details, print_table, safe
from sdqueue.cli.lines import Lines
from sdqueue.cli.options import BROKER, KEYS, STORE, Given, JsonOption, require_shared_broker, takes_settings
from sdqueue.deadletters import Batch, DeadLetter, DeadLetters, LetterFilter
from sdqueue.errors import ConfigurationError
from sdqueue.settings import Settings

app = typer.Typer(
    help="Look at turns that could not be answered and replies that could not be delivered, put them back, or throw "
    "them away.",
    no_args_is_help=True,
)

Names = Annotated[list[str] | None, typer.Argument(metavar="TURN_ID", help="Names as `dead list` shows them.")]
SessionOption = Annotated[str | None, typer.Option(help="Only letters of this session.")]
ChannelOption = Annotated[str | None, typer.Option(help="Only letters of this channel.")]
ReasonOption = Annotated[str | None, typer.Option(help="Only letters with this reason, such as agent-failed.")]
_TIME = "a date and time (2026-03-01T12:00, local time unless it has a zone), or so long ago: 90s, 30m, 2h, 7d"
SinceOption = Annotated[str | None, typer.Option(help=f"Only what died then or later: {_TIME}.")]
UntilOption = Annotated[str | None, typer.Option(help="Only what died before; given as --since.")]
AllOption = Annotated[bool, typer.Option("--all", help="All letters, where no turn and no filter is given.")]
LimitOption = Annotated[int | None, typer.Option(min=1, help="At most so many, those that died first.")]


@app.command("list")
@takes_settings(*BROKER)
async def list_(
    given: Given,
    session: SessionOption = None,
    channel: ChannelOption = None,
    reason: ReasonOption = None,
    since: SinceOption = None,
    until: UntilOption = None,
    limit: Annotated[int, typer.Option(min=1, help="At most so many, those that died first.")] = 100,
    as_json: JsonOption = False,
) -> None:
    """List dead letters, oldest first; they stay where they are.

    Examples:

        sdqueue dead list --reason agent-failed --since 2h

        sdqueue dead list --json | jq -r '.letters[].error' | sort | uniq -c
    """
    which = _filter(None, session, channel, reason, since, until)
    settings = _settings(given)
    async with open_broker(settings) as broker:
        found = await DeadLetters(broker).list(which, limit=limit)
    if as_json:
        letters = [as_fields(letter) for letter in found.letters]
        counts = {"matching": found.matching, "waiting": found.waiting, "complete": found.alone}
        print(json.dumps({"letters": letters, **counts}, indent=2))
        return
    if found.letters:
        print_table(found.letters)
    if len(found.letters) < found.matching:
        print(f"the oldest {len(found.letters)} of {found.matching} letters; --limit shows more")
    else:
        print(
            _count(found.matching, "dead letter") + (f" of {found.waiting}" if found.matching < found.waiting else "")
        )
    _tell_of_others(found)


@app.command("show")
@takes_settings(*BROKER)
async def show(
    given: Given,
    turn_id: Annotated[str, typer.Argument(help="The name as `dead list` shows it.")],
    as_json: JsonOption = False,
    body: Annotated[bool, typer.Option("--body", help="Write the bytes of the body and nothing else.")] = False,
) -> None:
    """Show everything about one dead letter: why, where and when it died, its headers and its body.

    A turn that was put back and died again before its letter was taken away has several letters; all are shown.

    Example: sdqueue dead show t1 --body > turn.json
    """
    if as_json and body:
        raise ConfigurationError("--json and --body exclude each other")
    settings = _settings(given)
    async with open_broker(settings) as broker:
        found = await DeadLetters(broker).list(LetterFilter(names=frozenset({turn_id})))
    _tell_of_others(found)
    if not found.letters:
        raise _no_letter([turn_id])
    if body:
        sys.stdout.buffer.write(found.letters[-1].message.body)
    elif as_json:
        print(json.dumps([as_fields(letter) | body_of(letter) for letter in found.letters], indent=2))
    else:
        for letter in found.letters:
            print_details(letter)


@app.command("replay")
@takes_settings(*BROKER)
async def replay(
    given: Given,
    turns: Names = None,
    everything: AllOption = False,
    session: SessionOption = None,
    channel: ChannelOption = None,
    reason: ReasonOption = None,
    since: SinceOption = None,
    until: UntilOption = None,
    limit: LimitOption = None,
) -> None:
    """Put dead turns back, to be run again under their own ids; their answers are numbered, the first is TURN_ID:1.

    A reply that could not be delivered (TURN_ID:0, its reason begins with reply-) is delivered again.

    Whatever stops this command leaves the letters of turns that were not put back for certain. It may be repeated: no
    turn runs twice for one death.

    Examples:

        sdqueue dead replay t1 t2

        sdqueue dead replay --reason agent-failed --since 2h --limit 10
    """
    which = _chosen(turns, everything, session, channel, reason, since, until)
    settings = _settings(given)

    def tell(letter: DeadLetter) -> None:
        print(f"{_named(letter)}: put back, replay {letter.why.replay + 1}", flush=True)

    async with open_broker(settings) as broker:
        done = await DeadLetters(broker).replay(which, limit=limit, on_done=tell)
    _sum_up(done, "put back", turns)


@app.command("discard")
@takes_settings(*BROKER, *STORE, *KEYS)
async def discard(
    given: Given,
    turns: Names = None,
    everything: AllOption = False,
    session: SessionOption = None,
    channel: ChannelOption = None,
    reason: ReasonOption = None,
    since: SinceOption = None,
    until: UntilOption = None,
    limit: LimitOption = None,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")] = False,
) -> None:
    """Throw dead letters away for good, after asking.

    A session that is parked behind a dead turn goes on; this needs the store of the consumers. Where the letter is gone
    already, TURN_ID and --session together release the session all the same.

    Example: sdqueue dead discard --reason not-json --yes
    """
    which = _chosen(turns, everything, session, channel, reason, since, until)
    settings = _settings(given)
    async with opened_sessions(settings) as (store, locks), open_broker(settings) as broker:
        letters = DeadLetters(broker, store=store, locks=locks)
        if not yes:
            which = await _confirmed(letters, which, limit)
        done = await letters.discard(which, limit=limit, on_done=lambda letter: print(f"{_named(letter)}: discarded"))
        if session is not None:
            found = {letter.name for letter in done.letters}
            released = [turn for turn in turns or () if turn not in found and await letters.release(session, turn)]
            for turn in released:
                print(f"{safe(turn)}: no letter, but session {safe(session)} was parked behind it and goes on")
            turns = [turn for turn in turns or () if turn not in released]
    _sum_up(done, "discarded", turns)


async def _confirmed(letters: DeadLetters, which: LetterFilter, limit: int | None) -> LetterFilter:
    """Ask whether what is there now may go; nothing is held meanwhile.

    Returns:
        These letters and no others.

    Raises:
        ConfigurationError: there is nobody to ask.
        typer.Exit: the answer is no.
    """
    with Lines() as lines:
        if not lines.terminal:
            raise ConfigurationError("discarding is for good and nobody sits at a terminal to be asked; give --yes")
        found = await letters.list(which, limit=limit)
        if not found.letters:
            return which
        reasons = Counter(letter.why.reason for letter in found.letters)
        told = ", ".join(f"{count} {safe(reason)}" for reason, count in reasons.most_common())
        answer = await lines.next(f"discard {_count(len(found.letters), 'dead letter')} for good ({told})? [y/N] ")
    if (answer or "").strip().lower() not in ("y", "yes"):
        print("nothing was discarded")
        raise typer.Exit(1)
    return LetterFilter(names=frozenset(letter.fingerprint for letter in found.letters))


def _settings(given: Given) -> Settings:
    settings = Settings.load(**given)
    require_shared_broker(settings)
    return settings


def _chosen(turns: list[str] | None, everything: bool, *filters: str | None) -> LetterFilter:
    given = bool(turns) or any(value is not None for value in filters)
    if given == everything:
        raise ConfigurationError(
            "--all excludes turns and filters; leave it out"
            if given
            else "which letters? name their turns, give a filter such as --reason, or --all"
        )
    return _filter(turns, *filters)


def _filter(
    turns: list[str] | None,
    session: str | None,
    channel: str | None,
    reason: str | None,
    since: str | None,
    until: str | None,
) -> LetterFilter:
    return LetterFilter(
        names=frozenset(turns or ()),
        session_id=session,
        channel=channel,
        reason=reason,
        since=moment("--since", since),
        until=moment("--until", until),
    )


def _sum_up(done: Batch, what: str, turns: list[str] | None) -> None:
    count = len(done.letters)
    more = f" of {done.matching} that match" if count < done.matching else ""
    print(f"{_count(count, 'dead letter')}{more} {what}")
    _tell_of_others(done)
    names = {name for letter in done.letters for name in (letter.name, letter.fingerprint)}
    if count == done.matching and (missing := [turn for turn in turns or () if turn not in names]):
        raise _no_letter(missing)


def _tell_of_others(found: Batch) -> None:
    if not found.alone:
        print("another process has dead letters in hand, which are not among these; try again", file=sys.stderr)


def _no_letter(names: list[str]) -> typer.Exit:
    told = ", ".join(repr(name) for name in names)
    print(f"sdqueue: no dead letter is named {told}; `sdqueue dead list` shows what there is", file=sys.stderr)
    return typer.Exit(1)


def _named(letter: DeadLetter) -> str:
    session = letter.why.session_id
    return safe(f"{letter.name} of session {session}" if session else letter.name)


def _count(number: int, what: str) -> str:
    return f"{number} {what}{'' if number == 1 else 's'}"
