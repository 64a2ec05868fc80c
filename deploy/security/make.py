"""Make what a deployment over TLS with four users needs: certificates, passwords, and the servers' files with them.

``python3 deploy/security/make.py FOLDER`` needs Python 3.11 and openssl, and nothing of sdqueue. Run again, it keeps
the authority and the passwords that are there, and makes the servers' certificates and files anew.

FOLDER/authority/     the certificate authority; its key belongs on no server
FOLDER/rabbitmq/      rabbitmq.conf, definitions.json, certificate and key
FOLDER/redis/         redis.conf, users.acl, certificate and key
FOLDER/<role>/        for producer, consumer, operator and monitor: sdqueue_broker_url, sdqueue_store_url and ca.pem
"""

from __future__ import annotations

import argparse
import base64
import hashlib
import ipaddress
import os
import re
import secrets
import shutil
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final
from urllib.parse import quote, urlencode

HERE: Final = Path(__file__).parent
ROLES: Final = ("producer", "consumer", "operator", "monitor")
ADMIN: Final = "admin"
"""Of Redis only: for replicas and for whoever looks after the server. RabbitMQ has rabbitmqctl for that."""

AUTHORITY_DAYS: Final = 3650
CERTIFICATE_DAYS: Final = 397


@dataclass(frozen=True)
class Plan:
    """What is wanted; the options explain each."""

    folder: Path
    namespace: str
    channels: tuple[str, ...]
    rabbitmq: tuple[str, ...]
    redis: tuple[str, ...]
    amqps_port: int
    rediss_port: int
    management_port: int
    servers_at: str
    clients_at: str
    days: int
    client_certificates: bool
    sealed: bool


def main() -> None:
    """Make it."""
    plan = asked()
    os.umask(0o022)
    plan.folder.mkdir(parents=True, exist_ok=True)
    # Servers in containers run as users of their own and have to read their keys; so the door is here, for all of it.
    plan.folder.chmod(0o700)
    passwords = {user: password(plan.folder / "passwords", user) for user in (*map(user_of, ROLES), ADMIN)}
    authority(plan.folder / "authority")
    for server, hosts in (("rabbitmq", plan.rabbitmq), ("redis", plan.redis)):
        certificate(plan, plan.folder / server / "server", hosts[0], hosts)
    values = placeholders(plan, passwords)
    for name in ("rabbitmq/rabbitmq.conf", "rabbitmq/definitions.json", "redis/redis.conf", "redis/users.acl"):
        (plan.folder / name).write_text(filled((HERE / name).read_text("utf-8"), values), "utf-8")
    for role in ROLES:
        client(plan, role, passwords[user_of(role)])
    print(f"{plan.folder}: made for {', '.join(map(user_of, ROLES))}; namespace and vhost {plan.namespace}")


def asked() -> Plan:
    """The plan of the command line."""
    if not shutil.which("openssl"):
        raise SystemExit("openssl is not installed; on Debian and Ubuntu: apt-get install openssl")
    parser = argparse.ArgumentParser(
        description=(__doc__ or "").partition("\n\n")[0], formatter_class=argparse.ArgumentDefaultsHelpFormatter
    )
    parser.add_argument("folder", type=Path)
    parser.add_argument("--namespace", default="sdqueue", help="SDQUEUE_NAMESPACE; the vhost is called the same")
    parser.add_argument("--channels", default="", help="the only channels of producers, a,b; without: any")
    parser.add_argument("--rabbitmq", default="rabbitmq,localhost,127.0.0.1", help="its names; clients use the first")
    parser.add_argument("--redis", default="redis,localhost,127.0.0.1", help="its names; clients use the first")
    parser.add_argument("--amqps-port", type=int, default=5671)
    parser.add_argument("--rediss-port", type=int, default=6379)
    parser.add_argument("--management-port", type=int, default=15671)
    parser.add_argument("--servers-at", help="where the servers find FOLDER, as in a container (default: FOLDER)")
    parser.add_argument("--clients-at", help="where sdqueue finds FOLDER, as in a container (default: FOLDER)")
    parser.add_argument("--days", type=int, default=CERTIFICATE_DAYS, help="the life of certificates")
    parser.add_argument("--client-certificates", action="store_true", help="clients must show one as well")
    parser.add_argument("--sealed", action="store_true", help="SDQUEUE_ENCRYPTION_KEYS is set, for producers too")
    given = parser.parse_args()
    channels = names(given.channels)
    for what, name in (("namespace", given.namespace), *(("channel", channel) for channel in channels)):
        if not re.fullmatch(r"[A-Za-z0-9_-]{1,64}", name):
            parser.error(
                f"{what} {name!r}: use 1 to 64 letters, digits, _ and -, which mean themselves in all patterns"
            )
    folder = given.folder.absolute()
    return Plan(
        folder, given.namespace, channels, names(given.rabbitmq), names(given.redis), given.amqps_port,
        given.rediss_port, given.management_port, given.servers_at or str(folder), given.clients_at or str(folder),
        given.days, given.client_certificates, given.sealed,
    )  # fmt: skip


def names(text: str) -> tuple[str, ...]:
    """Names with commas between."""
    return tuple(name.strip() for name in text.split(",") if name.strip())


def user_of(role: str) -> str:
    """What a role is called on both servers."""
    return f"sdqueue-{role}"


def password(folder: Path, user: str) -> str:
    """The user's password; a new one of 256 random bits where there is none."""
    folder.mkdir(exist_ok=True)
    path = folder / user
    if not path.exists():
        path.write_text(secrets.token_urlsafe(32), "utf-8")
    return path.read_text("utf-8")


def placeholders(plan: Plan, passwords: Mapping[str, str]) -> dict[str, str]:
    """What stands in the servers' files for what is between @ signs there."""
    values = {
        "namespace": plan.namespace,
        "channels": f"({'|'.join(plan.channels)})" if plan.channels else "[a-z0-9_-]{1,64}",
        "servers": plan.servers_at,
        "amqps_port": str(plan.amqps_port),
        "rediss_port": str(plan.rediss_port),
        "management_port": str(plan.management_port),
        "verify": "verify_peer" if plan.client_certificates else "verify_none",
        "demand": "true" if plan.client_certificates else "false",
        "auth_clients": "yes" if plan.client_certificates else "no",
        "sealed": f"~{plan.namespace}:{{*}}:key ~{plan.namespace}:keys" if plan.sealed else "",
    }
    for user, word in passwords.items():
        values[f"sha256:{user}"] = hashlib.sha256(word.encode()).hexdigest()
        values[f"hash:{user}"] = rabbitmq_hash(word)
    return values


def rabbitmq_hash(word: str) -> str:
    """A password as RabbitMQ keeps it: base64 of a salt of four bytes, and SHA-256 over salt and password."""
    salt = secrets.token_bytes(4)
    return base64.b64encode(salt + hashlib.sha256(salt + word.encode()).digest()).decode()


def filled(text: str, values: Mapping[str, str]) -> str:
    """The text with its placeholders replaced; one that is not known is a mistake in the file."""
    return re.sub(r"@([a-z0-9_]+(?::[a-z-]+)?)@", lambda found: values[found[1]], text)


def client(plan: Plan, role: str, word: str) -> None:
    """The files of a role: the settings, one a file as SDQUEUE_SECRETS_DIR takes them, and whom to trust."""
    folder = plan.folder / role
    folder.mkdir(exist_ok=True)
    (folder / "ca.pem").write_bytes((plan.folder / "authority" / "ca.pem").read_bytes())
    at = f"{plan.clients_at}/{role}"
    amqp, redis = {"cafile": f"{at}/ca.pem"}, {"ssl_ca_certs": f"{at}/ca.pem"}
    if plan.client_certificates:
        certificate(plan, folder / "client", user_of(role), ())
        amqp |= {"certfile": f"{at}/client.pem", "keyfile": f"{at}/client.key"}
        redis |= {"ssl_certfile": f"{at}/client.pem", "ssl_keyfile": f"{at}/client.key"}
    who = f"{user_of(role)}:{quote(word, safe='')}"
    broker = f"amqps://{who}@{plan.rabbitmq[0]}:{plan.amqps_port}/{quote(plan.namespace, safe='')}"
    store = f"rediss://{who}@{plan.redis[0]}:{plan.rediss_port}/0"
    (folder / "sdqueue_broker_url").write_text(f"{broker}?{urlencode(amqp, safe='/')}", "utf-8")
    (folder / "sdqueue_store_url").write_text(f"{store}?{urlencode(redis, safe='/')}", "utf-8")
    (folder / "sdqueue_namespace").write_text(plan.namespace, "utf-8")


def authority(folder: Path) -> None:
    """The certificate authority; made once."""
    folder.mkdir(exist_ok=True)
    if (folder / "ca.pem").exists():
        return
    openssl(
        "req", "-x509", *NEW_KEY, "-keyout", folder / "ca.key", "-out", folder / "ca.pem", "-days", AUTHORITY_DAYS,
        "-subj", "/CN=sdqueue authority", "-addext", "keyUsage=critical,keyCertSign,cRLSign",
    )  # fmt: skip
    (folder / "ca.key").chmod(0o600)


def certificate(plan: Plan, stem: Path, name: str, hosts: tuple[str, ...]) -> None:
    """A key and a certificate: of a server with these hosts, or of a client."""
    stem.parent.mkdir(exist_ok=True)
    ca, request, extensions = plan.folder / "authority", stem.with_suffix(".csr"), stem.with_suffix(".ext")
    lines = ["basicConstraints=critical,CA:false", "keyUsage=critical,digitalSignature"]
    lines.append(f"extendedKeyUsage={'serverAuth' if hosts else 'clientAuth'}")
    if hosts:
        lines.append(f"subjectAltName={','.join(map(alternative, hosts))}")
    extensions.write_text("\n".join(lines) + "\n", "utf-8")
    key, made = stem.with_suffix(".key"), stem.with_suffix(".pem")
    openssl("req", *NEW_KEY, "-keyout", key, "-out", request, "-subj", f"/CN={name}")
    openssl(
        "x509", "-req", "-in", request, "-CA", ca / "ca.pem", "-CAkey", ca / "ca.key", "-CAcreateserial",
        "-days", plan.days, "-extfile", extensions, "-out", made,
    )  # fmt: skip
    key.chmod(0o644)
    (stem.parent / "ca.pem").write_bytes((ca / "ca.pem").read_bytes())
    request.unlink()
    extensions.unlink()


NEW_KEY: Final = ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes")


def alternative(host: str) -> str:
    """A host as a certificate names it."""
    try:
        return f"IP:{ipaddress.ip_address(host)}"
    except ValueError:
        return f"DNS:{host}"


def openssl(*words: object) -> None:
    """Run openssl; what it says is shown where it fails."""
    command = ["openssl", *map(str, words)]
    done = subprocess.run(  # noqa: S603 -- no shell, and the words are those above
        command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False
    )
    if done.returncode:
        raise SystemExit(f"openssl {words[0]} failed:\n{done.stdout}")


if __name__ == "__main__":
    main()
