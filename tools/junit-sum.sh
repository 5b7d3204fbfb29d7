#!/bin/sh
# junit-sum.sh: adds up JUnit files as ctest writes them and prints one line, "N passed, N failed[, N skipped]".
#
#   tools/junit-sum.sh FILE…
#
# A test that could not be started counts as failed (ctest's own totals call it skipped), and so does a file that is
# missing or holds no test: a run that left nothing behind is not a run that went well. Exits with 0 if none failed and
# some passed.
set -u

for file; do
    if [ -s "$file" ]; then cat "$file"; else echo "junit-sum: $file is missing or empty" >&2; fi
    echo "<!-- end of file -->"
done | awk '
    # ctest puts each <testcase …> on a line of its own; what it found stands in the lines up to </testcase>.
    /<testcase /              { in_case = 1; status = ""; reason = ""; seen++ }
    in_case && match($0, /status="[a-z]*"/) && status == "" { status = substr($0, RSTART + 8, RLENGTH - 9) }
    in_case && match($0, /<skipped message="[^"]*"/) { reason = substr($0, RSTART + 18, RLENGTH - 19) }
    in_case && (/<\/testcase>/ || /<testcase [^>]*\/>/) {
        in_case = 0
        if (status == "run") passed++
        else if (status == "disabled" || reason ~ /^SKIP_/) skipped++
        else failed++
    }
    /<!-- end of file -->/    { if (in_case || !seen) failed++; in_case = 0; seen = 0 }
    END {
        printf "%d passed, %d failed", passed, failed
        if (skipped) printf ", %d skipped", skipped
        print ""
        exit !(failed == 0 && passed > 0)
    }'
