#!/bin/sh
# ensure.sh: sees to it that commands and files are there, installing Debian packages where they are not.
#
#   tools/ensure.sh NEED…      NEED is command:package or /path/to/file:package
#
# Says what it installs. Works as root, or through sudo. Where it cannot go on it names everything that is missing and
# exits with 1.
set -u

say() { echo "ensure: $*" >&2; }

# there NEED: true if its command or file exists.
there()
{
    case ${1%%:*} in
    /*) [ -e "${1%%:*}" ] ;;
    *) command -v "${1%%:*}" >/dev/null 2>&1 ;;
    esac
}

# Sets `missing` to the needs among the arguments that are not there, and `packages` to what would bring them.
look()
{
    missing=''
    packages=''
    for need; do
        there "$need" && continue
        missing="$missing ${need%%:*}"
        case " $packages " in
        *" ${need#*:} "*) ;;
        *) packages="$packages ${need#*:}" ;;
        esac
    done
}

give_up()
{
    say "missing:$missing"
    say "$1"
    say "Debian and Ubuntu have it in:$packages"
    exit 1
}

for need; do
    case $need in
    ?*:?*) ;;
    *)
        say "'$need' is not of the form command-or-file:package"
        exit 2
        ;;
    esac
done

look "$@"
[ -z "$missing" ] && exit 0
command -v apt-get >/dev/null 2>&1 || give_up "this system has no apt-get; install it by this system's own means."

if [ "$(id -u)" = 0 ]; then
    as_root=''
elif command -v sudo >/dev/null 2>&1; then
    as_root=sudo
else
    give_up "not root and no sudo: ask whoever is."
fi

# Packages are known by name; nothing here is ever quoted into one word.
# shellcheck disable=SC2086
install_packages()
{
    # Quiet unless it fails; waits for another apt that holds the lock, as a test beside this one might.
    $as_root env DEBIAN_FRONTEND=noninteractive apt-get -q -o DPkg::Lock::Timeout=300 \
        install -y --no-install-recommends $packages </dev/null
}

say "installing$packages (for$missing)"
log=$(mktemp)
trap 'rm -f "$log"' EXIT
# Package lists may be absent or old: fetch them when the first try does not work, once.
if ! install_packages >"$log" 2>&1; then
    say "fetching the package lists"
    $as_root apt-get -q -o DPkg::Lock::Timeout=300 update </dev/null >"$log" 2>&1 || cat "$log" >&2
    install_packages >"$log" 2>&1 || tail -n 20 "$log" >&2
fi

look "$@"
[ -z "$missing" ] || give_up "apt-get did not bring it (its last words are above)."
say "done"
