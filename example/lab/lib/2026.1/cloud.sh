# shellcheck shell=bash disable=SC2034,SC2016,SC2153
# OpenStack 2026.1 from PyPI, in a virtual environment, with ML2/OVN. All services listen on 127.0.0.1 of a network namespace.

PACKAGES="python3-venv mmdebstrap debian-archive-keyring
mariadb-server-core mariadb-client-core rabbitmq-server uwsgi-plugin-python3
haproxy iputils-ping iptables ethtool iproute2 kmod procps curl jq openssl
systemd ca-certificates"

NETNS=oslab-2026.1
SERVICES_NETNS=$NETNS
VENV=$STATE/venv OVN=$STATE/ovn # links into the cache
PYTHON=$VENV/bin/python
export PATH=$OVN/bin:$VENV/bin:$PATH
NOVA_PASTE=$VENV/etc/nova/api-paste.ini
NEUTRON_PASTE=$VENV/etc/neutron/api-paste.ini
GLANCE_PASTE=$VENV/etc/glance/glance-api-paste.ini
NEUTRON_ROUTER=ovn-router
KEYSTONE_PROCESSES=1 # of four threads
AGENTS="ovn-controller neutron-ovn-agent" # as Neutron calls them when they are alive
DEMO_DHCP=yes    # OVN's; a network's metadata port has an address only with it
NEW_POLICY=true # Nova's default
SERVICES="federation ovn-agent nova-compute nova-api nova-metadata nova-scheduler nova-conductor neutron-api glance-api placement
keystone ovn-controller ovn-northd"
PORTS="mariadb:3306 rabbitmq:5672 keystone:5000 placement:8778 nova-api:8774 nova-metadata:8775 neutron-api:9696 glance-api:9292
ovsdb-conf:6640 ovsdb-nb:6641 ovsdb-sb:6642"

# What takes long to install is shared by all state folders of a user, by what it is made of. A folder without the file
# `complete` is what an interrupted up has left.
CACHE=${XDG_CACHE_HOME:-${HOME:-/root}/.cache}/openstack-nova-authenticator

cached() { # LINK NAME COMMAND...: COMMAND makes the folder that its last argument is, unless it is there; LINK leads to it
  local link=$1 folder=$CACHE/$2 log=$LOG/install-$2.log; shift 2
  if [ ! -e "$folder/complete" ]; then
    mkdir -p "$CACHE"
    exec 8>"$CACHE/.lock"
    flock -w 1200 8 || die "another up is installing into $CACHE"
    if [ ! -e "$folder/complete" ]; then
      say "installing into $folder"
      rm -rf "$folder"
      "$@" "$folder" >"$log" 2>&1 8>&- || die "installing failed; see $log"
      touch "$folder/complete"
    fi
    exec 8>&-
  fi
  ln -sfn "$folder" "$link"
}

install_venv() { # FOLDER
  local lock=$HERE/lib/2026.1/requirements.txt
  /usr/bin/python3 -m venv "$1" || return
  # What the source packages among them are built with, first.
  grep -E '^(setuptools|wheel|pbr)==' "$lock" >"$1/build.txt" &&
    timeout 300 "$1/bin/pip" install --no-input --no-deps --require-hashes --only-binary :all: -r "$1/build.txt" &&
    timeout 900 "$1/bin/pip" install --no-input --no-deps --require-hashes --no-build-isolation -r "$lock" &&
    "$1/bin/pip" check
}

# Debian 13's Open vSwitch and OVN, unpacked and run with their own loader and libraries. Debian 12's Open vSwitch 3.1 ends in
# an assertion of its connection tracking when a guest uses a port again.
install_ovn() { # FOLDER
  local file root=$1/root
  mkdir -p "$1/bin"
  timeout 900 mmdebstrap --quiet --variant=extract --include=openvswitch-switch,ovn-host,ovn-central trixie "$root" || return
  for file in "$root"/usr/bin/ov[sn]* "$root"/usr/sbin/ovsdb-server "$root"/usr/bin/ovsdb-* "$root"/usr/lib/openvswitch-switch/ovs-vswitchd; do
    [ "$(head -c 4 "$file" | tail -c 3)" = ELF ] || continue
    printf '#!/bin/sh\nexec %s/usr/lib64/ld-linux-x86-64.so.2 --library-path %s/usr/lib/x86_64-linux-gnu %s "$@"\n' \
      "$root" "$root" "$file" >"$1/bin/${file##*/}"
    chmod +x "$1/bin/${file##*/}"
  done
  "$1/bin/ovs-vswitchd" --version && "$1/bin/ovn-controller" --version
}

cloud_install() {
  [ "$(dpkg --print-architecture)" = amd64 ] || die "the lock file is for amd64"
  [ -c /dev/net/tun ] || die "there is no /dev/net/tun"
  cached "$VENV" "openstack-2026.1-$(sha256sum <"$HERE/lib/2026.1/requirements.txt" | cut -c1-16)" install_venv
  cached "$OVN" ovn-debian-13 install_ovn
  ln -sfn "$VENV/bin/openstack" "$STATE/bin/openstack"
}

wsgi_app() {
  local module
  case $1 in
    keystone) module=keystone.wsgi.api ;;
    placement) module=placement.wsgi.api ;;
    glance-api) module=glance.wsgi.api ;;
    nova-api) module=nova.wsgi.osapi_compute ;;
    nova-metadata) module=nova.wsgi.metadata ;;
    neutron-api) module=neutron.wsgi.api ;;
  esac
  # Neutron's wants to know when uWSGI was started.
  printf 'virtualenv = %s\nmodule = %s:application\nthreads = 4\nenable-threads = true\nstart-time = %%t\n' "$VENV" "$module"
}
nova_api_start() {
  local name port
  cp "$NOVA_PASTE" "$ETC/nova/api-paste.ini" # the first file is taken for the one of Paste
  for name in nova-api:8774 nova-metadata:8775; do
    port=${name#*:} name=${name%:*}
    start_wsgi "$name" "$port" 1 "" OS_NOVA_CONFIG_DIR="$ETC/nova" OS_NOVA_CONFIG_FILES="api-paste.ini;nova.conf;nova-db.conf"
  done
}
# Without its workers for remote calls, periodic tasks and OVN's maintenance (650 MiB), none of which this cloud needs.
neutron_start() {
  start_wsgi neutron-api 9696 1 "" OS_NEUTRON_CONFIG_DIR="$ETC/neutron" OS_NEUTRON_CONFIG_FILES=neutron.conf
}
glance_start() { start_wsgi glance-api 9292 1 "" OS_GLANCE_CONFIG_DIR="$ETC/glance"; }
