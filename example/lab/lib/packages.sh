# shellcheck shell=bash disable=SC2034,SC2016,SC2153
# Debian's packages. The libraries (python3-nova, ...) rather than the daemons' packages:
# those pull in libvirt and QEMU and try to configure and start services.
PACKAGES="python3-keystone python3-nova nova-common python3-neutron neutron-common
python3-glance glance-common python3-placement python3-openstackclient
mariadb-server-core mariadb-client-core rabbitmq-server uwsgi-plugin-python3
haproxy radvd iputils-arping iputils-ping iptables ebtables bridge-utils conntrack ipset iproute2 kmod procps curl jq openssl
systemd ca-certificates"

install_packages() {
  local missing policy=/usr/sbin/policy-rc.d
  missing=$(for p in $PACKAGES; do dpkg-query -W -f='${Status}' "$p" 2>/dev/null | grep -q '^install ok installed' || echo "$p"; done)
  [ -z "$missing" ] && return
  say "installing packages"
  if [ ! -e $policy ]; then # keep the packages from starting services
    printf '#!/bin/sh\nexit 101\n' >$policy
    chmod +x $policy
    trap 'rm -f /usr/sbin/policy-rc.d' EXIT
  fi
  export DEBIAN_FRONTEND=noninteractive
  {
    apt-get -q -o DPkg::Lock::Timeout=600 update
    # shellcheck disable=SC2086
    apt-get -y -q -o DPkg::Lock::Timeout=600 -o Dpkg::Options::=--force-unsafe-io \
      install --no-install-recommends $missing
  } >"$LOG/packages.log" 2>&1 || die "apt-get failed; see $LOG/packages.log"
}
