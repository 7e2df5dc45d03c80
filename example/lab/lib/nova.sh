# shellcheck shell=bash disable=SC2153
# Nova: servers. Compute API http://127.0.0.1:8774/v2.1, metadata API http://127.0.0.1:8775
# The hypervisor is Nova's own fake driver, a little extended in lib/driver: it keeps servers in memory and boots nothing.

nova_config() {
  service_dirs nova
  mkdir -p "$DATA/nova/instances"
  [ -e "$ETC/nova/vendordata.json" ] || echo '{"lab": "static vendor data"}' >"$ETC/nova/vendordata.json"
  {
    cat <<END
[DEFAULT]
use_stderr = true
host = lab
my_ip = 127.0.0.1
state_path = $DATA/nova
instances_path = $DATA/nova/instances
transport_url = rabbit://guest:guest@127.0.0.1:5672/
compute_driver = lab.Driver
# One host is enough to resize and to migrate.
allow_resize_to_same_host = true
enabled_apis = osapi_compute,metadata
osapi_compute_listen = 127.0.0.1
osapi_compute_workers = 1
metadata_listen = 127.0.0.1
metadata_workers = 1
# The fake driver plugs no interface, so Neutron has nothing to report at boot.
vif_plugging_is_fatal = false
vif_plugging_timeout = 0
update_resources_interval = 10

[wsgi]
api_paste_config = $NOVA_PASTE

[conductor]
workers = 1
[scheduler]
workers = 1
discover_hosts_in_cells_interval = 5

[api]
auth_strategy = keystone
vendordata_providers = StaticJSON,DynamicJSON
vendordata_jsonfile_path = $ETC/nova/vendordata.json
vendordata_dynamic_targets = $VENDORDATA_TARGET
vendordata_dynamic_connect_timeout = $VENDORDATA_TIMEOUT
vendordata_dynamic_read_timeout = $VENDORDATA_TIMEOUT
vendordata_dynamic_failure_fatal = $VENDORDATA_FATAL
metadata_cache_expiration = $METADATA_CACHE

[vendordata_dynamic_auth]
$(service_login nova-vendordata)

[placement]
$(service_login placement)

[glance]
api_servers = http://127.0.0.1:9292

[neutron]
$(service_login neutron)
service_metadata_proxy = true
metadata_proxy_shared_secret = $METADATA_SECRET

[service_user]
send_service_user_token = true
$(service_login nova)

END
    common_conf nova compute
    cat <<END
enforce_scope = $NOVA_NEW_POLICY
enforce_new_defaults = $NOVA_NEW_POLICY
END
  } >"$ETC/nova/nova.conf"
  # The least that lets a service account look up any project's server, by GET /servers/detail?all_tenants=1&uuid=ID.
  # Nova reads the file again when it changes; it must not be removed.
  [ -e "$ETC/nova/policy.yaml" ] || cp "$HERE/../openstack/policy.yaml" "$ETC/nova/policy.yaml"
  cat >"$ETC/nova/nova-db.conf" <<END # not for nova-compute, which reaches the database through the conductor
[api_database]
connection = $(db_url nova_api)
[database]
connection = $(db_url nova)
END
}

nova_init() {
  local conf=(--config-file "$ETC/nova/nova.conf" --config-file "$ETC/nova/nova-db.conf")
  nova-manage "${conf[@]}" api_db sync &&
    nova-manage "${conf[@]}" cell_v2 map_cell0 --database_connection "$(db_url nova_cell0)" &&
    nova-manage "${conf[@]}" db sync &&
    nova-manage "${conf[@]}" cell_v2 create_cell --name cell1
}

nova_start() { # everything but nova-compute
  local conf=(--config-file "$ETC/nova/nova.conf" --config-file "$ETC/nova/nova-db.conf")
  start_py nova-conductor nova.cmd.conductor main "${conf[@]}"
  nova_api_start "${conf[@]}"
  start_py nova-scheduler nova.cmd.scheduler main "${conf[@]}"
}

# Starts by asking the conductor and Placement, so it comes after them and after the catalog.
nova_compute_start() { start nova-compute "$PYTHON" "$HERE/lib/nova-compute.py" --config-file "$ETC/nova/nova.conf"; }

nova_ready() {
  wait_for 60 nova-api http_ok http://127.0.0.1:8774/
  wait_for 60 nova-api-metadata http_ok http://127.0.0.1:8775/
}
