#!/bin/bash
# tidy.sh: sources keep the house style, as far as a script can see it.
#
# In src/, include/ and tools/:  at most 900 lines a file; a .c or .h file opens with a comment that says what it is
#                                for; no function-like macro goes over several lines, unless it is a list of X(…).
# There and in tests/, bench/:   no tab, no space at the end of a line, a newline at the end, no words for unfinished
#                                work; C sources have at most 120 columns.
# There, in docs and build files: no path of somebody's machine.
#
#   tests/tidy.sh [TREE]         checks TREE; without TREE it first proves that it can reject each of these.
set -u
export LC_ALL=C.UTF-8

# The patterns are spelt so that this file does not match them.
unfinished='TO[D]O|FIX[M]E|X[X]X'
machine_path='(^|[^[:alnum:]_.-])/(ho[m]e|ro[o]t|wo[r]k|Us[e]rs)/'

# offences REASON: reads file:line:text, prints file:line: reason. True if there was anything to print.
offences() { awk -F: -v reason="$1" '{ print $1 ":" $2 ": " reason; found = 1 } END { exit !found }'; }

# tidy_check TREE: prints the offences, fails if there are any.
tidy_check()
{
    cd "$1" || return 1
    local failed=0 text_file
    local named=(-name '*.c' -o -name '*.h' -o -name '*.cpp' -o -name '*.inc' -o -name '*.sh' -o -name CMakeLists.txt)
    local -a code all text
    mapfile -t code < <(find src include tools -type f \( "${named[@]}" \) 2>/dev/null | sort)
    mapfile -t all < <(find src include tools tests bench -type f \( "${named[@]}" \) 2>/dev/null | sort)
    mapfile -t text < <(find docs src bench -type f -name '*.md' 2>/dev/null | sort
        ls ./*.md Makefile CMakeLists.txt CMakePresets.json .ci/run cmake/* 2>/dev/null)

    grep -nP '\t' /dev/null "${all[@]}" | offences "a tab" && failed=1
    grep -nE '[[:space:]]$' /dev/null "${all[@]}" | offences "space at the end of the line" && failed=1
    local -a wide=()
    for text_file in "${all[@]}"; do case $text_file in *.sh) ;; *) wide+=("$text_file") ;; esac done
    grep -nE '^.{121}' /dev/null "${wide[@]}" | offences "more than 120 columns" && failed=1
    grep -nwE "$unfinished" /dev/null "${all[@]}" | offences "a word for unfinished work" && failed=1
    grep -nE "$machine_path" /dev/null "${all[@]}" "${text[@]}" | offences "a path of somebody's machine" && failed=1

    local file lines
    for file in "${all[@]}"; do
        [ -z "$(tail -c 1 "$file")" ] || { echo "$file:$(wc -l <"$file"): no newline at the end" && failed=1; }
    done
    for file in "${code[@]}"; do
        lines=$(wc -l <"$file")
        [ "$lines" -le 900 ] || { echo "$file:$lines: more than 900 lines" && failed=1; }
        case $file in
        *.c | *.h)
            # The opening comment must say something, or name the header of the same name, which says it.
            awk -v twin="see $(basename "${file%.c}").h" 'NR == 1 && !/^\/\*/ { exit 1 }
                { essay = essay " " $0 } /\*\// { exit }
                END { exit !(length(essay) >= 50 || index(essay, twin)) }' "$file" ||
                { echo "$file:1: does not open with a comment that says what the file is for" && failed=1; }
            ;;
        esac
    done
    # A list that is handed the macro to apply, as in LIST(X), is the one kind that may be long.
    [ "${#code[@]}" -eq 0 ] || awk '
        /^[ ]*#[ ]*define[ ]+[A-Za-z_0-9]+\(/ && /\\$/ && !/^[ ]*#[ ]*define[ ]+[A-Za-z_0-9]+\((X|_)[,)]/ {
            print FILENAME ":" FNR ": a function-like macro over several lines"
            found = 1
        }
        END { exit found }' "${code[@]}" || failed=1
    return $failed
}

# proves REASON FILE CONTENT: a tree whose one file has this content is rejected for this reason; "" is accepted.
proves()
{
    local reason=$1 file=$2 content=$3 got=accepted
    local tree=$scratch/tree
    rm -rf "$tree"
    mkdir -p "$tree/src" "$tree/$(dirname "$file")"
    printf '%b' "$content" >"$tree/$file"
    (tidy_check "$tree") >"$scratch/out" 2>&1 || got=rejected
    if [ -n "$reason" ]; then
        grep -q "^$file:[0-9]*: $reason" "$scratch/out" && [ "$got" = rejected ] && return
    else
        [ "$got" = accepted ] && return
    fi
    echo "tidy.sh: planted ${reason:-nothing wrong} in $file, which was $got:"
    cat "$scratch/out"
    proof_failed=1
}

if [ $# -ge 1 ]; then
    tidy_check "$1"
    exit
fi

root=$(cd "$(dirname "$0")/.." && pwd) || exit 1
scratch=$(mktemp -d) || exit 1
trap 'rm -rf "$scratch"' EXIT
proof_failed=0
essay='/* planted: a file that exists so that a check can be seen to work. */\n'
proves "" src/base/planted.c "${essay}int planted;\n"
proves "" src/base/planted.h "${essay}#define LIST(X) \\\\\n    X(A) \\\\\n    X(B)\n"
proves "" src/base/planted.c "${essay}/* $(printf 'ü%.0s' {1..114}) */\n"
proves "" src/base/planted.c "/* planted: see planted.h. */\nint planted;\n"
proves "a tab" src/base/planted.c "${essay}\tint planted;\n"
proves "space at the end" tests/unit/planted.c "${essay}int planted; \n"
proves "more than 120 columns" src/base/planted.c "${essay}/* $(printf 'u%.0s' {1..115}) */\n"
proves "a word for unfinished" tools/planted.c "${essay}/* TO""DO: later */\n"
proves "a path of somebody" src/base/planted.c "${essay}char *p = \"/ho""me/me/acre\";\n"
proves "no newline" src/base/planted.c "${essay}int planted;"
proves "more than 900 lines" src/base/planted.c "${essay}$(printf 'int x;\\n%.0s' {1..900})"
proves "does not open" src/base/planted.c "#include <stddef.h>\n"
proves "does not open" src/base/planted.c "/* short */\n\n\nint planted_and_long_enough_to_be_mistaken_for_words;\n"
proves "a function-like macro" src/base/planted.h "${essay}#define MAX(a, b) \\\\\n    ((a) > (b) ? (a) : (b))\n"
[ "$proof_failed" = 0 ] || exit 1

(tidy_check "$root") && echo "the sources keep the house style"
