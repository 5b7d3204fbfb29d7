#!/bin/bash
# The `acre` command on real programs: what it prints adds up and is valid JSON, its exit status is the program's, and
# it says so when there is no report. And the report without the command: ACRE_STATS in programs that close standard
# error or overwrite their environment, in each process of a tree.
#
# Environment: as lib.bash, and ACRE_TOOL, the command under test; default build/acre of this repository.
. "$(dirname "$0")/lib.bash"
need python3-minimal:/usr/bin/python3 perl

acre=${ACRE_TOOL:-$repo/build/acre}
[ -x "$acre" ] || fail "no $acre: build it (make), or name another by ACRE_TOOL"
export ACRE_LIB=$lib
python=/usr/bin/python3
cd "$tmp/in"

# run STATUS COMMAND…: its status must be that one; leaves out, err.
run() {
    local expected=$1 status=0
    shift
    timeout -k 5 120 "$@" >"$tmp/out" 2>"$tmp/err" </dev/null || status=$?
    [ "$status" = "$expected" ] || { head -n 20 "$tmp/err" >&2; fail "$*: $(describe "$status"), expected $expected"; }
}
has() { # FILE TEXT: the file has a line that holds it
    grep -F -- "$2" "$1" >/dev/null || { head -n 40 "$1" >&2; fail "no line with \"$2\" in what '$what' wrote"; }
}
lacks() { ! grep -F -- "$2" "$1" >/dev/null || fail "a line with \"$2\" in what '$what' wrote"; }
check() { # FILE: JSON; then a Python expression about it, `d`, has to be true
    "$python" -c 'import json, sys
d = json.load(open(sys.argv[1]))
def figures(x):
    if isinstance(x, list):
        for y in x: yield from figures(y)
    if isinstance(x, dict):
        yield x
        for y in x.values(): yield from figures(y)
ledgers = [x for x in figures(d) if "committed_bytes" in x and "allocs" in x]
for x in ledgers:
    assert x["committed_bytes"] == x["live_bytes"] + x["cached_bytes"] + x["waste_bytes"], x
for x in figures(d):
    if "total" not in x: continue
    for row in x["total"]:
        if row != "peak_bytes": assert x["total"][row] == sum(x[a][row] for a in x if a != "total"), row
assert eval("(" + sys.argv[2] + ")"), sys.argv[2]' "$1" "$2" || {
        head -n 60 "$1" >&2
        fail "$what: the JSON is not what it should be"
    }
}

# ---- help, versions, mistakes --------------------------------------------------------------------------------------

what="help"
run 0 "$acre" --help && has "$tmp/out" "acre run [options]"
run 0 "$acre" help run && has "$tmp/out" "--purge-delay"
run 0 "$acre" run --help && has "$tmp/out" "--on-error"
run 0 "$acre" info --help && has "$tmp/out" "--json"
run 0 "$acre" help report && has "$tmp/out" "committed = live + cached + waste"
run 0 "$acre" --version
grep -Ex 'acre [0-9]+\.[0-9]+\.[0-9]+' "$tmp/out" >/dev/null || fail "--version says $(cat "$tmp/out")"
what="mistakes"
run 2 "$acre" && has "$tmp/err" "acre run"
run 2 "$acre" rnu && has "$tmp/err" "unknown command 'rnu'"
run 2 "$acre" python3 && has "$tmp/err" "acre run -- python3"
run 2 "$acre" run && has "$tmp/err" "which program"
run 2 "$acre" run --cache many ls && has "$tmp/err" "--cache 'many'"
run 2 "$acre" run --on-error panic ls && has "$tmp/err" "abort, report or ignore"
run 2 "$acre" run --no-such ls && has "$tmp/err" "acre run --help"
run 2 "$acre" info now && has "$tmp/err" "takes no argument"
run 127 "$acre" run no-such-program && has "$tmp/err" "no program 'no-such-program' in PATH"
run 127 "$acre" run -- ./no-such-file && has "$tmp/err" "No such file"
run 126 "$acre" run / && has "$tmp/err" "cannot run '/'"
run 125 env ACRE_LIB=/no/such/lib.so "$acre" run true && has "$tmp/err" "ACRE_LIB"

# ---- acre info -----------------------------------------------------------------------------------------------------

what="acre info"
run 0 "$acre" info && has "$tmp/out" "address map" && has "$tmp/out" "vm.max_map_count"
[ -z "$(awk 'length > 100' "$tmp/out")" ] || fail "acre info is wider than 100 columns"
run 0 "$acre" info --json
check "$tmp/out" 'sum(p["bytes"] for p in d["address_map"]["parts"]) == d["address_map"]["reserved_bytes"]
    and d["size_classes"][-1]["bytes"] == 4096 and len(d["medium_tiers"]) == 3'
run 0 bash -c 'ulimit -v 1000000; exec "$1" info --json' bash "$acre"
check "$tmp/out" 'd["address_map"]["reserved_bytes"] < 1000000 * 1024 and "ulimit -v" in d["address_map"]["why_smaller"]
    and d["machine"]["address_space_limit_bytes"] == 1000000 * 1024'
run 0 env ACRE_RESERVE=32G "$acre" info --json
check "$tmp/out" '(d["address_map"]["reserved_bytes"] == 2**35 or d["address_map"]["why_smaller"] != "")
    and "ACRE_RESERVE=32G" in d["environment"]'

# ---- acre run ------------------------------------------------------------------------------------------------------

what="acre run python3"
work='a = [bytearray(i % 9000) for i in range(20000)]; big = bytearray(50 << 20); print(len(a)); del a[::2]'
run 0 "$acre" run env PYTHONMALLOC=malloc "$python" -c "$work"
[ "$(cat "$tmp/out")" = 20000 ] || fail "the program's output is not its own: $(cat "$tmp/out")"
for row in live cached waste committed peak "given back" allocations frees metadata "peak resident" "page faults"; do
    grep -E "^$row +[-0-9]" "$tmp/err" >/dev/null || { cat "$tmp/err" >&2; fail "no row \"$row\" in the report"; }
done
has "$tmp/err" "exit status 0"
[ -z "$(awk 'length > 100' "$tmp/err")" ] || fail "the report is wider than 100 columns"

run 0 "$acre" run --json --report report.json env PYTHONMALLOC=malloc "$python" -c "$work"
[ ! -s "$tmp/err" ] || fail "--report FILE, and yet on standard error: $(head -n 1 "$tmp/err")"
check report.json 'd["exit_status"] == 0 and d["report"]["program"].startswith("python3")
    and d["peak_resident_bytes"] > 60 << 20 and d["report"]["allocators"]["large"]["allocs"] >= 1
    and d["report"]["allocators"]["large"]["peak_bytes"] >= 50 << 20
    and d["report"]["allocators"]["total"]["allocs"] > 20000
    and d["report"]["all_heaps"]["observed"] == d["report"]["process"]["heaps"]
    and d["report"]["all_heaps"]["live_peak_bytes"] > 100 << 20'

what="a tree of processes"
run 7 "$acre" run -jo tree.json bash -c '(exit 3); perl -e "fork; print qq(x)"; ls / | cat >/dev/null; exit 7'
[ "$(cat "$tmp/out")" = xx ] || fail "a tree of processes wrote $(cat "$tmp/out")"
check tree.json 'd["exit_status"] == 7 and d["report"]["program"] == "bash"
    and [p["program"] for p in d["other_processes"]].count("perl") == 2
    and {"ls", "cat"} <= {p["program"] for p in d["other_processes"]}'
run 7 "$acre" run bash -c 'perl -e 1; exit 7' && has "$tmp/err" "exit status 7"
grep -E '^[0-9]+ +perl +[0-9.]+ [KM]iB' "$tmp/err" >/dev/null || fail "no line for perl in the report of its parent"

what="no report"
cat >leaves.c <<'END'
#include <stdlib.h>
#include <unistd.h>
int main(void) { void *volatile p = malloc(100); free(p); _exit(4); }
END
cc=${CC:-gcc}
"$cc" -o leaves leaves.c || fail "cannot compile leaves.c"
run 4 "$acre" run ./leaves && has "$tmp/err" "left no report: it ended by _exit" && has "$tmp/err" "exit status 4"
run 137 "$acre" run sh -c 'kill -KILL $$' && has "$tmp/err" "left no report: ended by signal 9 (SIGKILL)"
run 134 "$acre" run "$python" -c 'import os; os.abort()' && has "$tmp/err" "SIGABRT"
run 137 "$acre" run --json sh -c 'kill -KILL $$'
grep -v '^acre:' "$tmp/err" >killed.json
check killed.json 'd["report"] is None and d["signal"] == 9 and d["exit_status"] == 137'
if echo 'int main(void) { return 5; }' | "$cc" -static -x c -o static - 2>/dev/null; then
    run 5 "$acre" run ./static && has "$tmp/err" "a static or 32-bit program"
fi

what="signals"
"$acre" run -q bash -c 'trap "echo heard; exit 9" TERM; echo ready; while :; do sleep 0.1; done' >relayed 2>"$tmp/err" &
pids+=($!)
for _ in {1..100}; do grep ready relayed >/dev/null && break; sleep 0.1; done
kill -TERM "${pids[-1]}"
status=0
wait "${pids[-1]}" || status=$?
unset 'pids[-1]'
[ "$status" = 9 ] || fail "SIGTERM to acre run: $(describe "$status"), expected 9 from the program's trap"
has relayed heard

what="options"
run 0 "$acre" run --quiet ls /
[ ! -s "$tmp/err" ] || fail "--quiet says $(head -n 1 "$tmp/err")"
# shellcheck disable=SC2016
run 0 "$acre" run -q --fill --on-error ignore --reserve 4G --purge-delay never --cache 1M --budget 2G bash -c \
    'echo $ACRE_FILL $ACRE_ON_ERROR $ACRE_RESERVE $ACRE_PURGE_DELAY_MS $ACRE_CACHE_BYTES $ACRE_BUDGET'
[ "$(cat "$tmp/out")" = "1 ignore 4G never 1M 2G" ] || fail "the options arrive as $(cat "$tmp/out")"
run 1 "$acre" run --budget 60M env PYTHONMALLOC=malloc "$python" -c 'x = bytearray(100 << 20)'
has "$tmp/err" MemoryError
run 0 "$acre" run -o file.txt true && [ ! -s "$tmp/err" ] && has file.txt committed
run 125 "$acre" run -o /no/such/folder/file true && has "$tmp/err" "cannot write the report"

what="a folder with a space and a colon"
mkdir "a b:c"
cp "$acre" "a b:c/acre" && cp -L "$lib" "a b:c/libacre.so"
run 0 env -u ACRE_LIB "./a b:c/acre" run ls / && has "$tmp/err" "memory of ls"
[ -z "$(find "$TMPDIR" -name 'acre-run.*')" ] || fail "acre run leaves its folder behind"

# ---- without the command -------------------------------------------------------------------------------------------

what="ACRE_STATS=1 ls" # closes standard error before the report
run 0 env ACRE_STATS=1 LD_PRELOAD="$lib" ls / && has "$tmp/err" "memory of ls"
what="a program that overwrites its environment"
# shellcheck disable=SC2016
run 0 env ACRE_STATS=json ACRE_STATS_FILE="$tmp/in/title.%p.%%.json" LD_PRELOAD="$lib" \
    perl -e '$0 = "x" x 4000; print $$'
check "title.$(cat "$tmp/out").%.json" 'd["program"] == "perl"'
what="a process that closes all files and opens another"
run 0 env ACRE_STATS=1 LD_PRELOAD="$lib" "$python" -c 'import os
os.closerange(0, 4096)
for i in range(200): os.open("data", os.O_WRONLY | os.O_CREAT)'
[ ! -s data ] || fail "the report went into a file of the program"
[ ! -s "$tmp/err" ] || fail "a report from a program without standard error: $(head -n 1 "$tmp/err")"
what="ACRE_STATS=0"
run 0 env ACRE_STATS=0 LD_PRELOAD="$lib" ls / && lacks "$tmp/err" acre

# ---- malloc.h ------------------------------------------------------------------------------------------------------

what="malloc.h"
cat >info.c <<'END'
#include <errno.h>
#include <malloc.h>
#include <stdio.h>
#include <stdlib.h>
static void *blocks[1000], *volatile large;
int main(void)
{
    for (int i = 0; i < 1000; i++) blocks[i] = malloc((size_t)i * 40);
    large = malloc(100u << 20);
    struct mallinfo2 m = mallinfo2();
    if (m.hblks != 1 || m.hblkhd < 100u << 20 || m.uordblks < m.hblkhd + 999 * 500 * 40) return 1;
    if (m.arena + m.hblkhd != m.uordblks + m.fordblks || m.keepcost > m.fordblks) return 2;
    if (!mallopt(M_TRIM_THRESHOLD, 1 << 20) || !mallopt(M_MMAP_THRESHOLD, 1) || !mallopt(M_ARENA_MAX, 1)) return 3;
    if (mallopt(12345, 1) || mallopt(M_MXFAST, -1)) return 4;
    if (malloc_info(1, stdout) == 0) return 5;
    if (malloc_info(0, stdout) != 0) return 6;
    for (int i = 0; i < 1000; i++) free(blocks[i]);
    free(large);
    if (malloc_trim(0) != 1) return 7;
    malloc_stats();
    return mallinfo().hblkhd != 0;
}
END
"$cc" -O0 -Wno-deprecated-declarations -o info info.c || fail "cannot compile info.c"
run 0 env LD_PRELOAD="$lib" ./info && has "$tmp/err" "memory of info"
"$python" -c 'import sys, xml.dom.minidom as m
d = m.parse(sys.argv[1]).documentElement
assert d.tagName == "malloc" and d.getAttribute("version") == "1"
assert len(d.getElementsByTagName("heap")) == 1' "$tmp/out" || fail "malloc_info is not the XML that it should be"
