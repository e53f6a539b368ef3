#!/bin/bash
# Puts Debian's Prometheus below the folder $1, for tests. Unpacks the package instead of installing it: that needs no root, and starts no
# system service. Does nothing where Prometheus is already at hand. Without one the tests that need it are skipped; in CI that is an error.
set -euo pipefail

target=$1

if [[ -n ${SPILLWAY_PROMETHEUS:-} || -x $target/usr/bin/prometheus ]] || command -v prometheus >/dev/null; then
    exit 0
fi

give_up() {
    echo "Prometheus: $1" >&2
    echo "Tests that need it are skipped. Install it, or name its binary in SPILLWAY_PROMETHEUS." >&2
    [[ ${CI:-} != true ]]
    exit
}

command -v apt-get >/dev/null && command -v dpkg-deb >/dev/null || give_up "not found, and this is not a Debian system to get it from"

scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT
download() {
    (cd "$scratch" && apt-get download -qq -o APT::Sandbox::User= prometheus) 2>"$scratch/error"
}

if ! download; then
    [[ $(id -u) == 0 ]] || give_up "apt-get cannot download it; 'sudo apt-get update' may help"
    apt-get update -qq
    download || give_up "apt-get cannot download it: $(tail -1 "$scratch/error")"
fi
mkdir -p "$target"
dpkg-deb --extract "$scratch"/prometheus_*.deb "$target"
echo "Prometheus unpacked to $target"
