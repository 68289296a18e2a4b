#!/bin/sh
# Installs the browser and the servers that tests drive for real, where that is allowed: Debian, as
# root. Elsewhere it says what is missing; the tests that need it are then left out with a reason,
# or fail where REQUIRE_SERVERS=1.
set -eu

missing=""
command -v chromium >/dev/null 2>&1 || missing="$missing chromium"
command -v chromedriver >/dev/null 2>&1 || missing="$missing chromium-driver"
ls /usr/lib/postgresql/*/bin/postgres >/dev/null 2>&1 || missing="$missing postgresql"
command -v mariadbd >/dev/null 2>&1 || missing="$missing mariadb-server"
command -v redis-server >/dev/null 2>&1 || missing="$missing redis-server"
command -v memcached >/dev/null 2>&1 || missing="$missing memcached"
command -v openssl >/dev/null 2>&1 || missing="$missing openssl"
[ -n "$missing" ] || exit 0

if [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null 2>&1; then
    echo "installing$missing"
    export DEBIAN_FRONTEND=noninteractive
    log=$(mktemp)
    # shellcheck disable=SC2086  # a list of packages
    if apt-get update -qq >"$log" 2>&1 && apt-get install -y -qq $missing >>"$log" 2>&1; then
        rm -f "$log"
        exit 0
    fi
    tail -n 5 "$log" >&2
fi
echo "not installed:$missing; tests that need them are left out (apt-get install$missing)" >&2
[ "${REQUIRE_SERVERS:-}" != 1 ]
