# What every test in this folder shares. A script sources it first, says what it needs, and then compares a real program
# on the system's malloc with the same program on acre:
#
#     . "$(dirname "$0")/lib.bash"
#     need sqlite3
#     run_both build sqlite3 -batch :memory: '.read in.sql'
#
# A run happens in a fresh folder of the same name for both allocators, so nothing that a program writes can differ by
# its
# path. Its stdout, its exit code and every file that it leaves in that folder have to be equal, bit for bit. That the
# library was mapped, in which processes, and that malloc is bound to it is read from the dynamic linker, not assumed.
#
# Environment:
#   ACRE_LIB   the library under test; default build/libacre.so of this repository
#   NO_SKIP    1: what would be skipped (exit 77) fails instead; for a CI that must not lose a test silently
#   KEEP       1: the temporary folder stays, and its name is printed
#   TMPDIR     where the temporary folder is made
# Exit status of every script: 0 passed, 77 skipped with a reason, anything else failed with a reason.

set -euo pipefail

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
repo=$(cd "$here/../.." && pwd)
test_name=$(basename "$0" .sh)

say() { printf '%s: %s\n' "$test_name" "$*"; }
fail() { printf '%s: FAILED: %s\n' "$test_name" "$*" >&2; exit 1; }
skip() {
    [ "${NO_SKIP:-0}" != 1 ] || fail "skipped, and NO_SKIP=1 forbids it: $*"
    say "SKIPPED: $*"
    exit 77
}

# ---- a known environment ------------------------------------------------------------------------------------------

unset LD_PRELOAD LD_LIBRARY_PATH LD_DEBUG LD_DEBUG_OUTPUT LD_BIND_NOW MALLOC_CONF GLIBC_TUNABLES
while IFS= read -r variable; do unset "$variable"; done < <(compgen -v | grep -E '^(PYTHON|GIT_|PERL|MALLOC_)' || true)
PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin
export PATH LC_ALL=C TZ=UTC DEBIAN_FRONTEND=noninteractive
umask 022

tmp=$(mktemp -d "${TMPDIR:-/tmp}/acre-$test_name.XXXXXX")
case $tmp in *[[:space:]:]*) fail "TMPDIR may hold no white space and no colon: $tmp" ;; esac
export HOME=$tmp/home TMPDIR=$tmp/tmp
mkdir -p "$HOME" "$TMPDIR" "$tmp/in"

pids=()          # started in the background; ended by their id if they still run at the end
at_end=()        # functions to call at the end, last one first
clean_up() {
    local status=$? i
    trap - EXIT
    set +e
    for ((i = ${#at_end[@]} - 1; i >= 0; i--)); do "${at_end[i]}"; done
    for i in ${pids[@]+"${pids[@]}"}; do
        kill "$i" 2>/dev/null
        for _ in 1 2 3 4 5 6 7 8 9 10; do kill -0 "$i" 2>/dev/null || break; sleep 0.2; done
        kill -9 "$i" 2>/dev/null
        wait "$i" 2>/dev/null
    done
    if [ "${KEEP:-0}" = 1 ]; then say "kept $tmp"; else rm -rf "$tmp"; fi
    [ "$status" != 0 ] || say "passed in $((SECONDS)) s"
    exit "$status"
}
trap clean_up EXIT
trap 'exit 129' HUP
trap 'exit 130' INT
trap 'exit 143' TERM

# ---- Debian packages ----------------------------------------------------------------------------------------------

# need PACKAGE[:COMMAND]… makes sure of programs. COMMAND (default: the package's name) is what shows that it is there:
# a
# name in PATH, or a file if it starts with a slash. What lacks is installed; where that cannot be, the test is skipped.
need() {
    local item command missing=() sudo=
    for item in "$@"; do
        command=${item#*:}
        case $command in
        /*) [ -e "$command" ] || missing+=("${item%%:*}") ;;
        *) command -v "$command" >/dev/null || missing+=("${item%%:*}") ;;
        esac
    done
    [ ${#missing[@]} -gt 0 ] || return 0

    command -v apt-get >/dev/null || skip "needs ${missing[*]} (Debian package names), and there is no apt-get to install them"
    if [ "$(id -u)" != 0 ]; then
        sudo -n true 2>/dev/null || skip "needs the packages ${missing[*]}; run as root, or: apt-get install ${missing[*]}"
        sudo="sudo -n"
    fi
    say "installing ${missing[*]}"
    # One at a time, as several tests may start together.
    if ! (
        exec 9>/tmp/acre-apt.lock
        flock 9
        $sudo apt-get install -y --no-install-recommends "${missing[@]}" ||
            { $sudo apt-get update && $sudo apt-get install -y --no-install-recommends "${missing[@]}"; }
    ) </dev/null >"$tmp/apt.log" 2>&1 9>&-; then
        tail -n 5 "$tmp/apt.log" >&2
        skip "could not install ${missing[*]} (the last lines of apt-get are above)"
    fi
    hash -r
}

# ---- the library under test ---------------------------------------------------------------------------------------

need gcc

lib=${ACRE_LIB:-$repo/build/libacre.so}
case $lib in /*) ;; *) lib=$PWD/$lib ;; esac
[ -e "$lib" ] || fail "no $lib: build it (make), or name another by ACRE_LIB"
case $lib in *[[:space:]:]*) # LD_PRELOAD splits there
    ln -s "$lib" "$tmp/lib.so"
    lib=$tmp/lib.so
    ;;
esac

# malloc of a small program has to be bound to the library; a library that only loads would pass everything below.
printf '#include <stdlib.h>\nint main(void) { void *volatile p = malloc(9); free(p); return 0; }\n' >"$tmp/probe.c"
gcc -O0 -o "$tmp/probe" "$tmp/probe.c"
status=0
LD_PRELOAD=$lib LD_BIND_NOW=1 LD_DEBUG=bindings LD_DEBUG_OUTPUT=$tmp/probe.ld "$tmp/probe" 2>"$tmp/probe.err" || status=$?
for symbol in malloc free; do
    # Whole output into grep: with -q it would close the pipe early, and pipefail calls that a failure.
    cat "$tmp"/probe.ld.* | grep -F "binding file $tmp/probe " | grep -F "to $lib " | grep -F "symbol \`$symbol'" >/dev/null ||
        fail "$symbol of a small program is not bound to $lib; is it a malloc for this machine? $(head -n 1 "$tmp/probe.err")"
done
[ "$status" = 0 ] || fail "a program of one malloc and one free exits with $status on $lib"
rm -f "$tmp"/probe*

# ---- one command, two allocators ----------------------------------------------------------------------------------

limit_s=${limit_s:-600}  # one run that takes longer has hung
under=()                 # a script may put a command before both runs: under=(prlimit --as=4096000000)
ignore=()                # patterns of produced files that are not compared
ld_env=()

# Sets ld_env, the environment that puts the next command on an allocator: on system | acre. The linker writes the
# objects
# that it loads to one file per process. Both runs get it so that nothing but the allocator differs.
on() {
    rm -rf "$tmp/ld.$1"
    mkdir "$tmp/ld.$1"
    ld_env=(LD_DEBUG=files "LD_DEBUG_OUTPUT=$tmp/ld.$1/p")
    [ "$1" = system ] || ld_env+=("LD_PRELOAD=$lib")
}

# Fails unless the programs named ran in processes that had the library loaded. Names are argv[0] without its folder.
loaded_in() {
    local program
    for program in "$@"; do
        grep -rlE "initialize program: (.*/)?$program\$" "$tmp/ld.acre" | xargs -r grep -lF "file=$lib [0]" | grep . >/dev/null ||
            fail "no process of $program had $lib loaded"
    done
}

seconds() { local t=${EPOCHREALTIME/./}; printf '%d.%02d' $(((t - $1) / 1000000)) $(((t - $1) / 10000 % 100)); }

describe() { # exit status in words
    case $1 in
    124) echo "did not end within $limit_s s" ;;
    137) echo "killed (SIGKILL; out of memory, or it hung)" ;;
    134) echo "aborted (SIGABRT)" ;;
    139) echo "crashed (SIGSEGV)" ;;
    *) echo "exit status $1" ;;
    esac
}

# run_one LABEL system|acre COMMAND…: leaves $tmp/LABEL.KIND.{dir,out,err,status}; the command finds its input in
# $tmp/in.
run_one() {
    local label=$1 kind=$2 status=0 start=${EPOCHREALTIME/./}
    shift 2
    on "$kind"
    rm -rf "$tmp/work" "$tmp/$label.$kind.dir"
    mkdir "$tmp/work"
    # In the background, so that a signal to this script is heard at once and ends the run too.
    (cd "$tmp/work" && exec timeout -k 5 "$limit_s" ${under[@]+"${under[@]}"} env "${ld_env[@]}" "$@") \
        </dev/null >"$tmp/$label.$kind.out" 2>"$tmp/$label.$kind.err" &
    pids+=($!)
    wait $! 2>/dev/null || status=$?
    unset 'pids[-1]'
    mv "$tmp/work" "$tmp/$label.$kind.dir"
    echo "$status" >"$tmp/$label.$kind.status"
    seconds "$start" >"$tmp/$label.$kind.seconds"
    if [ "$kind" = acre ]; then
        # A process that the linker never saw load the library (a static one may be meant) shows in loaded_in.
        grep -rqF "file=$lib [0]" "$tmp/ld.acre" || fail "$label: no process had $lib loaded"
        ! grep -F 'cannot be preloaded' "$tmp/$label.acre.err" >&2 || fail "$label: the linker refused $lib"
    fi
}

# compare LABEL: what two run_one left is equal, and both exited with 0.
compare() {
    local label=$1 system acre args=() pattern a b
    system=$(cat "$tmp/$label.system.status") acre=$(cat "$tmp/$label.acre.status")
    if [ "$system" != 0 ]; then
        tail -n 15 "$tmp/$label.system.err" >&2
        fail "$label: fails on the system's malloc already: $(describe "$system")"
    fi
    if [ "$acre" != 0 ]; then
        tail -n 15 "$tmp/$label.acre.err" >&2
        fail "$label: $(describe "$acre") with $(basename "$lib"), 0 on the system's malloc"
    fi
    if ! cmp -s "$tmp/$label.system.out" "$tmp/$label.acre.out"; then
        diff -a "$tmp/$label.system.out" "$tmp/$label.acre.out" | head -n 10 | cut -c 1-200 >&2 || true
        fail "$label: stdout differs (< system, > acre)"
    fi
    for pattern in ${ignore[@]+"${ignore[@]}"}; do args+=(-x "$pattern"); done
    if ! diff -rq ${args[@]+"${args[@]}"} "$tmp/$label.system.dir" "$tmp/$label.acre.dir" >"$tmp/diff"; then
        head -n 10 "$tmp/diff" >&2
        fail "$label: files that it wrote differ"
    fi
    a=$(stat -c %s "$tmp/$label.acre.out")
    b=$(find "$tmp/$label.acre.dir" -type f | wc -l)
    say "$label: equal ($a bytes of output, $b files); system $(cat "$tmp/$label.system.seconds") s," \
        "acre $(cat "$tmp/$label.acre.seconds") s"
}

# run_both LABEL COMMAND…
run_both() {
    run_one "$1" system "${@:2}"
    run_one "$1" acre "${@:2}"
    compare "$1"
}
