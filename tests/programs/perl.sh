#!/bin/bash
# perl on acre: strings that grow, hashes of hashes, sorting, regular expressions, closures, weak references, objects
# with
# destructors, interpreter threads (each a deep copy of the whole interpreter) and fork; one line of digest per part.
# shellcheck source=tests/programs/lib.bash
. "$(dirname "$0")/lib.bash"
limit_s=180

need perl

cat >"$tmp/in/work.pl" <<'END'
use strict; use warnings; use threads; use threads::shared; use Digest::MD5 qw(md5_hex); use Scalar::Util qw(weaken);
use List::Util qw(sum); use Storable qw(dclone); use POSIX ();
$| = 1;
my $x = 4711;
sub rnd { $x = ($x * 1103515245 + 12345) % 2147483648; return $x % $_[0] }
sub show { my ($name, @v) = @_; printf "%-9s %s\n", $name, md5_hex(join "\0", @v) }

{ # strings that grow a little at a time, thousands of them alive
    my @s = ('') x 3000;
    for (1 .. 400_000) { my $i = rnd(3000); $s[$i] .= chr(33 + rnd(90)) x rnd(20); $s[$i] = substr $s[$i], 7 if length $s[$i] > 2000 }
    show strings => @s;
}
{ # hashes of hashes of arrays: filled, half deleted, filled again
    my %h;
    for my $round (1 .. 3) {
        for (1 .. 100_000) { my $k = rnd(4000); push @{ $h{"k$k"}{ 'n' . rnd(20) } }, rnd(1000) }
        for my $k (sort keys %h) { delete $h{$k} if rnd(2) }
    }
    my $copy = dclone \%h;
    show hashes => map { my $k = $_; $k, map { $_, @{ $copy->{$k}{$_} } } sort keys %{ $copy->{$k} } } sort keys %$copy;
}
{
    my @a = map { rnd(1 << 30) } 1 .. 200_000;
    show sort => (sort { $a <=> $b } @a)[0 .. 999], (sort map { sprintf '%x', $_ } @a)[0 .. 999], sum(@a);
}
{
    my $text = join ' ', map { join '', map { chr(97 + rnd(26)) } 1 .. 2 + rnd(9) } 1 .. 100_000;
    my %count; $count{$1}++ while $text =~ /\b(\w)\w*\b/g;
    (my $t = $text) =~ s/([aeiou])(\w*?)([^aeiou ])/$3$2$1/g;
    my @parts = split /[xz]/, $t;
    show regex => (map { "$_$count{$_}" } sort keys %count), length $t, @parts[0 .. 99], scalar reverse $t;
    my $wide = join '', map { chr(0x100 + rnd(2000)) } 1 .. 100_000; my $n = () = $wide =~ /\w/g; utf8::encode($wide);
    show unicode => $n, $wide;
}
{
    package Node; our $dead = 0;
    sub new { my ($c, $up) = @_; my $s = bless { up => $up, kids => [] }, $c; Scalar::Util::weaken($s->{up}) if $up; push @{ $up->{kids} }, $s if $up; $s }
    sub DESTROY { $dead++ }
    package main;
    my $root = Node->new; my @all = ($root);
    push @all, Node->new($all[ rnd(scalar @all) ]) for 1 .. 60_000;
    my @f = map { my $i = $_; sub { $i + $_[0] } } 1 .. 20_000;
    my $s = sum map { $_->(3) } @f;
    @all = (); undef $root;
    show objects => $Node::dead, $s;
}
{
    my $total : shared = 0;
    my @t = map { my $n = $_; threads->create(sub {
        my %h; $h{ $_ % 5000 } .= $_ * $n for 1 .. 100_000;
        my $l = sum map { length } values %h; { lock $total; $total += $l } return "$n:$l" }) } 1 .. 6;
    show threads => (map { $_->join } @t), $total;
}
{
    my @out;
    for my $n (1 .. 20) {
        pipe my $r, my $w; my $pid = fork;
        if (!$pid) { my @l = map { 'x' x ($_ % 300) } 1 .. 5000; print $w $n + length join '', @l; close $w; POSIX::_exit(0) }
        close $w; push @out, <$r>; waitpid $pid, 0; push @out, $?;
    }
    show fork => @out, `echo from a shell | cat`;
}
END
run_both work env PERL_HASH_SEED=0 PERL_PERTURB_KEYS=0 perl "$tmp/in/work.pl"
loaded_in perl sh
[ "$(wc -l <"$tmp/work.acre.out")" = 8 ] || fail "eight lines expected, got: $(cat "$tmp/work.acre.out")"
