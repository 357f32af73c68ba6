#!/bin/sh
# What `make linux` does once the guest is fetched: boot it as a Realm, its console in this terminal. Usage: boot.sh XL
set -eu
config=${XDG_CACHE_HOME:-$HOME/.cache}/xl-realm/linux/linux-realm.cfg
echo "\$ xl create -c $config"
exec "$1" create -c "$config"
