#!/usr/bin/env bash
# Builds the five images, brings deploy/compose.yaml up, asks the mesh, kills the predictor's container, asks again.
#
# Leaves nothing behind. Uses the Docker engine that runs here, else one of its own (see engine.sh). Where neither is
# to be had it fails, unless MESHSERVE_SKIP_CONTAINERS=1.
set -euo pipefail
cd "$(dirname "$0")/../.."
. deploy/ci/engine.sh

export DOCKER_BUILDKIT=1
export COMPOSE_PROJECT_NAME=meshserve-smoke-$$ MESHSERVE_TAG=smoke-$$
SERVICES=(registry transformer explainer gateway predictor)
WORK=$(mktemp -d)
IS_UP=

say() { printf '== %4ds %s\n' "$SECONDS" "$*"; }

compose() { timeout "${DEADLINE_S:-60}" "$DOCKER" compose --file deploy/compose.yaml "$@"; }

main() {
    if ! engine_up "$WORK"; then
        echo "compose_smoke: no Docker engine to be had, so the containers are not tested" >&2
        [ "${MESHSERVE_SKIP_CONTAINERS:-}" = 1 ] && exit 0
        exit 1
    fi
    make --silent .venv/.installed-dev
    build
    up
    say "asking the mesh"
    ask
    check_confinement
    check_kernels
    kill_predictor
    say "asking the mesh again"
    ask
    say "done"
}

build() {
    local base compiler wheels service
    base=$(base_image "$WORK")
    compiler=$(compiler_image "$WORK")
    wheels=$(wheels_image)
    for service in "${SERVICES[@]}"; do
        say "building $service on $base"
        timeout 400 "$DOCKER" build --quiet --file deploy/Dockerfile --target "$service" \
            --build-arg BASE_IMAGE="$base" --build-arg COMPILER_IMAGE="$compiler" --build-arg WHEELS_IMAGE="$wheels" \
            --tag "meshserve/$service:$MESHSERVE_TAG" . >/dev/null
    done
    "$DOCKER" images --filter "reference=meshserve/*:$MESHSERVE_TAG" --format '{{.Repository}} {{.Size}}'
}

up() {
    read -r MESHSERVE_HTTP_PORT MESHSERVE_GRPC_PORT < <(free_ports)
    export MESHSERVE_HTTP_PORT MESHSERVE_GRPC_PORT
    say "starting; the predictor fetches its language model"
    IS_UP=yes
    # Images that are built here are in no registry, so nothing is to be pulled.
    DEADLINE_S=300 compose --progress quiet up --detach --no-build --wait --wait-timeout 280
}

free_ports() {
    python3 -c 'import socket
sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(2)]
print(*(each.getsockname()[1] for each in sockets))'
}

ask() {
    MESHSERVE_STACK_HTTP=127.0.0.1:$MESHSERVE_HTTP_PORT MESHSERVE_STACK_GRPC=127.0.0.1:$MESHSERVE_GRPC_PORT \
        timeout 300 .venv/bin/pytest --exitfirst tests/deploy/test_compose_stack.py
}

# What the Dockerfile and compose.yaml promise, asked of the containers themselves.
check_confinement() {
    local service
    say "looking into the containers"
    for service in "${SERVICES[@]}"; do
        compose exec -T "$service" python - "$service" <<'PYTHON'
import importlib.util, os, shutil, sys
service = sys.argv[1]
faults = {
    "runs as root": os.getuid() == 0,
    "can write to its image": not os.statvfs("/").f_flag & os.ST_RDONLY,
    "has a compiler": any(map(shutil.which, ("cc", "gcc", "g++", "clang"))),
    "has torch": service != "predictor" and importlib.util.find_spec("torch") is not None,
}
if service == "predictor":
    for library in ("lightgbm", "onnxruntime", "sklearn", "xgboost"):
        importlib.import_module(library)  # each with the libraries of the system that it needs
sys.exit("".join(f"{service} {fault}\n" for fault, is_there in faults.items() if is_there) or None)
PYTHON
    done
}

# The engine computes with what its image brought, on a CPU for which that is the faster way.
check_kernels() {
    if ! grep -q avx2 /proc/cpuinfo; then return; fi
    say "looking for the kernels"
    if ! compose logs --no-color predictor | grep native_kernels_loaded | grep -c /venv/lib/meshserve/kernels/ >/dev/null; then
        echo "compose_smoke: the predictor does not compute with the kernels of its image" >&2
        return 1
    fi
}

kill_predictor() {
    local id before
    id=$(compose ps --quiet predictor)
    before=$("$DOCKER" inspect --format '{{.RestartCount}}' "$id")
    say "killing the predictor's processes"
    # All but init, which then ends with its child's status: a crash as Docker sees one.
    compose exec -T predictor python -c 'import os; os.kill(-1, 9)' || true
    await 60 restarted "$id" "$before"
    await 240 healthy "$id"
}

restarted() { [ "$("$DOCKER" inspect --format '{{.RestartCount}}' "$1")" -gt "$2" ]; }
healthy() { [ "$("$DOCKER" inspect --format '{{.State.Health.Status}}' "$1")" = healthy ]; }

# await SECONDS COMMAND…: run it until it succeeds.
await() {
    local until=$((SECONDS + $1))
    shift
    until "$@"; do
        if [ "$SECONDS" -ge "$until" ]; then
            echo "compose_smoke: waited in vain for: $*" >&2
            return 1
        fi
        sleep 0.5
    done
}

# Runs at every end. The logs are of use only where something failed.
clean_up() {
    local status=$?
    trap - EXIT INT TERM
    set +e
    if [ "$IS_UP" ]; then
        if [ "$status" -ne 0 ]; then
            compose ps --all
            compose logs --no-color --tail 200 | grep -v model_progress | cut -c 1-600
        fi
        DEADLINE_S=90 compose down --volumes --timeout 5 >/dev/null 2>&1
        # An engine of our own takes its images with it.
        [ "$ENGINE_IS_OURS" ] || "$DOCKER" images --quiet --filter "reference=meshserve/*:$MESHSERVE_TAG" | xargs "$DOCKER" rmi >/dev/null 2>&1
    fi
    engine_down "$WORK"
    rm -rf "$WORK"
    say "nothing is left"
    exit "$status"
}

trap clean_up EXIT
trap 'exit 130' INT TERM
main "$@"
