#!/bin/sh
# Installs from Debian's packages what the tests of this folder need; run as root, `make test-devices` does.
set -eu
if [ "$(id -u)" != 0 ] || ! command -v apt-get >/dev/null; then
    echo "the tests of devices need root and apt-get to install emulators and servers" >&2
    exit 1
fi
packages="cpio e2fsprogs gcc-aarch64-linux-gnu iproute2 libc6-dev-arm64-cross mmdebstrap musl-tools nftables openssh-client
          openssh-server procps qemu-system-arm qemu-user qemu-user-static qemu-utils"

missing=
for package in $packages; do
    dpkg-query -W -f '${Status}' "$package" 2>/dev/null | grep -q 'ok installed' || missing="$missing $package"
done
[ -n "$missing" ] || exit 0

# Packages start their services when they are installed: none of them is wanted here.
policy=/usr/sbin/policy-rc.d
if [ ! -e $policy ]; then
    trap 'rm -f $policy' EXIT
    printf '#!/bin/sh\nexit 101\n' >$policy
    chmod +x $policy
fi
export DEBIAN_FRONTEND=noninteractive
apt-get -qq update
# shellcheck disable=SC2086
apt-get -qq install -y --no-install-recommends $missing >/dev/null
