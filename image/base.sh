#!/usr/bin/env bash
# A base image where none can be pulled: Debian with Python, git and nft, made by debootstrap. Needs root and a
# Docker engine. Usage: image/base.sh [NAME], by default cutover-base:local; an image of that name is kept.
set -euo pipefail

name=${1:-cutover-base:local}
if docker image inspect "$name" >/dev/null 2>&1; then
    echo "$name is there"
    exit
fi

root=$(mktemp -d)
trap 'rm -rf "$root"' EXIT
chmod 755 "$root"
debootstrap --variant=minbase --include=ca-certificates,git,nftables,python3 bookworm "$root" >"$root.log" 2>&1 || {
    tail -5 "$root.log" >&2
    exit 1
}
rm -f "$root.log"
tar -C "$root" --exclude='./var/cache/apt/archives/*' --exclude='./var/lib/apt/lists/*' -c . | docker import - "$name"
