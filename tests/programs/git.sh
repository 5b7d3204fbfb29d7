#!/bin/bash
# git on acre: a repository of some thousand commits from a fast-import stream, cloned object by object (--no-local),
# repacked by two threads and by one, checked, and read back. With one thread the pack file itself is equal bit for bit;
# with two, what git keeps in it is. Most of these processes are short; index-pack and pack-objects are threaded.
#
# COMMITS=n changes the number.
# shellcheck source=tests/programs/lib.bash
. "$(dirname "$0")/lib.bash"
limit_s=180

need git perl

cat >"$tmp/in/stream.pl" <<'END'
use strict; use warnings; binmode STDOUT;
my $x = 7;
sub rnd { $x = ($x * 1103515245 + 12345) % 2147483648; return ($x >> 8) % $_[0] }
my (@files, $mark, @branches);
sub words { join ' ', map { sprintf '%s%d', (qw(page block space slot region cache heap word))[ rnd(8) ], rnd(5000) } 1 .. $_[0] }
for my $c (1 .. $ARGV[0]) {
    my $branch = rnd(12) ? 'main' : 'topic' . rnd(8);
    my $message = 'Change ' . words(3 + rnd(40)) . "\n";
    printf "commit refs/heads/%s\nmark :%d\ncommitter A U Thor <a\@example.org> %d +0100\ndata %d\n%s", $branch, $c, 1700000000 + 60 * $c, length $message, $message;
    my $main = $branch eq 'main';
    print "merge :$1\n" if $main && rnd(30) == 0 && ($branches[-1] // '') =~ /(\d+)/;
    push @branches, $c if !$main;
    for (1 .. 1 + rnd(4)) {
        my $n = rnd(20) ? rnd(1500) : rnd(20);
        my $lines = \$files[$n];
        $$lines //= [ map { words(8) } 1 .. 5 + rnd(300) ];
        splice @{$$lines}, rnd(scalar @{$$lines}), rnd(3), map { words(9) } 1 .. 1 + rnd(4);
        my $body = join "\n", @{$$lines}, '';
        my $path = sprintf 'src/d%02d/e%d/file%d.txt', $n % 40, $n % 7, $n;
        printf "M 100644 inline %s\ndata %d\n%s\n", $path, length $body, $body;
    }
    if (rnd(100) == 0) { my $body = join '', map { pack 'N', rnd(1 << 22) } 1 .. 1 + rnd(50000); printf "M 100755 inline bin/b%d\ndata %d\n%s\n", rnd(9), length $body, $body }
    printf "tag v%d\nfrom :%d\ntagger A U Thor <a\@example.org> %d +0100\ndata 4\ntag\n\n", $c, $c, 1700000000 + 60 * $c if $c % 500 == 0;
}
print "done\n";
END
perl "$tmp/in/stream.pl" "${COMMITS:-3000}" >"$tmp/in/stream"

cat >"$tmp/in/work.sh" <<'END'
set -e
git config --global user.name 'A U Thor'; git config --global user.email a@example.org
git config --global init.defaultBranch main; git config --global gc.auto 0
git config --global pack.threads 2; git config --global index.threads 2; git config --global core.pager cat
show() { # of the repository here: all that it holds
    git rev-list --all | sha1sum
    git log --all --stat --format='%H %T %P %an %ad %s' --date=iso | sha1sum
    git cat-file --batch-all-objects --batch-check='%(objectname) %(objecttype) %(objectsize)' | sha1sum
    git count-objects -v | grep -vE '^size'
    git fsck --full --strict --no-dangling
}
git init -q --bare origin.git
git -C origin.git fast-import --quiet --done <../in/stream
git -C origin.git symbolic-ref HEAD refs/heads/main
(cd origin.git && show)
git clone -q --no-local origin.git clone
cd clone
show
git ls-files -s | sha1sum
git status --short
git repack -q -adf --threads=2 --window=20 --depth=30
show
git verify-pack .git/objects/pack/*.pack
git repack -q -adf --threads=1
git verify-pack -v .git/objects/pack/*.idx | sha1sum
git blame -s bin/b1 2>/dev/null | sha1sum || true
git log -p --all -S region77 --format=%H | sha1sum
git diff v500 v2000 2>/dev/null | sha1sum
git checkout -q -b work v500 2>/dev/null || git checkout -q -b work HEAD~50
git merge-tree "$(git merge-base work main)" work main | sha1sum
git grep -c block1 | sha1sum
git archive --format=tar main | sha1sum
git commit-graph write --reachable --no-progress
git gc -q --prune=now
show
END
# The packs of origin and clone stay out: threads race in them. Their contents are in the output; the last one is
# compared.
ignore=('*.rev' 'logs' 'index' 'ORIG_HEAD' '*.pack' '*.idx' 'commit-graph*' 'packs')
run_both history bash "$tmp/in/work.sh"
loaded_in git
[ "$(wc -l <"$tmp/history.acre.out")" -ge 30 ] || fail "too little output: $(cat "$tmp/history.acre.out")"
say "$(sed -n 's/^in-pack: //p' "$tmp/history.acre.out" | tail -n 1) objects"
