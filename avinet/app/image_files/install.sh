#!/bin/sh
# Makes this machine a service engine:  sh install.sh IMAGE.tar [META-INFO.json]
# Run as root.  It can be run again; a newer image replaces the software and leaves the state alone.
# PIP_INDEX_URL, PIP_FIND_LINKS and PIP_NO_INDEX are honoured, for machines without the Internet.
set -eu

home=${AVINET_HOME:-/opt/avinet}
boot=${AVINET_BOOT:-/var/lib/avinet/boot}
units=${AVINET_UNITS:-/etc/systemd/system}

fail() {
    echo "install.sh: $*" >&2
    exit 1
}

[ $# -ge 1 ] || fail "usage: install.sh IMAGE.tar [META-INFO.json]"
image=$1
meta=${2:-}
[ -r "$image" ] || fail "cannot read the image $image"
[ -z "$meta" ] || [ -r "$meta" ] || fail "cannot read the meta-info $meta"

python=
for candidate in "${PYTHON:-}" python3 python3.13 python3.12 python3.11; do
    if [ -n "$candidate" ] && command -v "$candidate" >/dev/null &&
        "$candidate" -c 'import sys, venv, ensurepip; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then
        python=$candidate
        break
    fi
done
[ -n "$python" ] || fail "Python 3.11 or later with venv is needed (Debian: apt install python3-venv)"

umask 077
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
tar -xf "$image" -C "$work" || fail "$image is not a whole tar archive"
wheel=$(find "$work" -name 'avinet-*.whl')
[ -f "$wheel" ] || fail "$image holds no avinet wheel"

# Beside the old release, then renamed into place: a failed installation leaves the running one whole.  The software is
# no secret, so its folder opens for all; what follows is not for all.
umask 022
mkdir -p "$home" "$(dirname "$boot")"
release="$home/$(basename "$wheel" -py3-none-any.whl)-$(cat "$wheel" "$work/requirements.txt" | sha256sum | cut -c1-12)"
[ -x "$release/bin/python" ] || "$python" -m venv "$release"
"$release/bin/python" -m pip install -q --disable-pip-version-check -r "$work/requirements.txt"
"$release/bin/python" -m pip install -q --disable-pip-version-check --no-deps --force-reinstall "$wheel"
# Twisted would otherwise try to write its list of plugins at the first start, where it may not.
"$release/bin/twistd" --help >/dev/null
ln -sfn "$release" "$home/current.new"
mv -T "$home/current.new" "$home/current"

if [ "$(id -u)" = 0 ] && ! id avise >/dev/null 2>&1; then
    useradd --system --user-group --home-dir /var/lib/avinet/se --no-create-home --shell /usr/sbin/nologin avise
fi

umask 077
mkdir -p "$boot"
cp "$image" "$boot/image.tar.new"
mv "$boot/image.tar.new" "$boot/image.tar"
if [ -n "$meta" ]; then
    cp "$meta" "$boot/meta-info.json.new"
    mv "$boot/meta-info.json.new" "$boot/meta-info.json"
    echo "AVISE_OPTIONS=--meta-info $boot/meta-info.json" >"$boot/options"
fi
[ "$(id -u)" != 0 ] || chown -R avise:avise "$boot"

umask 022
if [ -d /run/systemd/system ]; then
    cp "$work/avinet-envoy.service" "$work/avise.service" "$units/"
    systemctl daemon-reload
    systemctl enable avinet-envoy.service avise.service
    # An Envoy that runs goes on; the agent starts, or starts again with the new software.
    systemctl start avinet-envoy.service
    systemctl restart avise.service
    echo "avise.service and avinet-envoy.service run; see: journalctl -u avise -u avinet-envoy -f"
else
    echo "There is no systemd here. Start it by:"
    echo "  $home/current/bin/twistd -n avise --image $boot/image.tar${meta:+ --meta-info $boot/meta-info.json} --state /var/lib/avinet/se"
fi
