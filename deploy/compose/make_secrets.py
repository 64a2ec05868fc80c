"""Make the passwords once, and the files that each service reads of them; runs in the service ``secrets``.

What is random is in ``/secrets/made``, which no other service sees; each of them has a folder of its own. RabbitMQ and
Redis get hashes only. ``--new`` makes everything anew; it counts when the services have started again.
"""

from __future__ import annotations

import argparse
import base64
import hashlib
import json
import secrets
from collections.abc import Iterator
from pathlib import Path

NAMES = ("rabbitmq", "redis", "openai", "webchat")
"""What is made; each is 32 random bytes, in letters that a URL takes as they are."""


def main() -> None:
    """Make what is missing and write all files."""
    parser = argparse.ArgumentParser(description="Make the secrets of the services.")
    parser.add_argument("--root", type=Path, default=Path("/secrets"), help="where the folders of the services are")
    parser.add_argument("--new", action="store_true", help="make all of them anew")
    given = parser.parse_args()
    made = {name: make(given.root / "made" / name, anew=given.new) for name in NAMES}
    for path, text in files(made):
        write(given.root / path, text)
    print("secrets are made")


def make(path: Path, *, anew: bool) -> str:
    """The secret in this file, which is made where it is missing."""
    if anew or not path.exists():
        write(path, secrets.token_urlsafe(32))
    return path.read_text()


def write(path: Path, text: str) -> None:
    """Write a file whole or not at all. Everybody may read it: only its service has the volume, under users that
    differ from image to image."""
    path.parent.mkdir(parents=True, exist_ok=True)
    draft = path.with_name(f".{path.name}.draft")
    draft.write_text(text)
    draft.chmod(0o444)
    draft.replace(path)


def files(made: dict[str, str]) -> Iterator[tuple[str, str]]:
    """What each service reads, by path."""
    yield "rabbitmq/definitions.json", json.dumps(definitions(made["rabbitmq"]), indent=1)
    yield "redis/users.acl", acl(made["redis"])
    for service in ("consumer", "producer"):
        yield f"{service}/sdqueue_broker_url", f"amqp://sdqueue:{made['rabbitmq']}@rabbitmq:5672/"
        yield f"{service}/sdqueue_store_url", f"redis://sdqueue:{made['redis']}@redis:6379/0"
    yield "producer/sdqueue_webchat_secrets", made["webchat"]
    yield "producer/sdqueue_openai_keys", json.dumps({"compose": made["openai"]})
    yield "producer/openai_key", made["openai"]  # for whoever asks: docker compose exec producer cat …


def definitions(password: str) -> dict[str, object]:
    """RabbitMQ's virtual host and user.

    The hash is RabbitMQ's: base64 of four bytes of salt and SHA-256 of the salt and the password. The salt follows from
    the password, so that nothing changes from start to start.
    """
    salt = hashlib.sha256(f"salt of {password}".encode()).digest()[:4]
    hashed = base64.b64encode(salt + hashlib.sha256(salt + password.encode()).digest()).decode()
    everything = {"configure": ".*", "write": ".*", "read": ".*"}
    return {
        "vhosts": [{"name": "/"}],
        "users": [
            {
                "name": "sdqueue",
                "password_hash": hashed,
                "hashing_algorithm": "rabbit_password_hashing_sha256",
                "tags": [],
            }
        ],
        "permissions": [{"user": "sdqueue", "vhost": "/", **everything}],
    }


def acl(password: str) -> str:
    """Redis's users: ours, and one that can see that it answers; nobody without a name.

    Nobody can be ``default``, and yet it may do everything: Redis reads its own log at the start as that user, and what
    scripts have written would be left out where it may not (valkey-io/valkey#3983, redis/redis#14541).
    """
    hashed = hashlib.sha256(password.encode()).hexdigest()
    return (
        "user default off resetpass ~* &* +@all\n"
        f"user sdqueue on #{hashed} ~* &* +@all -@dangerous +info\n"
        "user health on nopass -@all +ping\n"
    )


if __name__ == "__main__":
    main()
