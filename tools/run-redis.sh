#!/bin/bash
# acre's main job, seen from a user: redis-server under redis-benchmark on the system's malloc and on acre, the same
# load,
# and what each allocator made of the memory side by side; then acre's own report. Under two minutes.
#
# The two take turns (system, acre, system, acre, …) and the table shows medians, so that a machine that gets slower or
# faster
# meanwhile does not decide. "The system's malloc" is the C library's, preloaded: Debian links redis with jemalloc,
# which
# WITH_JEMALLOC=1 adds as a third column (and a third of the time).
#
# Environment: ROUNDS (3), WITH_JEMALLOC, ACRE_LIB (another library than build/libacre.so), BUILD (build).
set -euo pipefail

repo=$(cd "$(dirname "$0")/.." && pwd)
build=${BUILD:-$repo/build}
rounds=${ROUNDS:-3}
export LC_ALL=C
unset LD_PRELOAD MALLOC_CONF GLIBC_TUNABLES

say() { printf '%s\n' "$*"; }
fail() { printf 'run-redis: %s\n' "$*" >&2; exit 1; }

tmp=$(mktemp -d "${TMPDIR:-/tmp}/acre-run-redis.XXXXXX")
pid= # of the server, or of acre that runs it
clean_up() {
    local status=$?
    trap - EXIT
    set +e
    if [ -n "$pid" ]; then
        timeout 5 redis-cli -s "$tmp/s" shutdown nosave >/dev/null 2>&1
        kill "$pid" 2>/dev/null
        for _ in 1 2 3 4 5 6 7 8 9 10; do kill -0 "$pid" 2>/dev/null || break; sleep 0.2; done
        kill -9 "$pid" 2>/dev/null
    fi
    rm -rf "$tmp"
    exit "$status"
}
trap clean_up EXIT
trap 'exit 130' INT
trap 'exit 143' TERM HUP

# ---- what it needs ------------------------------------------------------------------------------------------------

# Everything is in redis-tools; Debian's redis-server package adds a link and a service, and no service is wanted here.
if ! command -v redis-benchmark >/dev/null || ! command -v redis-check-rdb >/dev/null; then
    command -v apt-get >/dev/null || fail "needs redis-server and redis-benchmark, and there is no apt-get to install them (Debian: redis-tools)"
    sudo=
    if [ "$(id -u)" != 0 ]; then
        sudo -n true 2>/dev/null || fail "needs redis; run as root, or: apt-get install redis-tools"
        sudo="sudo -n"
    fi
    say "Installing redis-tools …"
    export DEBIAN_FRONTEND=noninteractive
    { $sudo apt-get install -y --no-install-recommends redis-tools ||
        { $sudo apt-get update && $sudo apt-get install -y --no-install-recommends redis-tools; }; } >"$tmp/apt" 2>&1 </dev/null ||
        { tail -n 5 "$tmp/apt" >&2; fail "could not install redis-tools (the last lines of apt-get are above)"; }
    hash -r
fi
server=$(command -v redis-server || true)
if [ -z "$server" ]; then
    ln -s "$(command -v redis-check-rdb)" "$tmp/redis-server"
    server=$tmp/redis-server
fi

lib=${ACRE_LIB:-$build/libacre.so}
[ -e "$lib" ] || fail "no $lib: build acre first (make)"
lib=$(realpath "$lib")
libc=$(ldconfig -p 2>/dev/null | sed -n 's/.*libc\.so\.6 (libc6,x86-64.*) => //p' | head -n 1) || true
[ -n "$libc" ] || libc=$(ldd "$server" | sed -n 's/.*libc\.so\.6 => \([^ ]*\).*/\1/p')
[ -e "$libc" ] || fail "cannot find libc.so.6"

command=()
case ${ACRE_LIB:+lib} in
lib) ;;
*) [ ! -x "$build/acre" ] || command=("$build/acre" run --report "$tmp/report" --) ;;
esac

bound() { # the library that malloc of redis is bound to, for a preloaded one
    rm -f "$tmp"/bound.*
    LD_PRELOAD=$1 LD_BIND_NOW=1 LD_DEBUG=bindings LD_DEBUG_OUTPUT=$tmp/bound "$server" --version >/dev/null 2>&1 || true
    cat "$tmp"/bound.* 2>/dev/null | sed -n "s|.*binding file $server \[0\] to \(.*\) \[0\]: normal symbol .malloc'.*|\1|p" | head -n 1
}
[ "$(bound "$libc")" = "$libc" ] || fail "malloc of $server is bound to $(bound "$libc"), not to the C library's"
[ "$(bound "$lib")" = "$lib" ] || fail "malloc of $server is bound to $(bound "$lib"), not to $lib"

# ---- one round ------------------------------------------------------------------------------------------------------

socket=$tmp/s
cli() { timeout 30 redis-cli -s "$socket" "$@"; }
info() { cli info "$1" | tr -d '\r' | sed -n "s/^$2://p"; }
memory() { sed -n "s/^$1:[[:space:]]*\([0-9]*\) kB/\1/p" "/proc/$server_pid/status"; } # KiB
data() { head -c "$1" /dev/zero | tr '\0' d; }

ops=0
bench() { # requests, command…
    local n=$1
    shift
    timeout 100 redis-benchmark -s "$socket" -n "$n" -r 100000 -c 50 -P 16 -q "$@" </dev/null >"$tmp/bench" 2>&1 ||
        { tail -n 3 "$tmp/bench" >&2; tail -n 5 "$tmp/log" >&2; fail "redis-benchmark failed on $allocator: $*"; }
    ! grep -iE 'error|refused' "$tmp/bench" >&2 || fail "redis-benchmark failed on $allocator: $*"
    ops=$((ops + n))
}
load() { # what a cache sees: values of many sizes come, grow, are read, replaced and deleted
    bench 200000 set key:__rand_int__ "$(data 60)"
    bench 100000 set key:__rand_int__ "$(data 300)"
    bench 60000 set key:__rand_int__ "$(data 1100)"
    bench 250000 get key:__rand_int__
    bench 60000 append key:__rand_int__ "$(data 50)"
    bench 120000 hset hash:__rand_int__ field:__rand_int__ "$(data 40)"
    bench 100000 lpush list:__rand_int__ "$(data 80)"
    bench 80000 zadd zset __rand_int__ member:__rand_int__
    bench 80000 sadd set:__rand_int__ __rand_int__
    bench 20000 set page:__rand_int__ "$(data 4200)"
    bench 2000 set large:__rand_int__ "$(data 20000)"
    bench 80000 del key:__rand_int__
    bench 60000 set key:__rand_int__ "$(data 500)"
    bench 100000 get key:__rand_int__
}

round() { # system|jemalloc|acre|acre-bg
    local begin end prefix=() status=0
    allocator=$1
    case $allocator in
    system) prefix=(env LD_PRELOAD="$libc") ;;
    jemalloc) ;;
    acre)
        prefix=(env LD_PRELOAD="$lib")
        [ ${#command[@]} = 0 ] || prefix=("${command[@]}")
        ;;
    acre-bg) prefix=(env ACRE_BACKGROUND=1 LD_PRELOAD="$lib") ;;
    esac
    ${prefix[@]+"${prefix[@]}"} "$server" --port 0 --unixsocket "$socket" --dir "$tmp" --save '' --appendonly no \
        --activedefrag no --loglevel warning </dev/null >"$tmp/log" 2>&1 &
    pid=$!
    for _ in $(seq 100); do
        [ "$(cli ping 2>/dev/null)" != PONG ] || break
        kill -0 "$pid" 2>/dev/null || { tail -n 10 "$tmp/log" >&2; fail "redis-server ended at its start on $allocator"; }
        sleep 0.1
    done
    [ "$(cli ping 2>/dev/null)" = PONG ] || fail "redis-server does not answer on $allocator within 10 s"
    server_pid=$(info server process_id)
    if [ "$allocator" = acre ]; then
        grep -F "$(basename "$lib")" "/proc/$server_pid/maps" >/dev/null || fail "redis-server runs without $(basename "$lib")"
    fi

    ops=0
    begin=${EPOCHREALTIME/./}
    load
    end=${EPOCHREALTIME/./}
    echo $((ops * 1000000 / (end - begin))) >>"$tmp/$allocator.requests"
    memory VmHWM >>"$tmp/$allocator.peak"
    memory VmRSS >>"$tmp/$allocator.loaded"
    info memory used_memory >>"$tmp/$allocator.used"
    cli flushall sync >/dev/null
    memory VmRSS >>"$tmp/$allocator.flushed"
    sleep 2
    memory VmRSS >>"$tmp/$allocator.later"
    awk '{ print $14 + $15 }' "/proc/$server_pid/stat" >>"$tmp/$allocator.cpu" # hundredths of a second
    cli shutdown nosave >/dev/null 2>&1 || true
    wait "$pid" || status=$?
    pid=
    [ "$status" = 0 ] || { tail -n 10 "$tmp/log" >&2; fail "redis-server ended with $status on $allocator"; }
    say "  $allocator: $(tail -n 1 "$tmp/$allocator.requests") requests/s, peak $(($(tail -n 1 "$tmp/$allocator.peak") / 1024)) MiB," \
        "after FLUSHALL $(($(tail -n 1 "$tmp/$allocator.later") / 1024)) MiB"
}

# ---- the rounds, and the table
# ----------------------------------------------------------------------------------------

allocators=(system acre acre-bg)
[ "${WITH_JEMALLOC:-0}" != 1 ] || allocators=(system jemalloc acre acre-bg)
say "$("$server" --version | cut -d ' ' -f 1-3) under redis-benchmark: 50 clients, pipelines of 16, 100,000 random keys, values of 40 B to 20 KB."
if [ ${#command[@]} = 0 ]; then
    say "acre is preloaded: $lib"
else
    say "acre runs it: ${command[*]} redis-server …"
fi
for ((n = 1; n <= rounds; n++)); do
    say "Round $n of $rounds:"
    for a in "${allocators[@]}"; do round "$a"; done
done

median() { sort -n "$tmp/$1" | awk '{ v[NR] = $1 } END { print NR % 2 ? v[(NR + 1) / 2] : (v[NR / 2] + v[NR / 2 + 1]) / 2 }'; }
row() { # title, file, divisor, decimals
    local a
    printf '  %-44s' "$1"
    for a in "${allocators[@]}"; do awk -v v="$(median "$a.$2")" -v d="$3" -v f="%14.$4f" 'BEGIN { printf f, v / d }'; done
    printf '\n'
}
say ""
printf '  %-44s' "Medians of $rounds rounds, $ops requests each"
for a in "${allocators[@]}"; do printf '%14s' "$([ "$a" = system ] && echo "system malloc" || echo "$a")"; done
printf '\n'
row "requests/s" requests 1 0
row "processor time of the server, s" cpu 100 2
row "peak resident memory, MiB (VmHWM)" peak 1024 1
row "resident after the load, MiB" loaded 1024 1
row "redis' own count of it, MiB (used_memory)" used 1048576 1
for a in "${allocators[@]}"; do
    paste "$tmp/$a.loaded" "$tmp/$a.used" | awk '{ print $1 * 1024 / $2 }' >"$tmp/$a.ratio"
done
row "fragmentation ratio (resident / used_memory)" ratio 1 3
row "resident right after FLUSHALL, MiB" flushed 1024 1
row "resident 2 s after FLUSHALL, MiB" later 1024 1
say ""
say "acre-bg is acre with ACRE_BACKGROUND=1: a thread gives memory back while redis does nothing (docs/tuning.md)."
say "used_memory counts what each allocator says a block can hold, so a coarser rounding shows there too."

say ""
if [ -s "$tmp/report" ]; then
    say "acre's own report, of the last round, at the end of redis-server:"
    sed 's/^/  /' "$tmp/report"
elif [ ${#command[@]} = 0 ]; then
    say "No report of acre's own: that needs $build/acre, and here the library was preloaded by itself."
else
    fail "acre wrote no report ($tmp/report)"
fi
say ""
say "Done in $SECONDS s."
