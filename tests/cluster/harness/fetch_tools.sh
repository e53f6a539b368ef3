#!/bin/bash
# What a test cluster needs of Debian's, below the folder $1 where it is not at hand. The tools of the network are tied to their libraries and
# to alternatives, so they are installed; none of them starts a service.
set -euo pipefail

cd "$(dirname "$0")/../../.."
has() { command -v "$1" >/dev/null; }
if ! { has ip && has iptables && has nft; } && [[ $(id -u) == 0 ]] && has apt-get; then
    apt-get update -qq
    DEBIAN_FRONTEND=noninteractive apt-get install -qq --no-install-recommends iproute2 iptables nftables >/dev/null
fi
tests/support/fetch_debian.sh "$1" etcd=etcd-server containerd=containerd runc=runc host-local=containernetworking-plugins
