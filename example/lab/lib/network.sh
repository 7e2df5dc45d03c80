# shellcheck shell=bash disable=SC2034,SC2016,SC2153
# The network node: a namespace of its own with Neutron's Linux bridge agent and L3 agent in it. Bridges, routers,
# floating IPs, security groups and the metadata proxy are real there; the machine's own network is left alone.
#   br-ex, with $OUTSIDE4 and $OUTSIDE6 in $NETNS, is the "outside world" that floating IPs are on.
# The namespace's own loopback has the services' ports too (haproxy carries them in), and $OUTSIDE4:8791 is a
# reverse proxy to port 8790 on the machine's loopback that adds X-Forwarded-For.

network_config() {
  local port
  cat >"$ETC/neutron/linuxbridge.ini" <<END
[linux_bridge]
bridge_mappings = public:br-ex
[vxlan]
enable_vxlan = false
[securitygroup]
enable_security_group = true
firewall_driver = $NEUTRON_FIREWALL
END
  cat >"$ETC/neutron/l3.ini" <<END
[DEFAULT]
interface_driver = linuxbridge
END
  cat >"$ETC/neutron/agent.ini" <<END
[AGENT]
root_helper =
polling_interval = 1
report_interval = 10
$(for section in privsep privsep_namespace privsep_conntrack privsep_link privsep_dhcp_release privsep_ovs_vsctl; do
    printf '[%s]\nhelper_command = privsep-helper --config-file %s --config-file %s\n' "$section" "$ETC/neutron/neutron.conf" "$ETC/neutron/agent.ini"
  done)
END
  cat >"$ETC/neutron/metadata.ini" <<END
[DEFAULT]
nova_metadata_host = $METADATA_HOST
nova_metadata_port = $METADATA_PORT
metadata_proxy_shared_secret = $METADATA_SECRET
metadata_workers = 0
END
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
    for port in 5000 5002 5672 8774 8775 8778 9292 9696; do
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

# What is routed back: nothing translates IPv6 addresses. The routers' addresses are those that lib/demo.py gives them.
ROUTES6="fd20::/64,fd24::2 fd30::/64,fd24::3 fd31::/64,fd24::3"

network_namespace() {
  local route
  mountpoint -q /run/netns || touch "$RUN/netns-mount" # for network_clean: ip is about to mount it
  ip netns add "$NETNS" &&
    ip -n "$NETNS" link set lo up &&
    ip -n "$NETNS" link add br-ex address 02:00:ac:18:04:01 type bridge && # else it changes with the ports
    in_namespace "$NETNS" sysctl -qw net.ipv6.conf.br-ex.disable_ipv6=0 net.ipv6.conf.br-ex.accept_dad=0 \
      net.ipv6.conf.br-ex.accept_ra=0 &&
    ip -n "$NETNS" addr add "$OUTSIDE4/24" dev br-ex &&
    ip -n "$NETNS" addr add "$OUTSIDE6/64" dev br-ex nodad &&
    ip -n "$NETNS" link set br-ex up || return
  for route in $ROUTES6; do
    ip -n "$NETNS" -6 route add "${route%,*}" via "${route#*,}" dev br-ex || return
  done
}

network_start() {
  [ -e "/run/netns/$NETNS" ] || network_namespace || { ip netns del "$NETNS"; die "cannot make network namespace $NETNS"; }
  local conf=(--config-file "$ETC/neutron/neutron.conf" --config-file "$ETC/neutron/agent.ini")
  start forwarder haproxy -db -f "$ETC/haproxy/haproxy.cfg"
  # The bridge agent reads /sys/class/net, which "ip netns exec" mounts anew; the L3 agent makes namespaces that have
  # to be seen outside, so it must stay in the machine's mount namespace.
  start linuxbridge-agent ip netns exec "$NETNS" env PATH="$HERE/lib/bin:$PATH" \
    neutron-linuxbridge-agent "${conf[@]}" --config-file "$ETC/neutron/linuxbridge.ini"
  start l3-agent nsenter --net="/run/netns/$NETNS" neutron-l3-agent "${conf[@]}" --config-file "$ETC/neutron/l3.ini"
  start metadata-agent neutron-metadata-agent "${conf[@]}" --config-file "$ETC/neutron/metadata.ini" ${METADATA_CONF:+--config-file "$METADATA_CONF"}
}

router_built() {
  ip -n "qrouter-$1" route | grep -q '^default' && ip -n "qrouter-$1" -6 route | grep -q '^default' &&
    in_namespace "qrouter-$1" ss -ltn | grep -q ':9697 '
}
# Asks the agent as a router's proxy does. 404 means that it listens, and that Neutron's server told it that no port has
# this address: before that, instances get 503 from the proxy or 500 from the agent.
agent_answers() {
  [ "$(curl -s -o /dev/null -m 10 -w '%{http_code}' --unix-socket "$DATA/neutron/metadata_proxy" \
    -H 'X-Forwarded-For: 127.0.0.1' -H "X-Neutron-Router-ID: $1" http://169.254.169.254/)" = 404 ]
}
floating_ip_works() { in_namespace "qrouter-$1" iptables-save -t nat | grep -q -- "-s $2/32 .*--to-source $3"; }
network_ready() { # once demo.json is there
  local router web='.servers["web-1"]'
  for router in $(jq -r '.routers[].id' "$STATE/demo.json"); do wait_for 60 "router $router" router_built "$router"; done
  for router in $(jq -r '.routers[].id' "$STATE/demo.json"); do wait_for 60 "metadata agent of router $router" agent_answers "$router"; done
  wait_for 60 "floating IP" floating_ip_works "$(jq -r .routers.workloads.id "$STATE/demo.json")" \
    "$(jq -r "$web.fixed_ips.v4" "$STATE/demo.json")" "$(jq -r "$web.floating_ip" "$STATE/demo.json")"
}

# A namespace is ours if `up` or `instance` said so, or if it is a router that our L3 agent has set rules in.
our_namespace() {
  case $1 in
    "$NETNS") true ;;
    vm-*) [ -e "$RUN/$1" ] ;;
    qrouter-*) [ -e "$DATA/neutron/lock/neutron-iptables-$1" ] ;;
    *) false ;;
  esac
}

# Ends what runs in the lab's namespaces (the agents leave their metadata proxies behind) and removes them.
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
