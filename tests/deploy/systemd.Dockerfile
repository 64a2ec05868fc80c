# A machine with systemd and without a network, for test_systemd.py: Debian's own, with the wheels that pip takes there.
ARG PYTHON_IMAGE=python:3.13-slim
FROM ${PYTHON_IMAGE}
RUN apt-get update -qq \
    && DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends \
        systemd systemd-sysv dbus sqlite3 python3-venv >/dev/null \
    && apt-get clean
COPY deploy/image/build.txt deploy/image/requirements.txt /locks/
RUN --mount=type=secret,id=pip,target=/etc/pip.conf --mount=type=secret,id=ca \
    python3 -m venv /tmp/tools \
    && for lock in build requirements; do \
        /tmp/tools/bin/pip download --quiet --disable-pip-version-check --dest /wheels --only-binary :all: -r /locks/$lock.txt || exit 1; \
    done
ENV PIP_NO_INDEX=1 PIP_FIND_LINKS=/wheels
COPY pyproject.toml README.md LICENSE /src/
COPY sdqueue /src/sdqueue
COPY producers /src/producers
COPY examples /src/examples
COPY deploy/systemd /src/deploy/systemd
# Off, as `systemctl poweroff` does it. A mount that systemd makes for a service reaches it only where mounts propagate.
STOPSIGNAL SIGRTMIN+3
CMD ["sh", "-c", "mount --make-rshared / && exec /sbin/init SYSTEMD_CGROUP_ENABLE_LEGACY_FORCE=1"]
