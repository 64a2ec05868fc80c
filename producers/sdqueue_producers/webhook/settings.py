"""WebhookSettings: the endpoints, from the operator's configuration alone."""

from __future__ import annotations

import base64
import binascii
import re
from typing import Annotated, ClassVar, Final, Literal, Self

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    SecretStr,
    ValidationInfo,
    field_validator,
    model_validator,
)

from sdqueue_producers.settings import ChannelSettings
from sdqueue_producers.webhook.ids import ENDPOINT_NAME
from sdqueue_producers.webhook.networks import AddressPolicy, parse_network
from sdqueue_producers.webhook.target import CallbackTarget

MAX_WAIT_S: Final = 25.0
"""Longest wait for a reply on the request, in seconds: proxies give up at 30."""

SCHEDULE_S: Final = (5.0, 300.0, 1800.0, 7200.0, 18_000.0, 36_000.0, 50_400.0, 72_000.0, 86_400.0)
"""Waits after each failed callback, in seconds: the schedule that Standard Webhooks 1.0 gives as an example. The first
try is made at once, the last one 75 h 35 min later."""

MIN_SECRET_BYTES: Final = 24
"""Standard Webhooks 1.0: a secret has at least 24 random bytes."""

MIN_TOKEN_CHARS: Final = 16


def _check_secret(secret: SecretStr) -> SecretStr:
    text = secret.get_secret_value()
    if not text.startswith("whsec_"):
        raise ValueError("a secret begins with whsec_")
    try:
        key = base64.b64decode(text.removeprefix("whsec_"), validate=True)
    except (binascii.Error, ValueError):
        raise ValueError("a secret is whsec_ and then base64") from None
    if len(key) < MIN_SECRET_BYTES:
        raise ValueError(f"a secret has at least {MIN_SECRET_BYTES} bytes, this one has {len(key)}")
    return secret


def _check_token(token: SecretStr) -> SecretStr:
    text = token.get_secret_value()
    if text.startswith("sha256:"):
        if not re.fullmatch(r"sha256:[0-9a-f]{64}", text):
            raise ValueError("a hashed token is sha256: and then 64 of 0-9 and a-f")
    elif not re.fullmatch(rf"[!-~]{{{MIN_TOKEN_CHARS},}}", text):
        raise ValueError(f"a token has at least {MIN_TOKEN_CHARS} visible ASCII characters, or is sha256:<hex>")
    return token


Secret = Annotated[SecretStr, AfterValidator(_check_secret)]
Token = Annotated[SecretStr, AfterValidator(_check_token)]


class EndpointSettings(BaseModel):
    """One endpoint: who may send to it, and how the replies go back.

    See docs/webhook.md for the fields; names and defaults are the same there.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", hide_input_in_errors=True)

    secrets: tuple[Secret, ...] = Field(default=(), description="Of signatures on what comes in; any of them will do.")
    tokens: tuple[Token, ...] = Field(default=(), description="Bearer tokens, plain or sha256:<hex>; any will do.")
    open: bool = Field(default=False, description="Whether anybody may send.")
    mode: Literal["hold", "callback", "status", "stream"] | None = Field(
        default=None,
        description="How replies go back where the request does not say. Default: callback where there is a "
        "callback_url, else hold.",
    )
    wait_s: float = Field(default=MAX_WAIT_S, gt=0, le=MAX_WAIT_S, description="Seconds that mode hold waits.")
    callback_url: SecretStr | None = Field(default=None, description="Where replies are posted to.")
    callback_secrets: tuple[Secret, ...] = Field(
        default=(), description="Sign what is posted; each gives a signature, for rotation."
    )
    callback_per_s: int = Field(default=50, ge=1, description="Posts in a second, by all producers together.")
    callback_timeout_s: float = Field(default=20.0, gt=0, le=30, description="Seconds that a post may take.")
    callback_ca_file: str | None = Field(default=None, description="Authorities to trust in place of the system's.")
    callback_revision: int = Field(default=1, ge=1, description="Raise it to call an endpoint again that was gone.")
    allow_networks: tuple[str, ...] = Field(default=(), description="Networks besides the public addresses.")
    allow_http: bool = Field(default=False, description="Whether callback_url may be http://, in allow_networks only.")

    @field_validator("allow_networks")
    @classmethod
    def _networks(cls, networks: tuple[str, ...]) -> tuple[str, ...]:
        for network in networks:
            parse_network(network)
        return networks

    @model_validator(mode="after")
    def _whole(self) -> Self:
        if not (self.secrets or self.tokens or self.open):
            raise ValueError("nobody is asked who they are: give secrets or tokens, or open = true")
        if self.open and (self.secrets or self.tokens):
            raise ValueError(
                "open = true lets everybody in, so secrets and tokens would do nothing: give one or the other"
            )
        if self.callback_url is None:
            if self.mode == "callback":
                raise ValueError('mode = "callback" needs a callback_url')
        else:
            if self.mode == "status":
                raise ValueError('mode = "status" is without a callback_url: use mode = "callback", which has both')
            if not self.callback_secrets:
                raise ValueError("callback_url needs callback_secrets: the receiver could not know who posts")
            try:
                self.target()
            except ValueError as error:
                raise ValueError(f"callback_url: {error}") from None
        return self

    @property
    def effective_mode(self) -> Literal["hold", "callback", "status", "stream"]:
        """How replies go back where the request does not say."""
        return self.mode or ("hold" if self.callback_url is None else "callback")

    def target(self) -> CallbackTarget | None:
        """Where callbacks go; ``None`` where there are none."""
        if self.callback_url is None:
            return None
        policy = AddressPolicy(tuple(map(parse_network, self.allow_networks)))
        return CallbackTarget.parse(self.callback_url.get_secret_value(), policy, allow_http=self.allow_http)


class WebhookSettings(ChannelSettings):
    """Settings of the channel; ``[webhook]`` in ``sdqueue.toml``."""

    channel: ClassVar[str] = "webhook"

    endpoints: dict[str, EndpointSettings] = Field(default_factory=dict, description="By name.")
    status_ttl_s: float = Field(
        default=24 * 3600.0, ge=60, description="Seconds that a reply is kept at the status address of its turn."
    )
    retry_s: tuple[Annotated[float, Field(gt=0)], ...] = Field(
        default=SCHEDULE_S, description="Seconds to wait after each failed callback; after the last one it is dead."
    )
    ping_s: float = Field(default=15.0, gt=0, description="Seconds between two comments in an event stream.")
    stream_s: float = Field(default=600.0, gt=0, description="Seconds that an event stream lasts; clients come back.")

    @field_validator("endpoints")
    @classmethod
    def _names(cls, endpoints: dict[str, EndpointSettings], info: ValidationInfo) -> dict[str, EndpointSettings]:
        for name in endpoints:
            if not re.fullmatch(ENDPOINT_NAME, name):
                raise ValueError(f"endpoint {name[:60]!r}: a name is 1 to 40 of a-z, 0-9, _ and -")
        return endpoints
