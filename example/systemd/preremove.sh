#!/bin/sh
# Run by the deb and rpm packages before they are removed or upgraded. deb says "remove" or "upgrade", rpm says 0 when
# the last version goes. The user, /etc and /var/lib stay: tokens signed with a key of the state may still be in use.
set -eu

case ${1:-} in
remove | 0)
    if [ -d /run/systemd/system ]; then
        systemctl disable --now openstack-nova-authenticator.service
    fi
    ;;
esac
