"""A metadata agent of Neutron, with its haproxy in front of it and a table of ports behind it.

    agent.py ovn|plain NEUTRON.CONF SITE.JSON

The agent's own main() runs. Three things are replaced: the southbound database (ovn) or neutron-server's RPC (plain), which
say whose address a request came from, by the table of SITE.JSON; the agent's report of its state; and the event upon which
an agent starts a haproxy. Neutron's own code writes the configuration of haproxy and starts it.
"""
import importlib
import importlib.metadata
import json
import sys
from types import SimpleNamespace

kind, config, site = sys.argv[1:4]
with open(site) as f:
    SITE = json.load(f)  # see site_test.go

NAME = {"ovn": "neutron-ovn-metadata-agent", "plain": "neutron-metadata-agent"}[kind]
[ENTRY] = importlib.metadata.entry_points(group="console_scripts", name=NAME)
command = importlib.import_module(ENTRY.module)  # first of all: it chooses eventlet or threads

from oslo_config import cfg  # noqa: E402
from oslo_privsep import priv_context  # noqa: E402

from neutron import privileged  # noqa: E402
from neutron.agent.linux import external_process, ip_lib  # noqa: E402
from neutron.conf.agent import common as agent_conf  # noqa: E402
from neutron.conf.agent.metadata import config as meta  # noqa: E402

# We are root already, so what needs root runs in this process.
for context in vars(privileged).values():
    if isinstance(context, priv_context.PrivContext):
        context.set_client_mode(False)
# The addresses have no duplicate address detection. To wait for it needs privsep's own process where eventlet is.
ip_lib.IpAddrCommand.wait_until_address_ready = lambda *_, **__: None


def start_haproxy(driver, monitor, **way):
    """Starts a haproxy in the namespace, as the OVN agent, the DHCP agent and the L3 agent do."""
    for options, group in (("METADATA_RATE_LIMITING_OPTS", "metadata_rate_limiting"), ("METADATA_HAPROXY_OPTS", "metadata_haproxy")):
        if hasattr(meta, options):  # the plain agent does not register them itself
            cfg.CONF.register_opts(getattr(meta, options), group=group)
    driver.MetadataDriver.spawn_monitored_metadata_proxy(monitor, SITE["namespace"], conf=cfg.CONF, **way)


def on_network():
    """What the OVN agent and the DHCP agent say about a network."""
    way = {"port": 80, "bind_address": "169.254.169.254", "network_id": SITE["network"]}
    if SITE["interface"]:  # it has fe80::a9fe:a9fe
        way |= {"bind_address_v6": "fe80::a9fe:a9fe", "bind_interface": SITE["interface"]}
    return way


class Southbound:
    """As much of the southbound database as Neutron's own look-up of a port reads."""

    def db_list_rows(self, table):
        assert table == "Port_Binding", table
        rows = [SimpleNamespace(
            uuid=p["id"], chassis=["here"], mac=[" ".join([p["mac"], *p["addresses"]])],
            datapath=SimpleNamespace(external_ids={"name": "neutron-" + p["network"]}),
            external_ids={"neutron:device_id": p["device"], "neutron:project_id": p["project"]},
        ) for p in SITE["ports"]]
        return SimpleNamespace(execute=lambda check_error: rows)

    def get_network_port_bindings_by_ip(self, *args, **kwargs):
        from neutron.plugins.ml2.drivers.ovn.mech_driver.ovsdb import impl_idl_ovn
        return impl_idl_ovn.OvsdbSbOvnIdl.get_network_port_bindings_by_ip(self, *args, **kwargs)


class Server:
    """neutron-server as the plain agent asks it. An unknown filter is an error."""

    def __init__(self, topic):
        pass

    def get_ports(self, context, filters):
        table = [{
            "id": p["id"], "device_id": p["device"], "device_owner": p["owner"], "tenant_id": p["project"], "project_id": p["project"],
            "network_id": p["network"], "mac_address": p["mac"], "fixed_ips": [{"ip_address": a} for a in p["addresses"]],
        } for p in SITE["ports"]]
        for name, wanted in filters.items():
            if name == "fixed_ips":
                table = [p for p in table if any(f["ip_address"] in wanted["ip_address"] for f in p["fixed_ips"])]
            else:
                table = [p for p in table if p[name] in wanted]
        return table


def ovn():
    from neutron.agent.ovn.metadata import agent, driver

    def start(self):
        self._proxy = agent.metadata_server.UnixDomainMetadataProxy(self.conf, "here", sb_idl=Southbound())
        self._proxy.run()
        start_haproxy(driver, self._process_monitor, **on_network())
        self._proxy.wait()

    agent.MetadataAgent.start = start


def plain():
    from neutron.agent.metadata import agent, driver

    def start(self):
        agent_conf.register_external_process_opts()
        monitor = external_process.ProcessMonitor(config=cfg.CONF, resource_type="metadata")
        start_haproxy(driver, monitor, **on_network())
        # A router's haproxy has another port, to which the router redirects port 80.
        start_haproxy(driver, monitor, port=9697, bind_address="::" if SITE["interface"] else "0.0.0.0", router_id=SITE["router"])

    agent.MetadataPluginAPI = Server
    agent.UnixDomainMetadataProxy._init_state_reporting = start


{"ovn": ovn, "plain": plain}[kind]()
sys.argv = [NAME, "--config-file", config]
getattr(command, ENTRY.attr)()
