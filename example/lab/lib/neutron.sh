# shellcheck shell=bash disable=SC2034,SC2016,SC2153
# Neutron: networks. http://127.0.0.1:9696

neutron_config() {
  service_dirs neutron
  {
    cat <<END
[DEFAULT]
use_stderr = true
host = lab
state_path = $DATA/neutron
bind_host = 127.0.0.1
bind_port = 9696
api_workers = 1
rpc_workers = 1
rpc_state_report_workers = 0
api_paste_config = /usr/share/neutron-common/api-paste.ini
auth_strategy = keystone
core_plugin = ml2
service_plugins = router
transport_url = rabbit://guest:guest@127.0.0.1:5672/
notify_nova_on_port_status_changes = true
notify_nova_on_port_data_changes = true
dhcp_agent_notification = false
[experimental]
linuxbridge = true
[database]
connection = $(db_url neutron)
[nova]
$(service_login nova)

[ml2]
type_drivers = local,flat
tenant_network_types = local
mechanism_drivers = linuxbridge
extension_drivers = port_security
[ml2_type_flat]
flat_networks = public
[securitygroup]
enable_security_group = true

END
    common_conf neutron network
  } >"$ETC/neutron/neutron.conf"
}

neutron_init() { neutron-db-manage --config-file "$ETC/neutron/neutron.conf" upgrade heads; }

neutron_start() { start neutron-server neutron-server --config-file "$ETC/neutron/neutron.conf"; }

neutron_ready() { wait_for 60 neutron http_ok http://127.0.0.1:9696/; }
