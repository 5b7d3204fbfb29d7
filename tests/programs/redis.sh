#!/bin/bash
# redis-server on acre. First a million operations of redis-benchmark over random keys: strings of 8 B to 20 KB, lists,
# hashes, sets, sorted sets, MSET; pipelined, from fifty clients, with a second I/O thread, so that memory is allocated
# on
# one thread and freed on another. Then a deterministic load whose DEBUG DIGEST, of the whole data set, has to equal the
# one on the system's malloc: as loaded, after a save and reload, and after FLUSHALL and loading again; in between,
# children
# are forked for BGSAVE and large values are freed by UNLINK and FLUSHALL ASYNC on redis' own threads.
#
# Debian's redis is linked with jemalloc and uses it wherever malloc is not preloaded: that is "the system" here.
# SHORT=1 does a hundredth of it. No network: a socket in the temporary folder. No persistence but the saves that are
# asked for.
# shellcheck source=tests/programs/lib.bash
. "$(dirname "$0")/lib.bash"

# Debian's redis-server package is a link and a service; the program itself is in redis-tools, and no service is wanted.
need redis-tools:redis-benchmark perl
server=$(command -v redis-server || true)
if [ -z "$server" ]; then
    server=$tmp/redis-server
    ln -s "$(command -v redis-check-rdb)" "$server"
fi

socket=$tmp/s
cli() { timeout 60 redis-cli -s "$socket" "$@"; }

start() { # system|acre
    on "$1"
    rm -rf "$tmp/data" && mkdir "$tmp/data"
    env "${ld_env[@]}" "$server" --port 0 --unixsocket "$socket" --dir "$tmp/data" --save '' --appendonly no \
        --enable-debug-command yes --activedefrag no --io-threads 2 --io-threads-do-reads yes --loglevel warning \
        </dev/null >"$tmp/server.$1.log" 2>&1 &
    pid=$!
    pids+=("$pid")
    for _ in $(seq 100); do
        [ "$(cli ping 2>/dev/null)" != PONG ] || break
        kill -0 "$pid" 2>/dev/null || died "$1"
        sleep 0.1
    done
    [ "$(cli ping 2>/dev/null)" = PONG ] || fail "redis-server on $1 does not answer within 10 s"
    if [ "$1" = acre ]; then
        grep -F "$(realpath "$lib")" "/proc/$pid/maps" >/dev/null || fail "redis-server does not have $lib mapped"
    fi
}
died() {
    local status=0
    wait "$pid" || status=$?
    grep -vE '^[0-9]+:[CM] .*WARNING' "$tmp/server.$1.log" | tail -n 15 >&2 || true
    fail "redis-server on $1 ended: $(describe "$status")${2:+ ($2)}"
}
stop() {
    local status=0
    cli shutdown nosave >/dev/null 2>&1 || true
    wait "$pid" || status=$?
    pids=()
    [ "$status" = 0 ] || fail "redis-server on $1: $(describe "$status") at shutdown"
}
info() { cli info "$1" | tr -d '\r' | sed -n "s/^$2://p"; }

data() { head -c "$1" /dev/zero | tr '\0' d; }

# OPERATIONS, then what redis-benchmark shall do.
ops=0 scale=1
[ "${SHORT:-0}" != 1 ] || scale=100
bench() {
    local n=$(($1 / scale)) status=0
    shift
    timeout 200 redis-benchmark -s "$socket" -n "$n" -r 50000 -c 50 -P 16 -q "$@" </dev/null >"$tmp/bench" 2>&1 || status=$?
    if [ "$status" != 0 ] || grep -iE 'error|refused' "$tmp/bench" >/dev/null; then
        tail -n 3 "$tmp/bench" >&2
        kill -0 "$pid" 2>/dev/null || died acre "redis-benchmark $*"
        fail "redis-benchmark $*: $(describe "$status")"
    fi
    ops=$((ops + n))
}

# ---- a million operations ------------------------------------------------------------------------------------------

start acre
begin=${EPOCHREALTIME/./}
bench 150000 set __key:__rand_int__ "$(data 8)"
bench 100000 set key:__rand_int__ "$(data 100)"
bench 80000 set key:__rand_int__ "$(data 1000)"
bench 30000 set key:__rand_int__ "$(data 4000)"
bench 10000 set large:__rand_int__ "$(data 20000)"
bench 150000 get key:__rand_int__
bench 50000 append key:__rand_int__ "$(data 40)"
bench 80000 lpush list:__rand_int__ "$(data 60)"
bench 40000 rpop list:__rand_int__
bench 80000 hset hash:__rand_int__ f:__rand_int__ "$(data 30)"
bench 50000 hset onehash f:__rand_int__ v:__rand_int__
bench 60000 zadd zset __rand_int__ member:__rand_int__
bench 40000 sadd set:__rand_int__ __rand_int__
bench 40000 -d 50 -t mset
bench 40000 del key:__rand_int__
bench 5000 lrange list:__rand_int__ 0 100
bench 5000 lpush big "$(data 3000)"
kill -0 "$pid" 2>/dev/null || died acre
[ "$ops" -ge $((1000000 / scale)) ] || fail "only $ops operations"
calls=$(info stats total_commands_processed)
[ "$calls" -ge "$ops" ] || fail "the server counts $calls commands, fewer than the $ops that were sent"
say "$ops operations in $(seconds "$begin") s on acre; $(cli dbsize) keys," \
    "$(info memory used_memory_human) used, $(info memory used_memory_rss_human) resident"
cli flushall async >/dev/null
[ "$(cli dbsize)" = 0 ] || fail "keys are left after FLUSHALL"
stop acre

# ---- the same data on both ------------------------------------------------------------------------------------------

# Commands in redis' protocol, by a generator of our own: the same bytes on every machine.
cat >"$tmp/in/load.pl" <<'END'
use strict; use warnings; binmode STDOUT;
my $x = 99;
sub rnd { $x = ($x * 1103515245 + 12345) % 2147483648; return ($x >> 8) % $_[0] }
sub data { my $n = shift; my $s = ''; $s .= sprintf('%x.', rnd(1 << 22)) x (1 + rnd(9)) while length $s < $n; return substr $s, 0, $n }
sub cmd { print '*', scalar @_, "\r\n", map { '$' . length($_) . "\r\n$_\r\n" } @_ }
my @sizes = (8, 20, 44, 45, 64, 100, 300, 1000, 1500, 4300, 16384, 60000);
sub size { my $i = rnd(100); return $sizes[ $i < 88 ? $i % 8 : 8 + $i % 4 ] }
for (1 .. $ARGV[0]) {
    my $k = rnd(3000); my $what = rnd(24);
    if    ($what < 4)   { cmd 'SET', "s$k", data(size()) }
    elsif ($what == 4)  { cmd 'APPEND', "s$k", data(rnd(300)) }
    elsif ($what == 5)  { cmd 'SETRANGE', "s$k", rnd(9000), data(20) }
    elsif ($what == 6)  { cmd 'MSET', map { 's' . rnd(3000), data(rnd(200)) } 1 .. 10 }
    elsif ($what == 7)  { cmd 'INCRBY', "i$k", rnd(1 << 20) }
    elsif ($what < 10)  { cmd 'RPUSH', "l$k", map { data(rnd(120)) } 1 .. 1 + rnd(8) }
    elsif ($what == 10) { cmd 'LTRIM', "l$k", rnd(3), -1 - rnd(5) }
    elsif ($what == 11) { cmd 'LINSERT', "l$k", 'BEFORE', data(3), data(50); cmd 'LPOP', "l$k" }
    elsif ($what < 14)  { cmd 'HSET', "h$k", map { 'f' . rnd(200), data(rnd(90)) } 1 .. 4 }
    elsif ($what == 14) { cmd 'HDEL', "h$k", map { 'f' . rnd(200) } 1 .. 20 }
    elsif ($what < 17)  { cmd 'SADD', "u$k", map { rnd(2) ? rnd(1000) : data(12) } 1 .. 6 }
    elsif ($what < 19)  { cmd 'ZADD', "z$k", map { rnd(10000) / 8, 'm' . rnd(400) } 1 .. 6 }
    elsif ($what == 19) { cmd 'ZREMRANGEBYRANK', "z$k", 0, rnd(9) }
    elsif ($what == 20) { cmd 'XADD', "x$k", "$_-1", 'a', data(30), 'b', rnd(100) }
    elsif ($what == 21) { cmd 'UNLINK', (qw(s l h u z c))[ rnd(6) ] . $k }
    elsif ($what == 22) { cmd 'COPY', "h$k", 'c' . rnd(3000), 'REPLACE'; cmd 'SUNIONSTORE', 'u' . rnd(3000), "u$k", 'u' . rnd(3000) }
    else { cmd 'EVAL', 'local t = {} for i = 1, 60 do t[i] = ARGV[1] .. i end redis.call("SET", KEYS[1], table.concat(t, ","))', 1, "e$k", data(rnd(60)) }
}
END
perl "$tmp/in/load.pl" "$((120000 / scale))" >"$tmp/in/load.resp"

load() {
    local reply
    # LINSERT and COPY of a key that is not there answer 0, not an error.
    reply=$(timeout 200 redis-cli -s "$socket" --pipe <"$tmp/in/load.resp" 2>&1) || { kill -0 "$pid" 2>/dev/null || died "$1" load; }
    case $reply in *"errors: 0, "*) ;; *) fail "loading on $1: $(printf '%s' "$reply" | tail -n 5)" ;; esac
}
digests() { # system|acre
    start "$1"
    begin=${EPOCHREALTIME/./}
    load "$1"
    echo "keys $(cli dbsize)"
    echo "loaded $(cli debug digest)"
    cli bgsave >/dev/null
    for _ in $(seq 300); do
        [ "$(info persistence rdb_bgsave_in_progress)" != 0 ] || break
        sleep 0.1
    done
    echo "bgsave $(info persistence rdb_last_bgsave_status)"
    echo "reload $(cli debug reload)"
    echo "reloaded $(cli debug digest)"
    cli flushall async >/dev/null
    echo "flushed $(cli dbsize) $(cli debug digest)"
    load "$1"
    echo "again $(cli debug digest)"
    cli flushall sync >/dev/null
    echo "flushed $(cli dbsize)"
    kill -0 "$pid" 2>/dev/null || died "$1"
    stop "$1"
    seconds "$begin" >"$tmp/seconds.$1"
}
digests system >"$tmp/digest.system"
digests acre >"$tmp/digest.acre"
loaded_in redis-server

digest=$(sed -n 's/^loaded //p' "$tmp/digest.system")
case $digest in *[!0-9a-f]* | '' | 0000000000*) fail "no digest on the system's malloc: $digest" ;; esac
for line in "bgsave ok" "reload OK" "reloaded $digest" "again $digest"; do
    grep -xF "$line" "$tmp/digest.system" >/dev/null || fail "not even on the system's malloc: $line; $(cat "$tmp/digest.system")"
done
if ! diff "$tmp/digest.system" "$tmp/digest.acre" >&2; then fail "digests differ (< system, > acre)"; fi
say "$(head -n 1 "$tmp/digest.acre"), digest $digest on both, five times;" \
    "system $(cat "$tmp/seconds.system") s, acre $(cat "$tmp/seconds.acre") s"
