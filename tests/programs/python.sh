#!/bin/bash
# Python's own regression tests on acre: Debian's python3, every object by malloc (PYTHONMALLOC=malloc switches Python's
# own pool off), the result of each single test case equal to its result on the system's malloc.
#
# FULL=1 runs three times as many modules.
# shellcheck source=tests/programs/lib.bash
. "$(dirname "$0")/lib.bash"
limit_s=300
[ "${FULL:-0}" != 1 ] || limit_s=900

need python3-minimal:/usr/bin/python3
version=$(/usr/bin/python3 -c 'import sys; print("%d.%d" % sys.version_info[:2])')
need "libpython$version-testsuite:/usr/lib/python$version/test/test_list.py" \
    "python3:/usr/lib/python$version/json/__init__.py"

modules=(test_list test_dict test_set test_json test_re test_threading test_gc test_fork1)
if [ "${FULL:-0}" = 1 ]; then
    modules+=(test_unicode test_bytes test_tuple test_sort test_collections test_deque test_copy test_pickle test_array
        test_memoryview test_struct test_decimal test_itertools test_functools test_heapq test_weakref test_generators
        test_queue test_subprocess test_mmap test_zlib test_bz2 test_lzma test_ast test_sqlite3 test_coroutines)
fi

# One line per test case, by name: passed, skipped, failure or error.
cat >"$tmp/in/results.py" <<'END'
import sys, xml.etree.ElementTree as tree
lines = []
for case in tree.parse(sys.argv[1]).iter("testcase"):
    kinds = [child.tag for child in case if child.tag in ("skipped", "failure", "error")]
    lines.append("%s %s" % (case.get("name"), kinds[0] if kinds else "passed"))
print("\n".join(sorted(lines)))
END

results() {
    run_one tests "$1" env PYTHONMALLOC=malloc PYTHONHASHSEED=1 \
        /usr/bin/python3 -m test --timeout 60 --junit-xml "$tmp/$1.xml" "${modules[@]}"
    if ! /usr/bin/python3 "$tmp/in/results.py" "$tmp/$1.xml" >"$tmp/$1.list" 2>/dev/null; then
        tail -n 15 "$tmp/tests.$1.out" "$tmp/tests.$1.err" >&2
        fail "no results of the run on $1: $(describe "$(cat "$tmp/tests.$1.status")")"
    fi
    # What a run leaves in its folder is of no interest, and its name holds a process number.
    rm -rf "$tmp/tests.$1.dir"
}
results system
results acre
loaded_in python3

passed=$(grep -c ' passed$' "$tmp/system.list")
[ "$passed" -ge 800 ] || fail "only $passed test cases pass on the system's malloc"
if ! diff "$tmp/system.list" "$tmp/acre.list" >"$tmp/diff"; then
    head -n 20 "$tmp/diff" >&2
    tail -n 15 "$tmp/tests.acre.out" >&2
    fail "$(grep -c '^<' "$tmp/diff") results differ (< system, > acre)"
fi
system=$(cat "$tmp/tests.system.status") acre=$(cat "$tmp/tests.acre.status")
[ "$system" = "$acre" ] || fail "$(describe "$acre") on acre, $(describe "$system") on the system's malloc"
say "${#modules[@]} modules, $passed test cases pass on both, $(grep -vc ' passed$' "$tmp/acre.list") skipped or failing on" \
    "both; system $(cat "$tmp/tests.system.seconds") s, acre $(cat "$tmp/tests.acre.seconds") s"
