#!/bin/bash
# acre where address space is scarce and its reservation has to shrink:
#   - real programs, short, under ulimit -v 4000000 (their own scripts of this folder, made small);
#   - /bin/true, `python3 -c pass` under ulimit -v 400000, and others under ulimit -d;
#   - a program that allocates until NULL, checks ENOMEM, and goes on;
#   - vm.overcommit_memory=2, where every writable mapping is charged when it is made. This is the whole machine's
# setting:
#     it is changed for some seconds, and put back whatever happens to this script, by its own trap or by a watchdog. A
# sanitizer
#     that runs meanwhile may fail to start, so ctest should run this test alone (RUN_SERIAL). OVERCOMMIT=0 leaves it
# out.
# shellcheck source=tests/programs/lib.bash
. "$(dirname "$0")/lib.bash"
limit_s=120

need python3-minimal:/usr/bin/python3 python3:/usr/lib/python3/dist-packages perl

cc() { gcc -std=gnu11 -O1 -Wall -Wextra -pthread "$@" || fail "cannot compile: gcc $*"; }
cc -o "$tmp/in/mix" "$here/src/mix.c"
cc -o "$tmp/in/exhaust" "$here/src/exhaust.c"
limited() { # what of ulimit, KiB: both runs of the next commands run so
    # shellcheck disable=SC2016
    under=(bash -c 'ulimit "$1" "$2" && shift 2 && exec "$@"' bash "$1" "$2")
}
cat >"$tmp/in/heavy.py" <<'END'
import json, re, threading, zlib
rows = [{"id": i, "name": "row %d" % i, "tags": [str(i * k) for k in range(6)]} for i in range(60000)]
text = json.dumps(rows)
again = json.loads(text)
again.sort(key=lambda r: r["name"])
words = {}
for w in re.findall(r"\w+", text): words[w] = words.get(w, 0) + 1
out = [None] * 4
def work(n): out[n] = zlib.crc32(bytes(n) + b"".join(bytes([i % 251]) * (i % 3000) for i in range(20000)))
threads = [threading.Thread(target=work, args=(n,)) for n in range(4)]
[t.start() for t in threads]; [t.join() for t in threads]
print(len(text), again[777]["name"], len(words), max(words.values()), out)
END

# ---- 4 GB of addresses ----------------------------------------------------------------------------------------------

# A script of this folder with less to do, all of its processes under the limit.
short() {
    local status=0 script=$1
    shift
    (ulimit -v 4000000 && exec env ACRE_LIB="$lib" NO_SKIP="${NO_SKIP:-0}" "$@" "$here/$script.sh") </dev/null >"$tmp/short.log" 2>&1 &
    pids+=($!)
    wait $! 2>/dev/null || status=$?
    unset 'pids[-1]'
    case $status in
    0) say "short, under ulimit -v 4000000: $(tail -n 1 "$tmp/short.log")" ;;
    77) say "$(tail -n 1 "$tmp/short.log")" ;;
    *)
        tail -n 15 "$tmp/short.log" >&2
        fail "$script.sh under ulimit -v 4000000"
        ;;
    esac
}
limited -v 4000000
run_both 4GB-python env PYTHONMALLOC=malloc /usr/bin/python3 "$tmp/in/heavy.py"
loaded_in python3
run_both 4GB-mix "$tmp/in/mix" 3000 3000000 8
run_both 4GB-large "$tmp/in/mix" 1000 40000000 1
short redis SHORT=1
short ghostscript PAGES=20
short sqlite ROWS=40000
short compilers LINES=4000
short perl
short git COMMITS=200

# ---- 400 MB, and the end of it
# ----------------------------------------------------------------------------------------

# Each size has to reach a fifth of the limit in a process of its own, twice; in one process after the other sizes
# nothing
# is asked but ENOMEM, for others keep addresses to themselves too.
exhaust() { # label, KiB
    local size
    for size in 48 900 70000 3000000 40000000; do
        run_both "$1-exhaust-$size" "$tmp/in/exhaust" "$2" "${LEAST:-20}" "$size"
        say "$1-exhaust-$size: of the limit, $(handed_out "$1-exhaust-$size.system") on the system's malloc," \
            "$(handed_out "$1-exhaust-$size.acre") on acre"
    done
    run_both "$1-exhaust-all" "$tmp/in/exhaust" "$2" 0
    say "$1-exhaust-all: one after another twice, $(handed_out "$1-exhaust-all.system") on the system's malloc," \
        "$(handed_out "$1-exhaust-all.acre") on acre"
}
handed_out() { sed -n 's/.*: \([0-9]*%\) of the limit/\1/p' "$tmp/$1.err" | paste -sd ' '; }

limited -v 400000
run_both 400MB-true /bin/true
run_both 400MB-python /usr/bin/python3 -c pass
run_both 400MB-mix "$tmp/in/mix" 8000 2000000 2
limited -v 1000000
exhaust 1GB 1000000
limited -d 400000
run_both data-true /bin/true
run_both data-python /usr/bin/python3 -c pass
run_both data-mix "$tmp/in/mix" 8000 2000000 2
limited -d 1000000
run_both data-exhaust "$tmp/in/exhaust" 1000000 "${LEAST:-20}" 900

# ---- no overcommit
# ----------------------------------------------------------------------------------------------------

if [ "${OVERCOMMIT:-1}" = 0 ]; then
    say "vm.overcommit_memory=2 left out (OVERCOMMIT=0)"
    exit 0
fi
vm=/proc/sys/vm
memory=$(cat $vm/overcommit_memory) ratio=$(cat $vm/overcommit_ratio) kbytes=$(cat $vm/overcommit_kbytes)
# Writing the old value is the test for "may be set": root in a container has the file, but not the right.
if ! (echo "$memory" >$vm/overcommit_memory) 2>/dev/null; then
    say "vm.overcommit_memory may not be set here (not root, or a container): that part is skipped"
    exit 0
fi

exec 8>/tmp/acre-overcommit.lock # one at a time, or the second would take 2 for the old value
flock 8
memory=$(cat $vm/overcommit_memory) ratio=$(cat $vm/overcommit_ratio) kbytes=$(cat $vm/overcommit_kbytes)
restore() {
    echo "$memory" >$vm/overcommit_memory
    if [ "$kbytes" != 0 ]; then echo "$kbytes" >$vm/overcommit_kbytes; else echo "$ratio" >$vm/overcommit_ratio; fi
}
# Enough for what runs already and for us: all of the memory, which is more than the default of half of it.
committed=$(sed -n 's/^Committed_AS: *\([0-9]*\) kB/\1/p' /proc/meminfo)
total=$(sed -n 's/^MemTotal: *\([0-9]*\) kB/\1/p' /proc/meminfo)
percent=$(((committed + 4000000) * 100 / total + 1))
[ "$percent" -ge 100 ] || percent=100
if [ "$percent" -gt 400 ]; then
    say "$committed KiB are promised already on a machine of $total KiB: vm.overcommit_memory=2 is skipped"
    exit 0
fi

at_end+=(restore)
# If this script is killed without a chance to clean up, the watchdog sees it.
export memory ratio kbytes vm
setsid bash -c '
    while kill -0 "$1" 2>/dev/null && [ ! -e "$2/restored" ] && [ -d "$2" ]; do sleep 0.3; done
    [ ! -e "$2/restored" ] && [ -d "$2" ] || exit 0
    echo "$memory" >$vm/overcommit_memory
    if [ "$kbytes" != 0 ]; then echo "$kbytes" >$vm/overcommit_kbytes; else echo "$ratio" >$vm/overcommit_ratio; fi
' bash $$ "$tmp" </dev/null >/dev/null 2>&1 8>&- &
echo "$percent" >$vm/overcommit_ratio
echo 2 >$vm/overcommit_memory

under=()
run_both strict-true /bin/true
run_both strict-python env PYTHONMALLOC=malloc /usr/bin/python3 "$tmp/in/heavy.py"
run_both strict-mix "$tmp/in/mix" 3000 3000000 4
run_both strict-fork perl -e 'my @l = map { "x" x $_ } 1 .. 9000; for (1 .. 20) { my $p = fork // die "fork: $!"; if (!$p) { my @m = map { "y" x $_ } 1 .. 3000; exit 0 } waitpid $p, 0; die if $? } print scalar @l, "\n"'
short sqlite ROWS=20000
limited -v 1000000
run_both strict-exhaust "$tmp/in/exhaust" 1000000 "${LEAST:-20}" 900

[ "$(cat $vm/overcommit_memory)" = 2 ] || fail "somebody else changed vm.overcommit_memory meanwhile"
restore
touch "$tmp/restored"
[ "$(cat $vm/overcommit_memory)" = "$memory" ] || fail "vm.overcommit_memory was not put back"
say "vm.overcommit_memory is $memory again, overcommit_ratio $(cat $vm/overcommit_ratio)"
