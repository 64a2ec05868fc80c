"""What the tests of the webhook share: secrets, signed requests, receivers."""

from __future__ import annotations

import asyncio
import ipaddress
import json
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from aiohttp import web
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID
from sdqueue_producers import ChannelContext, MemoryState, Outgoing, ProducerState, Request
from sdqueue_producers.webhook import WebhookChannel, WebhookSettings
from sdqueue_producers.webhook.ids import TurnAddress, session_id, turn_id
from sdqueue_producers.webhook.resolver import Lookup, system_lookup
from standardwebhooks import Webhook

from sdqueue import Client, MemoryBroker, Settings, Topology
from sdqueue.messages import OutboundReply

SECRET = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"
OTHER_SECRET = "whsec_" + "QUJDREVGR0hJSktMTU5PUFFSU1RVVldY"
THIRD_SECRET = "whsec_" + "eHl6eHl6eHl6eHl6eHl6eHl6eHl6eHl6"
TOKEN = "a-token-of-sixteen-and-more"

LEAST = {"session_id": "user-42", "text": "hello"}


def make_channel(
    *,
    state: ProducerState | None = None,
    lookup: Lookup = system_lookup,
    settings: Settings | None = None,
    client: Client | None = None,
    **given: Any,
) -> WebhookChannel:
    """A channel with endpoints as the settings would have them."""
    settings = settings or Settings(broker_url="memory://", store_url="memory://")
    client = client or Client(MemoryBroker(Topology()))
    context = ChannelContext(settings, state or MemoryState(), client)
    return WebhookChannel(context, WebhookSettings.load(**given), lookup=lookup)


def signed_headers(
    body: bytes, *, id_: str = "evt_1", secret: str = SECRET, at: datetime | None = None, **more: str
) -> dict[str, str]:
    """The headers of a sender that uses the standardwebhooks package."""
    at = at or datetime.now(UTC)
    return {
        "content-type": "application/json",
        "webhook-id": id_,
        "webhook-timestamp": str(int(at.timestamp())),
        "webhook-signature": Webhook(secret).sign(id_, at, body.decode()),
        **{name.replace("_", "-"): value for name, value in more.items()},
    }


def signed(fields: Any = LEAST, *, endpoint: str = "crm", **options: Any) -> Request:
    """A signed message."""
    body = fields if isinstance(fields, bytes) else json.dumps(fields).encode()
    return Request("POST", f"/webhook/{endpoint}", signed_headers(body, **options), {}, body)


def question(id_: str, *, endpoint: str = "crm", events: bool = False, **options: Any) -> Request:
    """A signed question what has become of a message."""
    path = f"/webhook/{endpoint}/turns/{id_}{'/events' if events else ''}"
    return Request("GET", path, signed_headers(b"", id_=id_, **options), {}, b"")


def outgoing_reply(
    text: str = "hi", *, id_: str = "evt_1", session: str = "user-42", endpoint: str = "crm", held: bool = False,
    kind: Any = "final",
) -> Outgoing:  # fmt: skip
    """A reply as the egress hands it over."""
    turn = turn_id(endpoint, id_)
    reply = OutboundReply(
        id=f"{turn}:0",
        turn_id=turn,
        session_id=session_id(endpoint, session),
        seq=1,
        kind=kind,
        text=text,
        channel="webhook",
        address=TurnAddress(endpoint, id_, session, held).to_json(),
    )
    return Outgoing(reply, text)


@dataclass
class Received:
    """One post that a receiver has got."""

    headers: dict[str, str]
    body: bytes

    def verified(self, secret: str = OTHER_SECRET) -> dict[str, Any]:
        """Its body, once the standardwebhooks package has verified it."""
        fields: dict[str, Any] = Webhook(secret).verify(self.body, self.headers)
        return fields


@dataclass
class Receiver:
    """A receiver of callbacks on 127.0.0.1.

    Parameters:
        answer: makes the response; default: 204.
    """

    answer: Callable[[web.Request], Awaitable[web.StreamResponse]] | None = None
    got: list[Received] = field(default_factory=list)
    port: int = 0
    arrived: asyncio.Event = field(default_factory=asyncio.Event)

    async def handle(self, request: web.Request) -> web.StreamResponse:
        headers = {name.lower(): value for name, value in request.headers.items()}
        self.got.append(Received(headers, await request.read()))
        self.arrived.set()
        if self.answer is None:
            return web.Response(status=204)
        return await self.answer(request)


@asynccontextmanager
async def serving(receiver: Receiver, tls: ssl.SSLContext | None = None, port: int = 0) -> AsyncIterator[Receiver]:
    """Let it listen on 127.0.0.1."""
    app = web.Application()
    app.router.add_route("*", "/{path:.*}", receiver.handle)
    runner = web.AppRunner(app, shutdown_timeout=0.1)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", port, ssl_context=tls)
    try:
        await site.start()
        receiver.port = runner.addresses[0][1]
        yield receiver
    finally:
        await runner.cleanup()


@dataclass(frozen=True)
class Authority:
    """An authority of the test's own, and a server's certificate by it."""

    ca_file: Path
    tls: ssl.SSLContext


def _signs_certificates() -> x509.KeyUsage:
    """What Python 3.13 wants to read in an authority's certificate, as RFC 5280 demands it."""
    uses = ("digital_signature", "content_commitment", "key_encipherment", "data_encipherment", "key_agreement")
    no = dict.fromkeys((*uses, "encipher_only", "decipher_only"), False)
    return x509.KeyUsage(key_cert_sign=True, crl_sign=True, **no)


def make_authority(folder: Path, *names: str) -> Authority:
    """Make them, for these names and 127.0.0.1."""
    now = datetime.now(UTC)
    ca_key, key = ec.generate_private_key(ec.SECP256R1()), ec.generate_private_key(ec.SECP256R1())
    ca_name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "authority of a test")])

    def certificate(subject: x509.Name, public: Any) -> x509.CertificateBuilder:
        return (
            x509.CertificateBuilder()
            .subject_name(subject)
            .issuer_name(ca_name)
            .public_key(public)
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - timedelta(days=1))
            .not_valid_after(now + timedelta(days=1))
        )

    ca = (
        certificate(ca_name, ca_key.public_key())
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .add_extension(_signs_certificates(), critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(ca_key.public_key()), critical=False)
        .sign(ca_key, hashes.SHA256())
    )
    alternative = [x509.DNSName(name) for name in names] + [x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]
    leaf = (
        certificate(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, names[0])]), key.public_key())
        .add_extension(x509.SubjectAlternativeName(alternative), critical=False)
        .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(ca_key.public_key()), critical=False)
        .sign(ca_key, hashes.SHA256())
    )
    (folder / "ca.pem").write_bytes(ca.public_bytes(serialization.Encoding.PEM))
    chain = folder / "server.pem"
    chain.write_bytes(
        key.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )
        + leaf.public_bytes(serialization.Encoding.PEM)
    )  # fmt: skip
    tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    tls.load_cert_chain(chain)
    return Authority(folder / "ca.pem", tls)
