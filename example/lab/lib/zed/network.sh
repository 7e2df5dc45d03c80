# shellcheck shell=bash disable=SC2034,SC2016,SC2094,SC2153
# The network node: a namespace of its own with Neutron's Linux bridge agent and L3 agent in it. Bridges, routers,
# floating IPs, security groups and the metadata proxy are real there; the machine's own network is left alone.
# The namespace's own loopback has the services' ports too: the forwarder carries them in.

network_ml2() {
  cat <<END
[experimental]
linuxbridge = true
[ml2]
type_drivers = local,flat
tenant_network_types = local
mechanism_drivers = linuxbridge
extension_drivers = port_security
END
}

network_config() {
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
  {
    agent_conf "$ETC/neutron/agent.ini"
    printf 'polling_interval = 1\nreport_interval = 10\n'
  } >"$ETC/neutron/agent.ini"
  metadata_agent_conf >"$ETC/neutron/metadata.ini"
  forwarder_config 5000 5002 5672 8774 8775 8778 9292 9696
}

network_namespace() {
  new_namespace "$NETNS" &&
    ip -n "$NETNS" link add br-ex address "$OUTSIDE_MAC" type bridge && # else it changes with the ports
    outside_addresses
}

switch_start() { :; }

network_start() {
  [ -e "/run/netns/$NETNS" ] || network_namespace || { ip netns del "$NETNS"; die "cannot make network namespace $NETNS"; }
  local conf=(--config-file "$ETC/neutron/neutron.conf" --config-file "$ETC/neutron/agent.ini")
  forwarder_start
  # The bridge agent reads /sys/class/net, which "ip netns exec" mounts anew; the L3 agent makes namespaces that have
  # to be seen outside, so it must stay in the machine's mount namespace.
  start linuxbridge-agent ip netns exec "$NETNS" env PATH="$HERE/lib/zed/bin:$PATH" \
    neutron-linuxbridge-agent "${conf[@]}" --config-file "$ETC/neutron/linuxbridge.ini"
  start l3-agent nsenter --net="/run/netns/$NETNS" neutron-l3-agent "${conf[@]}" --config-file "$ETC/neutron/l3.ini"
  start metadata-agent neutron-metadata-agent "${conf[@]}" --config-file "$ETC/neutron/metadata.ini" ${METADATA_CONF:+--config-file "$METADATA_CONF"}
}

router_built() {
  ip -n "qrouter-$1" route | grep -q '^default' && ip -n "qrouter-$1" -6 route | grep -q '^default' &&
    in_namespace "qrouter-$1" ss -ltn | grep -q ':9697 '
}
floating_ip_works() { in_namespace "qrouter-$1" iptables-save -t nat | grep -q -- "-s $2/32 .*--to-source $3"; }
network_ready() { # once demo.json is there
  local router web='.servers["web-1"]'
  for router in $(jq -r '.routers[].id' "$STATE/demo.json"); do wait_for 60 "router $router" router_built "$router"; done
  for router in $(jq -r '.routers[].id' "$STATE/demo.json"); do wait_for 60 "metadata agent of router $router" agent_answers "X-Neutron-Router-ID: $router"; done
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

# For `instance`.
join_network() { # TAP SERVER PORT MAC NETWORK OUTER NAMESPACE INTERFACE
  local bridge=brq${5:0:11}
  [ "$6" = no ] || bridge=br-ex
  ip -n "$NETNS" link show "$bridge" >/dev/null 2>&1 || ip -n "$NETNS" link add "$bridge" type bridge || return
  ip -n "$NETNS" link set "$bridge" up &&
    ip -n "$NETNS" link set "$1" master "$bridge" up
}
leave_network() { :; } # a bridge forgets an interface that is gone
rules_set() { in_namespace "$NETNS" ip6tables -S | grep -q "tap${1:0:11}"; }
# The bridge agent sees the new tap device and sets the port's rules. Neutron may still show the port ACTIVE from before
# a restart, so look for the rules as well, those for IPv6 being the last; a port without port security has one, too.
wired() { soon 20 rules_set "$1"; } # PORT NETWORK METADATA-ADDRESS
