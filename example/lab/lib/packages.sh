# shellcheck shell=bash
# Debian's packages, those of $PACKAGES that are missing.

install_packages() {
  local installed missing policy=/usr/sbin/policy-rc.d
  # shellcheck disable=SC2086
  installed=$(dpkg-query -W -f='${Package} ${Status}\n' $PACKAGES 2>/dev/null | sed -n 's/ install ok installed$//p')
  # shellcheck disable=SC2086
  missing=$(printf '%s\n' $PACKAGES | grep -vxF "$installed")
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
