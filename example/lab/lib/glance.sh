# shellcheck shell=bash disable=SC2034,SC2016,SC2153
# Glance: images. http://127.0.0.1:9292

glance_config() {
  service_dirs glance
  mkdir -p "$DATA/glance/images"
  {
    cat <<END
[DEFAULT]
use_stderr = true
bind_host = 127.0.0.1
bind_port = 9292
workers = 0
enabled_backends = files:file
[glance_store]
default_backend = files
[files]
filesystem_store_datadir = $DATA/glance/images
[os_glance_staging_store]
filesystem_store_datadir = $DATA/glance/staging
[os_glance_tasks_store]
filesystem_store_datadir = $DATA/glance/tasks
[database]
connection = $(db_url glance)
[paste_deploy]
flavor = keystone
config_file = $GLANCE_PASTE

END
    common_conf glance image
  } >"$ETC/glance/glance-api.conf"
}

glance_init() { glance-manage --config-file "$ETC/glance/glance-api.conf" db_sync; }

glance_ready() { wait_for 60 glance http_ok http://127.0.0.1:9292/; }
