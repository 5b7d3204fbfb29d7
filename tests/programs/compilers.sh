#!/bin/bash
# gcc and clang compile a C file of 200,000 lines on acre (functions, structs, tables, strings, switches, by a
# generator),
# optimizing; the object files equal bit for bit. A sixth of it also at -O2 with debug information; FULL=1: all of it.
#
# LINES=n changes the size.
# shellcheck source=tests/programs/lib.bash
. "$(dirname "$0")/lib.bash"
limit_s=600

need gcc clang perl

cat >"$tmp/in/source.pl" <<'END'
use strict; use warnings;
my $x = 3;
sub rnd { $x = ($x * 1103515245 + 12345) % 2147483648; return ($x >> 8) % $_[0] }
my ($want, $lines, $n) = ($ARGV[0], 0, 0);
sub out { my $s = shift; $lines += $s =~ tr/\n//; print $s }
out "#include <stdio.h>\n#include <stdlib.h>\n#include <string.h>\n#include <stdint.h>\nint f0(int, int);\nint f0(int a, int b) { return a - b; }\n";
while ($lines < $want) {
    $n++;
    my $f = 2 + rnd(6);
    out "struct s$n {\n" . join('', map { '    ' . (qw(int long char* double uint8_t short))[ rnd(6) ] . " m$_;\n" } 1 .. $f) . ($n > 1 ? '    struct s' . ($n - 1) . " *up;\n" : '') . "};\n";
    out "static const int table$n\[] = {\n" . join('', map { '    ' . join(', ', map { rnd(1 << 20) } 1 .. 8) . ",\n" } 1 .. 4 + rnd(20)) . "};\n" if rnd(3) == 0;
    out "static const char *const names$n\[] = {\n" . join('', map { '    "' . join('', map { chr(97 + rnd(26)) } 1 .. 5 + rnd(40)) . "\",\n" } 1 .. 3 + rnd(9)) . "};\nconst char *name$n(int i);\nconst char *name$n(int i) { return names$n\[i & 1]; }\n" if rnd(4) == 0;
    out "#define MIX$n(a, b) (((a) ^ ((b) << " . rnd(8) . ")) + " . rnd(1000) . ")\n";
    out "int f$n(int a, int b);\nint f$n(int a, int b)\n{\n    int v0 = a, v1 = b, v2 = a ^ b, v3 = " . rnd(999) . ";\n";
    for (1 .. 3 + rnd(8)) {
        my ($p, $q, $r) = (rnd(4), rnd(4), rnd(4)); my $c = rnd(1000); my $k = rnd($n); my $kind = rnd(7);
        if    ($kind == 0) { out "    if (v$p > v$q + $c) {\n        v$r += MIX$n(v$p, v$q);\n    } else {\n        v$q -= $c;\n    }\n" }
        elsif ($kind == 1) { out "    for (int i = 0; i < (v$p & 31); i++) {\n        v$q = v$q * 31 + i;\n        v$r ^= v$q >> 3;\n    }\n" }
        elsif ($kind == 2) { out "    switch (v$p & 7) {\n" . join('', map { "    case $_:\n        v$q += " . rnd(500) . ";\n        break;\n" } 0 .. 2 + rnd(5)) . "    default:\n        v$r--;\n    }\n" }
        elsif ($kind == 3) { out "    v$p += f$k(v$q, v$r);\n" }
        elsif ($kind == 4) { out "    {\n        struct s$n s;\n        memset(&s, v$p, sizeof s);\n        v$q += ((unsigned char *)&s)[$c % sizeof s];\n    }\n" }
        elsif ($kind == 5) { out "    v$p = v$q ? v$r / (v$q | 1) : $c;\n    v$q = (int)((double)v$r * 1.5);\n" }
        else { out "    while (v$p > 1000) {\n        v$p /= 2;\n        if (v$p == v$q)\n            goto out;\n    }\n" }
    }
    out "    goto out;\nout:\n    return v0 + v1 * 3 + v2 * 5 + v3;\n}\n";
}
END
lines=${LINES:-200000}
perl "$tmp/in/source.pl" "$lines" >"$tmp/in/all.c"
perl "$tmp/in/source.pl" $((lines / 6)) >"$tmp/in/part.c"
debug=part.c
[ "${FULL:-0}" != 1 ] || debug=all.c
say "$(wc -l <"$tmp/in/all.c") lines of C"

run_both gcc-O1 gcc -std=c11 -O1 -frandom-seed=acre -c "$tmp/in/all.c" -o out.o
loaded_in gcc cc1 as
run_both gcc-O2-g gcc -std=c11 -O2 -g -frandom-seed=acre -c "$tmp/in/$debug" -o out.o
loaded_in gcc cc1 as
run_both clang-O1 clang -std=c11 -O1 -c "$tmp/in/all.c" -o out.o
loaded_in clang
