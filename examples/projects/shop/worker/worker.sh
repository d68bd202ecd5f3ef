#!/bin/bash
# Takes orders from the cache and writes them into the database.
set $SHELL_OPTIONS
export PGPASSWORD=$(cat /run/secrets/database_password) PGHOST=$DATABASE PGUSER=postgres PGDATABASE=shop

psql -q -c 'CREATE TABLE IF NOT EXISTS orders (id serial, text text)'
exec 3<>"/dev/tcp/$CACHE/6379"
echo "worker ready"
while true; do
    printf 'BRPOP orders 0\r\n' >&3
    read -r _ <&3; read -r _ <&3; read -r _ <&3; read -r _ <&3
    read -r order <&3
    order=${order%$'\r'}
    psql -q -v text="$order" <<<"INSERT INTO orders (text) VALUES (:'text')"
    count=$(psql -qtA -c 'SELECT count(*) FROM orders')
    printf 'SET written %s\r\n' "$count" >&3
    read -r _ <&3
    echo "wrote $order"
done
