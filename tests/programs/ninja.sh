#!/bin/bash
# ninja builds a hundred small C files with two jobs, links them and runs the result, ninja and all that it starts on
# acre:
# some hundreds of short processes. Every object file and the program equal.
# shellcheck source=tests/programs/lib.bash
. "$(dirname "$0")/lib.bash"
limit_s=180

need gcc ninja-build:ninja perl

cat >"$tmp/in/sources.pl" <<'END'
use strict; use warnings;
my ($dir, $n) = @ARGV;
sub file { open my $f, '>', "$dir/$_[0]" or die; print $f $_[1] }
file 'all.h', join '', map { "unsigned f$_(unsigned x);\n" } 1 .. $n;
for my $i (1 .. $n) {
    my $body = join '', map { sprintf "static unsigned g%d(unsigned x) { unsigned t[%d] = { %d }; for (unsigned i = 0; i < %d; i++) t[i] ^= x * %d + i; return t[x %% %d]; }\n", $_, $_ + 8, $i, $_ + 8, $i * 7 + $_, $_ + 8 } 1 .. 12;
    my $sum = join ' + ', map { "g$_(x)" } 1 .. 12;
    file "f$i.c", "#include <stdio.h>\n#include <stdlib.h>\n#include <string.h>\n#include \"all.h\"\n$body" . "unsigned f$i(unsigned x) { char s[40]; snprintf(s, sizeof s, \"%u\", $sum); return (unsigned)strlen(s) + x * ${i}u; }\n";
}
file 'main.c', qq(#include <stdio.h>\n#include "all.h"\nint main(void) { unsigned s = 0; for (unsigned x = 0; x < 100; x++) s = s * 31) . join('', map { " + f$_(x)" } 1 .. $n) . qq(;\n printf("%u\\n", s); return 0; }\n);
my @o = map { "f$_.o" } 1 .. $n;
file 'build.ninja', join '', "in = $dir\n", "rule cc\n  command = gcc -O1 -MD -MF \$out.d -c \$in -o \$out\n  depfile = \$out.d\n  deps = gcc\n",
    "rule link\n  command = gcc \$in -o \$out\n", "rule run\n  command = ./\$in > \$out\n",
    (map { "build f$_.o: cc \$in/f$_.c\n" } 1 .. $n), "build main.o: cc \$in/main.c\n", "build program: link main.o @o\n", "build result: run program\ndefault result\n";
END
mkdir "$tmp/in/src"
perl "$tmp/in/sources.pl" "$tmp/in/src" 100
# \$in of the rules is ninja's own; the folder needs another name.
sed -i 's/^in = /from = /; s|\(cc \)\$in/|\1$from/|' "$tmp/in/src/build.ninja"

ignore=(.ninja_log .ninja_deps) # hold times
# The second ninja has to find, from its log and the dependencies that it stored, that nothing is left to do.
run_both build bash -c 'ninja -f "$1" -j2 --quiet && ninja -f "$1" -n' bash "$tmp/in/src/build.ninja"
loaded_in ninja gcc cc1 as ld program
grep 'no work to do' "$tmp/build.acre.out" >/dev/null || fail "ninja would build again: $(tail -n 1 "$tmp/build.acre.out")"
say "$(find "$tmp/ld.acre" -type f | wc -l) processes"
