#!/bin/bash
# The moments at which an allocator is called that no ordinary program shows: before the first constructor and after
# the last
# exit handler, inside dlopen and dlclose, from a dying thread, in the child of a fork while threads were allocating.
# Small C
# programs of src/, compiled here; their output has to be the one on the system's malloc.
# shellcheck source=tests/programs/lib.bash
. "$(dirname "$0")/lib.bash"
limit_s=120

cc() { gcc -std=gnu11 -O1 -Wall -Wextra -pthread "$@" || fail "cannot compile: gcc $*"; }
cc -o "$tmp/in/early_late" "$here/src/early_late.c"
cc -o "$tmp/in/dlopen" "$here/src/dlopen.c"
cc -shared -fPIC -o "$tmp/in/plugin.so" "$here/src/plugin.c"
cc -o "$tmp/in/fork_exec" "$here/src/fork_exec.c"
# its constructor runs before the program's
cc -o "$tmp/in/linked" "$here/src/mix.c" -Wl,--no-as-needed "$tmp/in/plugin.so"

run_both early-late bash -c '"$1"; echo "status $?"' bash "$tmp/in/early_late"
loaded_in early_late
for line in 'last destructor' end 'flushed by exit' 'key destructors ran three times' 'status 7'; do
    grep -xF "$line" "$tmp/early-late.acre.out" >/dev/null || fail "early-late: no line \"$line\""
done
run_both linked "$tmp/in/linked" 20000 200000 3
loaded_in linked
run_both dlopen "$tmp/in/dlopen" "$tmp/in/plugin.so" "${ROUNDS:-300}"
loaded_in dlopen
run_both fork-exec "$tmp/in/fork_exec" "${CHILDREN:-120}"
loaded_in fork_exec sh
