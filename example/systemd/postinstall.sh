#!/bin/sh
# Run by the deb and rpm packages after they are installed or upgraded. The service is not enabled: it has no
# configuration yet.
set -eu

name=openstack-nova-authenticator

systemd-sysusers "$name.conf"
chgrp "$name" "/etc/$name"

# Not in an image that is being built: there is no systemd to tell.
if [ -d /run/systemd/system ]; then
    systemctl daemon-reload
    systemctl try-restart "$name.service"
fi
