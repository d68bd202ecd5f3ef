#!/bin/sh
# Runs the server as user redis, never as root, on $REDIS_PORT.
set -e
if [ "${1#-}" != "$1" ]; then
    set -- redis-server "$@"
fi
if [ "$1" = redis-server ]; then
    shift
    # A container has a wall around it and no password by default, as the official image.
    set -- redis-server --port "${REDIS_PORT:-6379}" --protected-mode no "$@"
    if [ "$(id -u)" = 0 ]; then
        find . ! -user redis -exec chown redis:redis {} +
        exec setpriv --reuid redis --regid redis --init-groups -- "$@"
    fi
fi
exec "$@"
