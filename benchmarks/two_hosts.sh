#!/bin/bash
# Two hosts on one machine, as two network namespaces: a training starts on both, one is lost, and it goes on with one.
# Needs root and iproute2. Usage: benchmarks/two_hosts.sh FOLDER [RECIPE] [KEY=VALUE]...
set -euo pipefail
folder="$1"
shift
python="${PYTHON:-.venv/bin/python}"
mkdir -p "$folder"

clean() {
    for host in 1 2; do
        ip netns pids "preceptor-$host" 2>/dev/null | xargs -r kill -9 2>/dev/null || true
        ip netns del "preceptor-$host" 2>/dev/null || true
    done
}
trap clean EXIT
clean
ip netns add preceptor-1
ip netns add preceptor-2
ip link add preceptor-1 netns preceptor-1 type veth peer name preceptor-2 netns preceptor-2
for host in 1 2; do
    ip -n "preceptor-$host" addr add "10.77.0.$host/24" dev "preceptor-$host"
    ip -n "preceptor-$host" link set "preceptor-$host" up
    ip -n "preceptor-$host" link set lo up
done

start() {
    GLOO_SOCKET_IFNAME="preceptor-$1" ip netns exec "preceptor-$1" "$python" -m torch.distributed.run \
        --nnodes=1:2 --nproc-per-node=1 --max-restarts=3 --rdzv-backend=c10d --rdzv-id=two-hosts \
        --rdzv-endpoint=10.77.0.1:29500 --rdzv-conf="is_host=$((2 - $1)),last_call_timeout=5,keep_alive_interval=1" \
        --local-addr="10.77.0.$1" -m preceptor pretrain "${@:2}" --out "$folder/run" >"$folder/host-$1.log" 2>&1 &
}
steps() { cat "$folder"/run/metrics/pretrain-*.jsonl 2>/dev/null | wc -l; }

start 1 "$@"
first=$!
start 2 "$@"
second=$!
while [ "$(steps)" -lt "${STEPS:-10}" ] && kill -0 "$first" 2>/dev/null; do sleep 0.1; done
echo "at step $(steps) host 2 is lost"
ip netns pids preceptor-2 | xargs -r kill -9
wait "$second" || true
wait "$first" && code=0 || code=$?
echo "host 1 has ended with $code at step $(steps)"
grep -E "going on|cannot go on|made, checkpoint" "$folder/host-1.log"
exit "$code"
