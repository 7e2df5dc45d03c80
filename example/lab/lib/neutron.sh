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
api_paste_config = $NEUTRON_PASTE
auth_strategy = keystone
core_plugin = ml2
service_plugins = $NEUTRON_ROUTER
transport_url = rabbit://guest:guest@127.0.0.1:5672/
notify_nova_on_port_status_changes = true
notify_nova_on_port_data_changes = true
dhcp_agent_notification = false
[database]
connection = $(db_url neutron)
[nova]
$(service_login nova)

$(network_ml2)
[ml2_type_flat]
flat_networks = public
[securitygroup]
enable_security_group = true

END
    common_conf neutron network
  } >"$ETC/neutron/neutron.conf"
}

neutron_init() { neutron-db-manage --config-file "$ETC/neutron/neutron.conf" upgrade heads; }

neutron_ready() { wait_for 60 neutron http_ok http://127.0.0.1:9696/; }

# What any agent is told. It ends in the section [AGENT].
agent_conf() { # FILE that it goes to
  local section
  for section in privsep privsep_namespace privsep_conntrack privsep_link privsep_dhcp_release privsep_ovs_vsctl; do
    printf '[%s]\nhelper_command = privsep-helper --config-file %s --config-file %s\n' "$section" "$ETC/neutron/neutron.conf" "$1"
  done
  printf '[AGENT]\nroot_helper =\n'
}

# What a metadata agent is told.
metadata_agent_conf() {
  cat <<END
[DEFAULT]
nova_metadata_host = $METADATA_HOST
nova_metadata_port = $METADATA_PORT
metadata_proxy_shared_secret = $METADATA_SECRET
metadata_workers = 0
END
}
