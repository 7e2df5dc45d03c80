# shellcheck shell=bash disable=SC2034,SC2016,SC2094,SC2153
# Open vSwitch in user space, OVN and Neutron's OVN agent, in the cloud's namespace: OVN is router, NAT, security groups,
# anti-spoofing and DHCP. The agent makes a namespace ovnmeta-NETWORK with a metadata proxy for each network with an instance.

export OVS_RUNDIR=$RUN OVN_RUNDIR=$RUN OVS_LOGDIR=$LOG OVN_LOGDIR=$LOG OVS_DBDIR=$DATA OVN_DBDIR=$DATA
export OVS_PKGDATADIR=$OVN/root/usr/share/openvswitch OVN_PKGDATADIR=$OVN/root/usr/share/ovn
export OVN_NB_DB=unix:$RUN/ovsdb-nb.sock OVN_SB_DB=unix:$RUN/ovsdb-sb.sock
vsctl() { ovs-vsctl --timeout=20 "$@"; }
nbctl() { ovn-nbctl --timeout=20 "$@"; }
sbctl() { ovn-sbctl --timeout=20 "$@"; }

network_ml2() {
  cat <<END
[ml2]
type_drivers = geneve,flat
tenant_network_types = geneve
mechanism_drivers = ovn
extension_drivers = port_security
overlay_ip_version = 4
[ml2_type_geneve]
vni_ranges = 1:65536
max_header_size = 38
[ovn]
ovn_nb_connection = tcp:127.0.0.1:6641
ovn_sb_connection = tcp:127.0.0.1:6642
ovn_metadata_enabled = true
END
}

network_config() {
  {
    metadata_agent_conf
    cat <<END
[agent]
extensions = metadata
[ovs]
ovsdb_connection = tcp:127.0.0.1:6640
END
    agent_conf "$ETC/neutron/ovn-agent.ini"
  } >"$ETC/neutron/ovn-agent.ini"
  forwarder_config
}

network_namespace() {
  rm -f "$DATA/ovsdb-conf.db" # it names interfaces that are no more
  new_namespace "$NETNS"
}

ovsdb_start() { # NAME SCHEMA SOCKET PORT
  [ -e "$DATA/ovsdb-$1.db" ] || ovsdb-tool create "$DATA/ovsdb-$1.db" "$2" || die "no database $1"
  start "ovsdb-$1" ovsdb-server "$DATA/ovsdb-$1.db" --remote="punix:$RUN/$3" --remote="ptcp:$4:127.0.0.1" \
    --unixctl="$RUN/ovsdb-$1.ctl" -vconsole:info -vsyslog:off
}
br_ex() { ip -n "$NETNS" link show br-ex; }

# Before Neutron's server, which wants OVN's databases.
switch_start() {
  ovsdb_start conf "$OVS_PKGDATADIR/vswitch.ovsschema" db.sock 6640
  ovsdb_start nb "$OVN_PKGDATADIR/ovn-nb.ovsschema" ovsdb-nb.sock 6641
  ovsdb_start sb "$OVN_PKGDATADIR/ovn-sb.ovsschema" ovsdb-sb.sock 6642
  wait_for 30 "Open vSwitch's database" vsctl --no-wait init
  vsctl --no-wait set open_vswitch . external-ids:system-id=lab external-ids:hostname=lab external-ids:ovn-remote=tcp:127.0.0.1:6642 \
    external-ids:ovn-encap-type=geneve external-ids:ovn-encap-ip=127.0.0.1 external-ids:ovn-bridge=br-int \
    external-ids:ovn-bridge-datapath-type=netdev external-ids:ovn-bridge-mappings=public:br-ex \
    external-ids:ovn-cms-options=enable-chassis-as-gw external-ids:ovn-monitor-all=true \
    -- --may-exist add-br br-int -- set bridge br-int datapath_type=netdev fail-mode=secure \
    -- --may-exist add-br br-ex -- set bridge br-ex datapath_type=netdev "other-config:hwaddr=\"$OUTSIDE_MAC\"" ||
    die "no bridges; see $LOG"
  start vswitchd ovs-vswitchd "unix:$RUN/db.sock" --unixctl="$RUN/vswitchd.ctl" -vconsole:info -vsyslog:off
  start ovn-northd ovn-northd --unixctl="$RUN/ovn-northd.ctl" -vconsole:info -vsyslog:off
  start ovn-controller ovn-controller "unix:$RUN/db.sock" -vconsole:info -vsyslog:off
  wait_for 30 "bridge br-ex" br_ex
  outside_addresses || die "no addresses on br-ex"
}

chassis_known() { sbctl --bare --columns=name find Chassis_Private name=lab | grep -q .; }

network_start() {
  local limits path=$PATH
  limits=$(cd "$HERE/../metadata-service/agent-limits" && pwd) || die "no agent-limits"
  forwarder_start
  wait_for 60 "chassis (ovn-controller)" chassis_known # without it the agent ends, half
  [ "$AGENT_LIMITS" = no ] || path=$limits:$PATH
  if ! alive ovn-agent; then
    # Its proxies run on without it, and as they were started.
    if [ "$(cat "$RUN/agent-limits" 2>/dev/null || echo "$AGENT_LIMITS")" != "$AGENT_LIMITS" ]; then proxies_stop; fi
    echo "$AGENT_LIMITS" >"$RUN/agent-limits"
  fi
  start ovn-agent env PATH="$path" NEUTRON_HAPROXY_LIMITS="$limits/agent-limits.cfg" neutron-ovn-agent \
    --config-file "$ETC/neutron/neutron.conf" --config-file "$ETC/neutron/ovn-agent.ini" ${METADATA_CONF:+--config-file "$METADATA_CONF"}
}

metadata_namespaces() {
  local ns
  for ns in $(ip netns list | cut -d' ' -f1); do
    case $ns in ovnmeta-*) ! our_namespace "$ns" || echo "$ns" ;; esac
  done
}
proxies_stop() {
  local ns pid
  for ns in $(metadata_namespaces); do
    for pid in $(ip netns pids "$ns"); do kill -KILL "$pid"; done
  done
}

# Open vSwitch in user space sees frames as they are sent: without a card that would add checksums and cut large segments.
software_checksums() { # NAMESPACE INTERFACE
  in_namespace "$1" ethtool -K "$2" tx off >/dev/null
}
# The metadata proxy of a network, for IPv4 and IPv6.
proxy_ready() { # NAMESPACE
  local interface
  [ "$(in_namespace "$1" ss -Hltn 'sport = :80' | wc -l)" = 2 ] || return
  for interface in $(in_namespace "$1" ls /proc/self/net/dev_snmp6); do
    case $interface in tap*) software_checksums "$1" "$interface" || return ;; esac
  done
}

router_answers() { in_cloud ping -c 1 -W 1 "$1"; }
floating_ip_known() { [ "$(nbctl --bare --columns=type find NAT external_ip="$1" logical_ip="$2")" = dnat_and_snat ]; }
flows_set() { nbctl --wait=hv sync; }
network_ready() { # once demo.json is there
  local address ns web='.servers["web-1"]'
  for address in $(jq -r '.routers[] | .v4, .v6' "$STATE/demo.json"); do wait_for 60 "router $address" router_answers "$address"; done
  wait_for 60 "metadata agent" agent_answers "X-OVN-Network-ID: $(jq -r .networks.workloads "$STATE/demo.json")"
  wait_for 60 "floating IP" floating_ip_known "$(jq -r "$web.floating_ip" "$STATE/demo.json")" "$(jq -r "$web.fixed_ips.v4" "$STATE/demo.json")"
  wait_for 60 "flows" flows_set
  for ns in $(metadata_namespaces); do wait_for 60 "metadata proxy in $ns" proxy_ready "$ns"; done
}

# For `instance`.
join_network() { # TAP SERVER PORT MAC NETWORK OUTER NAMESPACE INTERFACE
  software_checksums "$7" "$8" &&
    ip -n "$NETNS" link set "$1" up &&
    vsctl --may-exist add-port br-int "$1" -- set interface "$1" "external-ids:iface-id=$3" "external-ids:attached-mac=\"$4\"" \
      external-ids:iface-status=active "external-ids:vm-uuid=$2"
}
leave_network() { vsctl --if-exists del-port br-int "$1"; } # TAP
bound() { [ "$(sbctl --bare --columns=up find Port_Binding logical_port="$1")" = true ]; }
wired() { # PORT NETWORK METADATA-ADDRESS
  soon 20 bound "$1" && { [ "$3" = - ] || soon 30 proxy_ready "ovnmeta-$2"; } && flows_set
}

# A namespace is ours if `up` or `instance` said so, or if our OVN agent has made it.
our_namespace() {
  case $1 in
    "$NETNS") true ;;
    vm-*) [ -e "$RUN/$1" ] ;;
    ovnmeta-*) [ -e "$DATA/neutron/ovn-metadata-proxy/${1#ovnmeta-}.conf" ] ;;
    *) false ;;
  esac
}
