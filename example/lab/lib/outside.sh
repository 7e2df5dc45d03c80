# shellcheck shell=bash disable=SC2034,SC2153
# The "outside world" that floating IPs are on: the interface br-ex of $NETNS.

OUTSIDE4=172.24.4.1 OUTSIDE6=fd24::1 OUTSIDE_MAC=02:00:ac:18:04:01
# What is routed back: nothing translates IPv6 addresses. The routers' addresses are those that lib/demo.py gives them.
ROUTES6="fd20::/64,fd24::2 fd30::/64,fd24::3 fd31::/64,fd24::3"
outside_addresses() {
  local route
  in_namespace "$NETNS" sysctl -qw net.ipv6.conf.br-ex.disable_ipv6=0 net.ipv6.conf.br-ex.accept_dad=0 \
    net.ipv6.conf.br-ex.accept_ra=0 &&
    ip -n "$NETNS" addr replace "$OUTSIDE4/24" dev br-ex &&
    ip -n "$NETNS" addr replace "$OUTSIDE6/64" dev br-ex nodad &&
    ip -n "$NETNS" link set br-ex up || return
  for route in $ROUTES6; do
    ip -n "$NETNS" -6 route replace "${route%,*}" via "${route#*,}" dev br-ex || return
  done
}

# Asks the metadata agent as its proxy does. 404 means that it listens, and that Neutron's server or OVN's database told it
# that no port has this address: before that, instances get 503 from the proxy or 500 from the agent.
agent_answers() { # HEADER that names the router or the network
  [ "$(curl -s -o /dev/null -m 10 -w '%{http_code}' --unix-socket "$DATA/neutron/metadata_proxy" \
    -H 'X-Forwarded-For: 127.0.0.1' -H "$1" http://169.254.169.254/)" = 404 ]
}

# Ends what runs in the lab's namespaces (the agents leave their metadata proxies behind) and removes them. our_namespace of
# the cloud says which they are.
network_clean() {
  local ns pid
  for ns in $(ip netns list | cut -d' ' -f1); do
    our_namespace "$ns" || continue
    for pid in $(ip netns pids "$ns" 2>/dev/null); do kill -KILL "$pid" 2>/dev/null; done
    ip netns del "$ns"
  done
  rm -f "$RUN"/instance-* "$RUN"/vm-*
  if [ -e "$RUN/netns-mount" ] && [ -z "$(ls /run/netns)" ]; then umount /run/netns; fi
  rm -f "$RUN/netns-mount"
}

# The forwarder: $OUTSIDE4:8791 is a reverse proxy to port 8790 of where the services are that adds X-Forwarded-For. Of
# services that are not in $NETNS, it carries the ports given here into it.
forwarder_config() { # PORT...
  local port
  mkdir -p "$ETC/haproxy"
  {
    cat <<END
global
  maxconn 1000
defaults
  mode tcp
  timeout connect 5s
  timeout client 1d
  timeout server 1d
END
    for port; do
      printf 'listen port%s\n  bind 127.0.0.1:%s namespace %s\n  server here 127.0.0.1:%s\n' "$port" "$port" "$NETNS" "$port"
    done
    cat <<END
listen proxied
  mode http
  option forwardfor
  bind $OUTSIDE4:8791 namespace $NETNS
  server here 127.0.0.1:8790
END
  } >"$ETC/haproxy/haproxy.cfg"
}
forwarder_start() { start forwarder haproxy -db -f "$ETC/haproxy/haproxy.cfg"; }
