# shellcheck shell=bash disable=SC2153
# Keystone once more, behind Apache with what example/consumers/keystone has, where instances reach it:
# http://172.24.4.1:5001/v3. Only if FEDERATION_ISSUER says whose tokens it takes.

FEDERATION_FILES=$HERE/../consumers/keystone
# Outside the state folder, which may be closed to Apache's user.
FEDERATION_BUNDLE=/run/$NETNS-federation-ca.pem

federation_packages() {
  [ -z "$FEDERATION_ISSUER" ] || PACKAGES="$PACKAGES apache2-bin libapache2-mod-auth-openidc"
}

# For Keystone: what it takes claims from, and a port for Apache.
federation_keystone_config() {
  [ -z "$FEDERATION_ISSUER" ] || cat "$FEDERATION_FILES/keystone-federation.conf" >>"$ETC/keystone/keystone.conf"
}
federation_keystone_socket() {
  [ -z "$FEDERATION_ISSUER" ] || echo "socket = 127.0.0.1:5002"
}

federation_start() {
  [ -n "$FEDERATION_ISSUER" ] || return 0
  local module modules=/usr/lib/apache2/modules
  mkdir -p "$ETC/apache" "$RUN/apache"
  install -m 644 "${FEDERATION_CA:-/etc/ssl/certs/ca-certificates.crt}" "$FEDERATION_BUNDLE" || die "no CA for the federation"
  sed -e "s#https://id.example.com#$FEDERATION_ISSUER#g" \
    -e "s#^OIDCCABundlePath .*#OIDCCABundlePath $FEDERATION_BUNDLE#" \
    "$FEDERATION_FILES/apache/mod-auth-openidc.conf" >"$ETC/apache/federation.conf"
  {
    printf 'ServerRoot %s\nServerName %s\nDefaultRuntimeDir %s\nPidFile %s/apache.pid\n' "$ETC/apache" "$OUTSIDE4" "$RUN/apache" "$RUN/apache"
    for module in mpm_event authz_core authz_user authn_core proxy proxy_uwsgi auth_openidc; do
      printf 'LoadModule %s_module %s/mod_%s.so\n' "$module" "$modules" "$module"
    done
    printf 'User www-data\nGroup www-data\nErrorLog /dev/stderr\nListen %s:5001\n' "$OUTSIDE4"
    # In a cloud whose services are not in this namespace, that is its forwarder.
    printf 'ProxyPass / uwsgi://127.0.0.1:5002/\nInclude %s\n' "$ETC/apache/federation.conf"
  } >"$ETC/apache/apache.conf"
  start federation nsenter --net="/run/netns/$NETNS" /usr/sbin/apache2 -f "$ETC/apache/apache.conf" -DFOREGROUND
}
