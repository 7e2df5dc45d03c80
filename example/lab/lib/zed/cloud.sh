# shellcheck shell=bash disable=SC2034,SC2016,SC2153
# OpenStack Zed of 2022, from Debian 12's packages, with Neutron's Linux bridge, L3 and metadata agents. The services listen on
# the machine's loopback.

# The libraries (python3-nova, ...) rather than the daemons' packages: those pull in libvirt and QEMU and try to configure
# and start services.
PACKAGES="python3-keystone python3-nova nova-common python3-neutron neutron-common
python3-glance glance-common python3-placement python3-openstackclient
mariadb-server-core mariadb-client-core rabbitmq-server uwsgi-plugin-python3
haproxy radvd iputils-arping iputils-ping iptables ebtables bridge-utils conntrack ipset iproute2 kmod procps curl jq openssl
systemd ca-certificates"

NETNS=oslab # the "network node": bridges, routers and their agents live in it
SERVICES_NETNS= # the services live in the machine's
PYTHON=/usr/bin/python3
NOVA_PASTE=/usr/share/nova-common/api-paste.ini
NEUTRON_PASTE=/usr/share/neutron-common/api-paste.ini
GLANCE_PASTE=/usr/share/glance-common/glance-api-paste.ini
NEUTRON_ROUTER=router
KEYSTONE_PROCESSES=2 # of one thread each
AGENTS="neutron-linuxbridge-agent neutron-l3-agent neutron-metadata-agent" # as Neutron calls them when they are alive
DEMO_DHCP=no    # there is no DHCP agent
NEW_POLICY=false # Nova's default
SERVICES="federation linuxbridge-agent l3-agent metadata-agent nova-compute nova-api nova-scheduler nova-conductor neutron-server
glance-api placement keystone"
PORTS="mariadb:3306 rabbitmq:5672 keystone:5000 placement:8778 nova-api:8774 nova-api:8775 neutron-server:9696 glance-api:9292"

cloud_install() { ln -sfn /usr/bin/openstack "$STATE/bin/openstack"; }

wsgi_app() {
  case $1 in
    keystone) echo "wsgi-file = /usr/bin/keystone-wsgi-public" ;;
    placement) echo "wsgi-file = /usr/bin/placement-api" ;;
  esac
}
nova_api_start() { start_py nova-api nova.cmd.api main "$@"; } # the metadata API as well
neutron_start() { start neutron-server neutron-server --config-file "$ETC/neutron/neutron.conf"; }
glance_start() { start_py glance-api glance.cmd.api main --config-file "$ETC/glance/glance-api.conf"; }
