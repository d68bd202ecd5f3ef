#!/bin/sh
# Puts $NGINX_PORT into the configuration, then becomes the program given.
set -e
sed "s/\${NGINX_PORT}/${NGINX_PORT:-80}/g" /etc/nginx/templates/default.conf.template \
    > /etc/nginx/conf.d/default.conf
exec "$@"
