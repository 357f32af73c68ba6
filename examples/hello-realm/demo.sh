#!/bin/sh
# What `make demo` shows: a Realm from create to power-off, with two lines typed into its console. Usage: demo.sh XL
set -eu
xl=$1
cd "$(dirname "$0")/../.."
running=$("$xl" daemon status >/dev/null 2>&1 && echo yes || echo no)
echo "\$ xl create -c examples/hello-realm/hello-realm.cfg"
status=0
printf 'Hello from the host\nquit\n' | "$xl" create -c examples/hello-realm/hello-realm.cfg || status=$?
[ "$running" = yes ] || "$xl" daemon stop
exit $status
