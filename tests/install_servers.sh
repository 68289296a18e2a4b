#!/bin/sh
# Installs the browser and the servers that tests drive for real, or of them the packages that are
# named, where that is allowed: Debian, as root; and by npm, where that is there, an emulator of
# DynamoDB into tests/node. Elsewhere it says what is missing; the tests that need it are then left
# out with a reason, or fail where REQUIRE_SERVERS=1.
set -eu

wanted="$*"
missing=""
needs() { # PACKAGE, and a glob of what it installs or a command
    case " ${wanted:-$1} " in *" $1 "*) ;; *) return 0 ;; esac
    # shellcheck disable=SC2086  # a glob
    command -v "$2" >/dev/null 2>&1 || ls $2 >/dev/null 2>&1 || missing="$missing $1"
}
asked_for() { # the same, but only where the package is named
    case " $wanted " in *" $1 "*) needs "$@" ;; esac
}

needs chromium chromium
needs chromium-driver chromedriver
needs postgresql "/usr/lib/postgresql/*/bin/postgres"
needs pgbouncer pgbouncer
needs mariadb-server mariadbd
needs redis-server redis-server
needs memcached memcached
needs xmlsec1 xmlsec1
needs openssl openssl
needs nginx nginx
needs nodejs node
asked_for firefox-esr firefox-esr
asked_for haproxy haproxy
asked_for varnish varnishd
asked_for apache2 apache2
asked_for squid squid
asked_for prometheus prometheus

left_out=""
if [ -n "$missing" ]; then
    left_out="not installed:$missing; what needs them is left out (apt-get install$missing)"
    if [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null 2>&1; then
        echo "installing$missing"
        export DEBIAN_FRONTEND=noninteractive
        log=$(mktemp)
        # shellcheck disable=SC2086  # a list of packages
        if apt-get update -qq >"$log" 2>&1 && apt-get install -y -qq $missing >>"$log" 2>&1; then
            left_out=""
        else
            tail -n 5 "$log" >&2
        fi
        rm -f "$log"
    fi
    [ -z "$left_out" ] || echo "$left_out" >&2
fi

# An emulator of DynamoDB, which has no package in Debian.
node=$(dirname "$0")/node
case " ${wanted:-dynalite} " in *" dynalite "*)
    if [ ! -x "$node/node_modules/.bin/dynalite" ] && ! { command -v npm >/dev/null 2>&1 &&
        npm install --prefix "$node" --silent --no-audit --no-fund --no-package-lock; }; then
        left_out="not installed: dynalite; what needs it is left out (npm install --prefix $node)"
        echo "$left_out" >&2
    fi
    ;;
esac
[ -z "$left_out" ] || [ "${REQUIRE_SERVERS:-}" != 1 ]
