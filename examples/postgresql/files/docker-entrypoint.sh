#!/bin/bash
# Makes a database in $PGDATA when there is none, then runs the server as user postgres.
#
#   POSTGRES_PASSWORD            the superuser's password; needed at the first start
#   POSTGRES_HOST_AUTH_METHOD    `trust` does without a password
#   POSTGRES_USER, POSTGRES_DB   the superuser and the database; `postgres`
#   PGPORT                       5432
#   /docker-entrypoint-initdb.d  *.sql and *.sh here run once, after the database is made
set -euo pipefail

if [ "${1:0:1}" = - ]; then
    set -- postgres "$@"
fi
if [ "${1:-}" != postgres ]; then
    exec "$@"
fi

if [ "$(id -u)" = 0 ]; then
    mkdir -p "$PGDATA" /run/postgresql
    find "$PGDATA" ! -user postgres -exec chown postgres {} +
    chmod 700 "$PGDATA"
    chown postgres:postgres /run/postgresql
    exec setpriv --reuid postgres --regid postgres --init-groups -- "$0" "$@"
fi

user=${POSTGRES_USER:-postgres}
database=${POSTGRES_DB:-$user}
if ! [ -s "$PGDATA/PG_VERSION" ]; then
    password=${POSTGRES_PASSWORD:-}
    method=${POSTGRES_HOST_AUTH_METHOD:-scram-sha-256}
    if [ -z "$password" ] && [ "$method" != trust ]; then
        echo "the database needs a password: -e POSTGRES_PASSWORD=…," \
            "or -e POSTGRES_HOST_AUTH_METHOD=trust to let everybody in" >&2
        exit 1
    fi
    # initdb refuses an empty file: without a password there is no such option.
    arguments=(--username="$user" --auth-local=trust --auth-host="$method")
    if [ -n "$password" ]; then
        file=$(mktemp)
        printf '%s\n' "$password" > "$file"
        arguments+=(--pwfile="$file")
    fi
    initdb "${arguments[@]}"
    rm -f "${file:-}"
    {
        echo "jit = off"
        echo "listen_addresses = '*'"
    } >> "$PGDATA/postgresql.conf"
    echo "host all all all $method" >> "$PGDATA/pg_hba.conf"

    # Only the local socket while the database is not complete.
    pg_ctl --wait --options="-c listen_addresses='' -p ${PGPORT:-5432}" start
    if [ "$database" != postgres ]; then
        createdb --username="$user" "$database"
    fi
    for file in /docker-entrypoint-initdb.d/*; do
        case $file in
            *.sh) bash "$file" ;;
            *.sql) psql --no-psqlrc --set=ON_ERROR_STOP=1 --username="$user" --dbname="$database" --file="$file" ;;
        esac
    done
    pg_ctl --wait --mode=fast stop >/dev/null
fi
exec "$@"
