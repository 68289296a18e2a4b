#!/bin/sh
# Runs what `make test` runs on every CPython from 3.11 on that is found: on PATH, or
# installed by pyenv. Django is 5.2 on 3.11, 6.0 on 3.12 and the newest on later ones.
set -eu

interpreters=""
for minor in 11 12 13 14; do
    found=$(command -v "python3.$minor" 2>/dev/null || true)
    # A pyenv shim exists for versions that are not active, and fails.
    if [ -z "$found" ] || ! "$found" -c "" >/dev/null 2>&1; then
        found=$(ls -d "${PYENV_ROOT:-$HOME/.pyenv}"/versions/3."$minor".*/bin/python 2>/dev/null | tail -n 1)
    fi
    [ -z "$found" ] || interpreters="$interpreters $found"
done
[ -n "$interpreters" ] || interpreters="${PYTHON:-python3}"

for python in $interpreters; do
    version=$("$python" -c 'import sys; print("%d.%d" % sys.version_info[:2])')
    venv=".venv-matrix-$version"
    echo "== Python $version"
    [ -e "$venv/bin/pytest" ] || {
        "$python" -m venv "$venv"
        django="django"
        [ "$version" != 3.12 ] || django="django~=6.0.0"
        "$venv/bin/pip" install --quiet --disable-pip-version-check --editable '.[test]' "$django"
    }
    "$venv/bin/pytest" -q -n "${WORKERS:-2}" -m "not slow and not soak" tests
done
