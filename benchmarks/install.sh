#!/bin/sh
# What the benchmarks use beside Python's packages, where it may be installed: the peers that need
# Node, by npm into benchmarks/node/node_modules, and a load generator, by apt as root on Debian.
# What is not there is left out of the tables, with a line that says so.
set -eu
cd "$(dirname "$0")"

if command -v npm >/dev/null 2>&1; then
    [ -d node/node_modules ] || npm install --prefix node --silent --no-audit --no-fund ||
        echo "npm could not install the peers that need Node" >&2
else
    echo "not installed: npm; iron-session and Auth.js are left out" >&2
fi

if ! command -v wrk >/dev/null 2>&1; then
    if [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null 2>&1; then
        apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -y -qq wrk >/dev/null ||
            echo "apt-get could not install wrk" >&2
    else
        echo "not installed: wrk; nothing is measured behind gunicorn" >&2
    fi
fi
