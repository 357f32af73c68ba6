#!/bin/sh
# Debian packages that the tests compare against. Installed when that is possible without a question; on CI (CI=true) a
# missing one is a failure, elsewhere the tests that need it are skipped and say so.
set -eu
missing=''
command -v dtc >/dev/null || missing="$missing device-tree-compiler"
command -v aarch64-linux-gnu-as >/dev/null || missing="$missing binutils-aarch64-linux-gnu"
command -v cpio >/dev/null || missing="$missing cpio"
[ -n "$missing" ] || exit 0
as_root=''
[ "$(id -u)" = 0 ] || as_root='sudo -n'
if command -v apt-get >/dev/null && { [ -z "$as_root" ] || sudo -n true 2>/dev/null; }; then
    # shellcheck disable=SC2086
    { $as_root apt-get -qq update && $as_root apt-get -qq install -y --no-install-recommends $missing; } >/dev/null || true
fi
for package in $missing; do
    case $package in device-tree-compiler) tool=dtc ;; cpio) tool=cpio ;; *) tool=aarch64-linux-gnu-as ;; esac
    command -v $tool >/dev/null && continue
    echo "tests: $package is not installed and could not be" >&2
    [ "${CI:-}" != true ] || exit 1
done
