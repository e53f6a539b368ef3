#!/bin/bash
# Puts programs of Debian's below the folder $1, for tests: each further argument is PROGRAM=PACKAGE. Unpacks packages instead of installing
# them: that needs no root, and starts no system service. Does nothing for a program that is at hand. Without one, the tests that need it are
# skipped; in CI that is an error.
set -euo pipefail

target=$1
shift

at_hand() {
    PATH=$PATH:/usr/sbin:/sbin:/usr/lib/cni:$target/usr/bin:$target/usr/sbin:$target/usr/lib/cni command -v "$1" >/dev/null
}

packages=()
for wanted in "$@"; do
    at_hand "${wanted%%=*}" || packages+=("${wanted#*=}")
done
[[ ${#packages[@]} -gt 0 ]] || exit 0

give_up() {
    echo "${packages[*]}: $1" >&2
    echo "Tests that need them are skipped. Install them, or have apt-get do it here." >&2
    [[ ${CI:-} != true ]]
    exit
}

command -v apt-get >/dev/null && command -v dpkg-deb >/dev/null || give_up "not found, and this is not a Debian system to get them from"

scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT
download() {
    (cd "$scratch" && apt-get download -qq -o APT::Sandbox::User= "${packages[@]}") 2>"$scratch/error"
}

if ! download; then
    [[ $(id -u) == 0 ]] || give_up "apt-get cannot download them; 'sudo apt-get update' may help"
    apt-get update -qq
    download || give_up "apt-get cannot download them: $(tail -1 "$scratch/error")"
fi
mkdir -p "$target"
for package in "$scratch"/*.deb; do
    dpkg-deb --extract "$package" "$target"
done
echo "Unpacked to $target: ${packages[*]}"
