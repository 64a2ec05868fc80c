# A Docker engine for CI, to be sourced: `start_engine FOLDER`, `stop_engine FOLDER`.
# An engine that answers is used as it is, and never stopped.

DOCKERD_SECONDS=60

# Starts an engine where none answers, installing Debian's where there is none. FOLDER gets its log.
start_engine() {
    local folder=$1 attempt
    mkdir -p "$folder"
    if docker info >/dev/null 2>&1; then
        echo "A Docker engine answers: $(docker version --format '{{.Server.Version}}')."
        return 0
    fi
    if [[ -n ${DOCKER_HOST:-} ]]; then
        echo "No Docker engine answers at DOCKER_HOST=$DOCKER_HOST; start it, or unset DOCKER_HOST." >&2
        return 1
    fi
    if ! PATH=$PATH:/usr/sbin:/sbin command -v dockerd >/dev/null; then
        .venv/bin/python -c 'from tests.servers.install import install; install(["docker.io", "iptables"])'
    fi
    if ! PATH=$PATH:/usr/sbin:/sbin command -v dockerd >/dev/null; then
        echo 'No Docker engine answers, and none can be installed: Debian and root are needed.' >&2
        return 1
    fi
    _prepare_cgroups || true
    mkdir -p "$folder/legacy"
    ln -sf /usr/sbin/iptables-legacy "$folder/legacy/iptables"
    ln -sf /usr/sbin/ip6tables-legacy "$folder/legacy/ip6tables"
    # From what an engine wants to what a machine inside a machine may allow.
    for attempt in '' 'legacy' '--storage-driver=vfs' 'legacy --storage-driver=vfs' \
        '--iptables=false --ip6tables=false --storage-driver=vfs'; do
        # shellcheck disable=SC2086 # options are words
        if _try_engine "$folder" $attempt; then
            echo "Started a Docker engine ${attempt:+($attempt) }with its log in $folder/dockerd.log."
            return 0
        fi
    done
    echo "No Docker engine starts here. The end of $folder/dockerd.log:" >&2
    grep -v level=info "$folder/dockerd.log" | tail -n 60 >&2
    return 1
}

# Stops the engine that start_engine started, and no other.
stop_engine() {
    local pid=$1/dockerd.pid seconds
    [[ -e $pid ]] || return 0
    pid=$(<"$pid")
    kill -TERM "$pid" 2>/dev/null || true
    for ((seconds = 0; seconds < 300; seconds++)); do
        kill -0 "$pid" 2>/dev/null || break
        sleep 0.1
    done
    kill -KILL "$pid" 2>/dev/null || true
    rm -f "$1/dockerd.pid"
}

_try_engine() {
    local folder=$1 path=$PATH:/usr/sbin:/sbin tenth
    shift
    if [[ ${1:-} == legacy ]]; then
        [[ -x /usr/sbin/iptables-legacy ]] || return 1
        path=$folder/legacy:$path
        shift
    fi
    printf '\n== dockerd %s\n' "$*" >>"$folder/dockerd.log"
    # The engine goes with this shell, also when that is killed.
    PATH=$path setpriv --pdeathsig TERM dockerd "$@" >>"$folder/dockerd.log" 2>&1 </dev/null &
    echo $! >"$folder/dockerd.pid"
    for ((tenth = 0; tenth < DOCKERD_SECONDS * 10; tenth++)); do
        if docker info >/dev/null 2>&1; then
            _runs_containers "$folder" && return 0
            break
        fi
        kill -0 "$(<"$folder/dockerd.pid")" 2>/dev/null || break
        sleep 0.1
    done
    stop_engine "$folder"
    return 1
}

# An engine may answer and yet run nothing. Its own init program makes an image without any registry.
_runs_containers() {
    local init
    init=$(PATH=$PATH:/usr/libexec/docker command -v docker-init) || return 0
    {
        tar --create --dereference --directory "${init%/*}" docker-init | docker import - sdqueue-stand-in/check
        docker run --rm sdqueue-stand-in/check /docker-init --version && docker image rm sdqueue-stand-in/check
    } >>"$1/dockerd.log" 2>&1
}

# What systemd does elsewhere: mount the control groups, of version 2 where the kernel has the controllers there. And
# where this is itself a container, on version 2: its processes leave the root of their group, in which no groups with
# limits could be made beside them.
_prepare_cgroups() {
    local group=/sys/fs/cgroup name process
    if ! grep -q " $group[/ ]" /proc/self/mounts; then
        mount -t cgroup2 cgroup2 $group 2>/dev/null || true
        if ! grep -qs pids $group/cgroup.controllers; then
            umount $group 2>/dev/null || true
            mount -t tmpfs -o mode=755 cgroup $group || return 0
            for name in $(awk '!/^#/ && $4 == 1 { print $1 }' /proc/cgroups); do
                mkdir -p "$group/$name"
                mount -t cgroup -o "$name" cgroup "$group/$name" 2>/dev/null || rmdir "$group/$name"
            done
        fi
    fi
    if [[ -e $group/cgroup.type && ! -s $group/cgroup.subtree_control ]]; then
        mkdir -p $group/init 2>/dev/null || return 0
        while read -r process; do
            echo "$process" >$group/init/cgroup.procs
        done 2>/dev/null <$group/cgroup.procs
        sed -e 's/ / +/g' -e 's/^/+/' $group/cgroup.controllers >$group/cgroup.subtree_control 2>/dev/null || true
    fi
}
